"""Paths: ends, rates against automatic differentiation, and the way back from (x_t, v_t) to (x, z)."""

import math
from functools import partial

import pytest
import torch

from genobj.parts import PATHS
from genobj.paths.base import Path
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.paths.random import Random
from genobj.paths.trig import Trig
from genobj.paths.vp import NEAREST, VP
from genobj.types import over

NAMES = PATHS.names()
EXACT = [name for name in NAMES if name not in ("edm", "random")]
INNER = torch.linspace(0.001, 0.999, 331, dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
def test_a_path_runs_from_data_to_noise(name):
    path, ends = PATHS.get(name)(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(path.noise_scale(ends), torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(path.data_scale(ends), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_the_edm_path_ends_where_edm_does():
    path, ends = EDM(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    sigma = path.noise_scale(ends) / path.data_scale(ends)
    torch.testing.assert_close(sigma, torch.tensor([0.00173, 78.26], dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close(path.data_scale(ends)[0].item(), 2.0, rtol=1e-4, atol=0)
    assert path.noise_scale(ends)[1] > 0.9999


def test_the_edm_rates_are_those_of_ucgm():
    """OBJECTIVES A4: alpha' = 2.68 s / q^3, gamma' = -10.72 s^2 / q^3 for sigma_data = 1/2."""
    s = torch.exp(4 * (2.68 * INNER - 1.59))
    q = (s**2 + 0.25).sqrt()
    torch.testing.assert_close(EDM().noise_rate(INNER), 2.68 * s / q**3)
    torch.testing.assert_close(EDM().data_rate(INNER), -10.72 * s**2 / q**3)


CURVES = [
    *(PATHS.get(name)() for name in NAMES),
    VP(offset=0.0),
    EDM(sigma_data=1.0),
    Trig(quarter=1.57),
    Linear(noise_std=0.5, sigma_min=0.1),
]


@pytest.mark.parametrize("path", CURVES, ids=repr)
@pytest.mark.parametrize("which", ["noise", "data"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # inside torch's own forward mode
def test_rates_are_derivatives(path, which):
    scale, rate = getattr(path, f"{which}_scale"), getattr(path, f"{which}_rate")
    _, derivative = torch.func.jvp(scale, (INNER,), (torch.ones_like(INNER),))
    torch.testing.assert_close(rate(INNER), derivative, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", CURVES, ids=repr)
def test_a_time_is_found_by_its_noise_level(path):
    level = path.noise_scale(INNER) / path.data_scale(INNER)
    for at_level in (path.at_level, partial(Path.at_level, path)):  # in closed form, where there is one, and by search
        found = torch.tensor([at_level(sigma) for sigma in level[::10].tolist()], dtype=torch.float64)
        torch.testing.assert_close(found, INNER[::10], rtol=1e-10, atol=1e-12)
        assert 0 <= at_level(1e-12) < 1e-10
        assert 1 - 1e-10 < at_level(1e12) <= 1


def test_pure_noise_has_the_size_of_the_path():
    for path in CURVES:
        size = path.noise_scale(torch.ones(1, dtype=torch.float64)).item()
        assert path.noise_size == pytest.approx(size, rel=1e-4)
    assert Linear(noise_std=0.5).noise_size == 0.5


@pytest.mark.parametrize("name", ["trig", "vp"])
def test_variance_is_preserved(name):
    path, t = PATHS.get(name)(), torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(path.noise_scale(t) ** 2 + path.data_scale(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_data_and_noise_come_back_from_state_and_velocity(name, shape):
    path, t = PATHS.get(name)(), torch.linspace(0.02, 0.98, 16, dtype=torch.float64)
    x, z = torch.randn(2, 16, *shape, dtype=torch.float64)
    x_t, v_t = path.point(x, z, t), path.velocity(x, z, t)
    noise, data, d_noise, d_data = path.noise_scale(t), path.data_scale(t), path.noise_rate(t), path.data_rate(t)
    across = over(noise * d_data - data * d_noise, x)
    torch.testing.assert_close((over(d_data, x) * x_t - over(data, x) * v_t) / across, z)
    torch.testing.assert_close((over(noise, x) * v_t - over(d_noise, x) * x_t) / across, x)


def test_the_cosine_schedule_is_that_of_the_paper():
    """Nichol and Dhariwal, Eq. (17), as a ratio of cosines; the product of sines is the same number."""
    s, t = 0.008, torch.linspace(0, 1, 51, dtype=torch.float64)
    alpha_bar = (((t + s) / (1 + s) * torch.pi / 2).cos() / math.cos(s / (1 + s) * math.pi / 2)) ** 2
    torch.testing.assert_close(VP().data_scale(t) ** 2, alpha_bar, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(VP().noise_scale(t) ** 2, 1 - alpha_bar, rtol=1e-6, atol=1e-12)


def test_the_infinite_rate_of_vp_is_frozen_near_data():
    near = torch.tensor([0.0, NEAREST / 2, NEAREST], dtype=torch.float64)
    rate = VP().noise_rate(near)
    assert (rate == rate[-1]).all()
    assert 25 < rate[0] < 40
    torch.testing.assert_close(VP(offset=0.0).noise_rate(near), torch.full_like(near, torch.pi / 2))


def test_no_offset_makes_vp_the_circle():
    for method in ("noise_scale", "data_scale", "noise_rate", "data_rate"):
        ours, circle = getattr(VP(offset=0.0), method)(INNER), getattr(PATHS.get("trig")(), method)(INNER)
        torch.testing.assert_close(ours, circle)


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_finite_at_both_ends(name):
    path, ends = PATHS.get(name)(), torch.tensor([0.0, 1e-8, 1.0])
    for method in (path.noise_scale, path.data_scale, path.noise_rate, path.data_rate):
        value = method(ends)
        assert value.dtype == torch.float32
        assert value.isfinite().all()


S = torch.exp(4 * (2.68 * INNER - 1.59))
Q = (S**2 + 0.25).sqrt()
SIN, COS, ONE = (1.57 * INNER).sin(), (1.57 * INNER).cos(), torch.ones_like(INNER)
UCGM = {  # OBJECTIVES A4: alpha, gamma, alpha_hat, gamma_hat, and v of (F, x_hat, z_hat)
    "linear": (Linear(), INNER, 1 - INNER, ONE, -ONE, lambda f, x, z: f),
    "trigflow": (Trig(quarter=1.57), SIN, COS, COS, -SIN, lambda f, x, z: 1.57 * f),
    "triglinear": (
        Trig(quarter=1.57, target="difference"),
        SIN,
        COS,
        ONE,
        -ONE,
        lambda f, x, z: 1.57 * (COS * z - SIN * x),
    ),
    "edm": (EDM(), S / Q, 1 / Q, -0.5 / Q, 2 * S / Q, lambda f, x, z: (2.68 * S * z - 10.72 * S**2 * x) / Q**3),
    "random": (Random(), SIN, 1 - INNER, ONE, -1 - (-5 * INNER).exp(), lambda f, x, z: 1.57 * COS * z - x),
}


@pytest.mark.parametrize("name", UCGM)
def test_what_networks_of_ucgm_say(name):
    """F from (x, z), and from F and x_t the way back to x, z and the velocity."""
    path, noise, data, of_noise, of_data, velocity = UCGM[name]
    x, z = torch.randn(2, len(INNER), dtype=torch.float64)
    x_t, answer = path.point(x, z, INNER), path.noise_target(INNER) * z + path.data_target(INNER) * x
    torch.testing.assert_close(x_t, noise * z + data * x)
    torch.testing.assert_close(answer, of_noise * z + of_data * x)
    across = noise * of_data - data * of_noise
    x_hat, z_hat = (noise * answer - of_noise * x_t) / across, (of_data * x_t - data * answer) / across
    torch.testing.assert_close(x_hat, x)
    torch.testing.assert_close(z_hat, z)
    torch.testing.assert_close(path.velocity(x, z, INNER), velocity(answer, x_hat, z_hat))


def test_the_target_of_edm_is_that_of_its_preconditioning():
    """Karras et al., Table 1: F = (x - c_skip y) / c_out with y = x + sigma z, for any sigma_data."""
    path, deviation = EDM(sigma_data=0.8), 0.8
    x, z = torch.randn(2, len(INNER), dtype=torch.float64)
    skip, out = deviation**2 / (S**2 + deviation**2), S * deviation / (S**2 + deviation**2).sqrt()
    target = path.noise_target(INNER) * z + path.data_target(INNER) * x
    torch.testing.assert_close(target, (x - skip * (x + S * z)) / out)


def test_where_no_more_is_known_networks_of_ucgm_say_the_velocity():
    for path in (VP(), Linear(noise_std=0.5)):
        assert torch.equal(path.noise_target(INNER), path.noise_rate(INNER))
        assert torch.equal(path.data_target(INNER), path.data_rate(INNER))


def test_random_ends_where_sin_of_1_57_does():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Random().noise_scale(ends), torch.tensor([0.0, math.sin(1.57)], dtype=torch.float64))
    assert Random().data_scale(ends).tolist() == [1.0, 0.0]


def test_noise_of_another_scale_is_the_plain_path_with_noise_of_that_scale():
    x, z = torch.randn(2, len(INNER), 3, dtype=torch.float64)
    for plain, scaled in (
        (Linear(), Linear(noise_std=0.5)),
        (Linear(sigma_min=0.1), Linear(sigma_min=0.1, noise_std=0.5)),
    ):
        assert torch.equal(scaled.point(x, z, INNER), plain.point(x, 0.5 * z, INNER))
        assert torch.equal(scaled.velocity(x, z, INNER), plain.velocity(x, 0.5 * z, INNER))


@pytest.mark.parametrize("path", [Linear(), Trig()])
def test_settings_that_are_unset_leave_the_hash_of_a_run_alone(path):
    assert not {"noise_std", "quarter", "target"} & path.model_dump(mode="json", exclude_none=True).keys()
