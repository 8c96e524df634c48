"""Paths: ends, rates against automatic differentiation, and the way back from (x_t, v_t) to (x, z)."""

import math

import pytest
import torch

from genobj.parts import PATHS
from genobj.paths.edm import EDM
from genobj.paths.vp import NEAREST, VP
from genobj.types import over

NAMES = PATHS.names()
EXACT = [name for name in NAMES if name != "edm"]
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


@pytest.mark.parametrize(
    "path", [*(PATHS.get(name)() for name in NAMES), VP(offset=0.0), EDM(sigma_data=1.0)], ids=repr
)
@pytest.mark.parametrize("which", ["noise", "data"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # inside torch's own forward mode
def test_rates_are_derivatives(path, which):
    scale, rate = getattr(path, f"{which}_scale"), getattr(path, f"{which}_rate")
    _, derivative = torch.func.jvp(scale, (INNER,), (torch.ones_like(INNER),))
    torch.testing.assert_close(rate(INNER), derivative, rtol=1e-10, atol=1e-12)


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
