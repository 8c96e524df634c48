"""Samplers on networks whose answer is known: Gaussian data, straight couplings, guidance that is linear in w."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobj.cli.resolve import resolve
from genobj.config.base import find
from genobj.parts import GRIDS, PATHS, SAMPLERS
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.paths.trig import Trig
from genobj.paths.vp import VP
from genobj.registry import UnknownName
from genobj.samplers.auto import choose
from genobj.samplers.edm import EDMHeun
from genobj.samplers.euler import Euler
from genobj.samplers.flow_map import FlowMap
from genobj.samplers.grids import Karras, Kumaraswamy, Levels, Listed, Shifted, Uniform
from genobj.samplers.heun import Heun
from genobj.samplers.midpoint import Midpoint
from genobj.samplers.ode import Ode
from genobj.samplers.presets import TABLE, nfe_of
from genobj.samplers.restart import Restart
from genobj.samplers.unified import Unified
from genobj.testing import GaussianFlow
from genobj.types import over

S = 0.3  # data x ~ N(0, S^2), noise z ~ N(0, 1)
CURVES = {name: PATHS.get(name)() for name in PATHS.names()} | {
    "half": Linear(noise_std=0.5),
    "quarter": Trig(quarter=1.57),
}
"""All paths; half has noise of another size, quarter does not end at pure noise."""
ALL = {"v": "instant", "u": "data", "w": "interval"}


class Exact:
    """Solution of the probability-flow ODE of Gaussian data: x_t = x_1 s(t) / s(1), s^2 = noise^2 + data^2 S^2."""

    def __init__(self, path=None, horizons=None):
        self.path, self.horizons, self.rows = path or Linear(), horizons or ALL, []

    def scale(self, t):
        return (self.path.noise_scale(t) ** 2 + self.path.data_scale(t) ** 2 * S**2).sqrt()

    def rate(self, t):
        """ds/dt; on the vp path noise_rate is frozen near 0, so noise noise' = -data data' is used there."""
        data = self.path.data_scale(t) * self.path.data_rate(t)
        noise = -data if isinstance(self.path, VP) else self.path.noise_scale(t) * self.path.noise_rate(t)
        return (noise + data * S**2) / self.scale(t)

    def __call__(self, x_t, t, *, r=None, y=None):
        self.rows.append(len(x_t))
        v = over(self.rate(t) / self.scale(t), x_t) * x_t

        def average(r):
            gap = torch.where(t == r, 1.0, t - r)
            return torch.where(over(t == r, x_t), v, over((1 - self.scale(r) / self.scale(t)) / gap, x_t) * x_t)

        answers = {"instant": lambda: v, "data": lambda: average(torch.zeros_like(t)), "interval": lambda: average(r)}
        return {head: answers[horizon]() for head, horizon in self.horizons.items()}

    def samples(self, z):
        zero, one = torch.zeros(1, dtype=z.dtype), torch.ones(1, dtype=z.dtype)
        factor = self.scale(zero) / self.scale(one) * self.path.noise_scale(one) / self.path.data_scale(zero)
        return factor * z


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_data_and_noise_come_back_from_a_point_and_its_velocity(name, shape):
    path, t = CURVES[name], torch.linspace(0.02, 0.98, 16, dtype=torch.float64)
    x, z = noise(2, 16, *shape)
    found = path.ends(path.point(x, z, t), path.velocity(x, z, t), t)
    torch.testing.assert_close(found, (x, z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_a_straight_line_are_found_without_rounding_in_between(dtype):
    x_t, v = torch.randn(2, 1000, 3, dtype=dtype)
    t = torch.cat([torch.rand(996, dtype=dtype), torch.tensor([0.0, 1e-9, 1e-4, 1.0], dtype=dtype)])
    x_hat, z_hat = Linear().ends(x_t, v, t)
    assert torch.equal(x_hat, x_t - over(t, v) * v)
    assert torch.equal(z_hat, x_t + over(1 - t, v) * v)


def test_ends_with_noise_that_is_left_and_with_a_velocity_that_fades():
    x, z = noise(2, 8, 3)
    t = torch.linspace(0, 1, 8, dtype=torch.float64)
    path = Linear(sigma_min=0.1)
    torch.testing.assert_close(path.ends(path.point(x, z, t), path.velocity(x, z, t), t), (x, z))
    faded = Linear(damped_below=0.5)
    x_t = faded.point(x, z, t)
    x_hat, z_hat = faded.ends(x_t, faded.velocity(x, z, t), t)
    torch.testing.assert_close(faded.point(x_hat, z_hat, t), x_t)
    assert not torch.allclose(x_hat[1], x[1])


@pytest.mark.parametrize("path", CURVES)
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_a_velocity_sampler_converges_with_its_order(name, order, path):
    if name == "midpoint" and path in ("linear", "half"):
        order = 3  # s^2 is quadratic in t there, and the leading error of the midpoint method vanishes
    net, z, coarse = Exact(CURVES[path], {"v": "instant"}), noise(16, 2), 256 if path == "edm" else 32
    walks = [SAMPLERS.get(name)(steps=n)(net, z, path=net.path) for n in (coarse, 3 * coarse)]
    errors = [(walk.samples - net.samples(z)).abs().max().item() for walk in walks]
    assert abs(math.log(errors[0] / errors[1], 3) - order) < 0.15, errors


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint"])
def test_a_flow_map_at_r_equal_t_serves_as_a_velocity(name):
    z = noise(4, 2)
    velocity, flow_map = (SAMPLERS.get(name)(steps=6, head=head)(Exact(), z).samples for head in ("v", "w"))
    assert torch.equal(velocity, flow_map)


@pytest.mark.parametrize("path", CURVES)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("grid", ["uniform", "kumaraswamy", "shifted"])
def test_a_flow_map_is_exact_in_any_number_of_jumps(path, steps, grid):
    net, z = Exact(CURVES[path], {"w": "interval"}), noise(16, 2)
    walk = FlowMap.model_validate({"steps": steps, "grid": grid})(net, z, path=net.path)
    torch.testing.assert_close(walk.samples, net.samples(z))
    assert walk.nfe == steps


@pytest.mark.parametrize("sampler", [FlowMap(), Restart(), Restart(kappa=0.0, sigma_min=0.1)], ids=repr)
@pytest.mark.parametrize("horizon", ["data", "interval"])
def test_one_jump_makes_a_sample(sampler, horizon):
    net, z = Exact(horizons={"u": horizon}), noise(16, 2)
    walk = sampler(net, z)
    torch.testing.assert_close(walk.samples, S * z)
    assert walk.nfe == 1


class Coupled:
    """Data head of a coupling x = a z + c, whose paths never cross: both ends are known at every time."""

    horizons = {"u": "data"}  # noqa: RUF012

    def __init__(self, path, a=0.3, c=2.0):
        self.path, self.a, self.c = path, a, c

    def __call__(self, x_t, t, *, r=None, y=None):
        noise_t, data_t = self.path.noise_scale(t), self.path.data_scale(t)
        z = (x_t - over(data_t, x_t) * self.c) / over(noise_t + data_t * self.a, x_t)
        x_0 = self.path.data_scale(torch.zeros(1, dtype=t.dtype)) * (self.a * z + self.c)
        return {"u": (x_t - x_0) / over(t, x_t)}


@pytest.mark.parametrize("path", CURVES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_restart_without_fresh_noise_lands_exactly(path, steps):
    net, z = Coupled(CURVES[path]), noise(16, 3)
    walk = Restart(steps=steps, kappa=0.0)(net, z, path=net.path)
    # the walk starts at noise_scale(1) z, on two paths without the 1 % or 0.1 % of data that x_1 has
    loose = {"edm": 0.1, "quarter": 0.01}.get(path, 1e-12)
    torch.testing.assert_close(walk.samples, net.a * z + net.c, rtol=0, atol=loose)


def test_restart_puts_back_the_noise_of_its_step():
    """Linear path, two jumps: x_hat = x_1 - u; x_s = (1 - s) x_hat + s (sqrt(1 - kappa) z_hat + sqrt(kappa) eps)."""
    z, fresh, s, kappa = noise(8, 2), noise(2, 8, 2), 0.4, 0.3
    net = Exact(horizons={"u": "data"})
    sampler = Restart(steps=2, kappa=kappa, grid=Listed(points=(1.0, s)))
    walk = sampler(net, z, noise=lambda i: fresh[i])
    x_s = (1 - s) * S * z + s * (math.sqrt(1 - kappa) * z + math.sqrt(kappa) * fresh[0])
    torch.testing.assert_close(walk.trajectory[1], x_s)
    at = torch.tensor([s], dtype=z.dtype)
    torch.testing.assert_close(walk.samples, S * x_s / net.scale(at))


def test_restart_keeps_the_variance_of_sigma_min_out():
    z, fresh, s = torch.zeros(8, 2, dtype=torch.float64), noise(1, 8, 2), 0.4
    sampler = Restart(steps=2, sigma_min=0.2, grid=Listed(points=(1.0, s)))
    walk = sampler(Exact(horizons={"u": "data"}), z, noise=lambda i: fresh[i])
    expected = (1 - s) * math.sqrt((s / (1 - s)) ** 2 - 0.2**2) * fresh[0]
    torch.testing.assert_close(walk.trajectory[1], expected)


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [
        (Euler(steps=7), 7),
        (Heun(steps=4), 8),
        (Midpoint(steps=4), 8),
        (FlowMap(steps=3), 3),
        (Restart(steps=3), 3),
        (EDMHeun(steps=4), 7),
        (Unified(steps=3), 3),
        (Unified(steps=3, order=2, grid=Kumaraswamy(gaps=(0.01, 0.3))), 5),
        (Unified(steps=3, order=2, grid=Kumaraswamy(gaps=(0.01, 0.0))), 6),
    ],
    ids=repr,
)
def test_nfe_is_the_number_of_calls(sampler, nfe):
    net, z = Exact(), noise(5, 2)
    walk = sampler(net, z)
    assert walk.nfe == nfe == len(net.rows) == sampler.cost(sampler.steps)
    assert set(net.rows) == {5}
    longer = sampler.cost(2 * sampler.steps)
    assert sampler.with_nfe(longer) == sampler.model_copy(update={"steps": 2 * sampler.steps})
    assert walk.trajectory.shape == (sampler.steps + 1, 5, 2)
    torch.testing.assert_close(walk.trajectory[0], z, rtol=0, atol=0.1)
    assert torch.equal(walk.trajectory[-1], walk.samples)
    assert not walk.samples.requires_grad


def test_the_trajectory_need_not_be_kept():
    z = noise(5, 2)
    short, full = Euler(steps=6)(Exact(), z, keep=False), Euler(steps=6)(Exact(), z)
    assert torch.equal(short.samples, full.samples)
    assert short.trajectory.shape == (1, 5, 2)


class Guided:
    """u = y in every element: guidance gives null + w (y - null)."""

    horizons = ALL

    def __init__(self):
        self.rows, self.labels, self.times = [], [], []

    def __call__(self, x_t, t, *, r=None, y=None):
        self.rows.append(len(x_t))
        self.labels.append(y)
        self.times.append((t[0].item(), r[0].item()))
        return dict.fromkeys(ALL, y.to(x_t)[:, None].expand_as(x_t))


Y, NULL = torch.tensor([0, 1, 5]), 10


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint", "flow_map"])
@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_guidance_is_linear_in_w_and_doubles_the_batch(name, w):
    net, z = Guided(), noise(3, 2)
    walk = SAMPLERS.get(name)(steps=3, guidance=w)(net, z, Y, null=NULL)
    torch.testing.assert_close(walk.samples, z - (NULL + w * (Y.double() - NULL))[:, None])
    assert walk.nfe == len(net.rows) * (1 if w == 1 else 2)
    assert set(net.rows) == {3 if w == 1 else 6}
    if w != 1:
        assert all(torch.equal(y, torch.tensor([0, 1, 5, 10, 10, 10])) for y in net.labels)


def test_outside_the_interval_there_is_no_guidance_and_no_second_evaluation():
    """Steps start at 1, .8, .6, .4, .2; the closed interval [.4, .8] holds three of them."""
    net, z, w = Guided(), noise(3, 2), 3.0
    walk = Euler(steps=5, guidance=w, interval=(0.4, 0.8))(net, z, Y, null=NULL)
    assert net.rows == [3, 6, 6, 6, 3]
    assert walk.nfe == 8
    guided = NULL + w * (Y.double() - NULL)
    torch.testing.assert_close(walk.samples, z - (0.6 * guided + 0.4 * Y)[:, None])


def test_the_network_is_always_told_where_a_step_ends():
    asked = {}
    for sampler in (Heun(steps=2, head="w"), FlowMap(steps=2), Restart(steps=2, head="u")):
        net = Guided()
        sampler(net, noise(3, 2), Y)
        asked[type(sampler)] = net.times
    assert asked == {
        Heun: [(1, 1), (0.5, 0.5), (0.5, 0.5), (0, 0)],
        FlowMap: [(1, 0.5), (0.5, 0)],
        Restart: [(1, 0), (0.5, 0)],
    }


def test_times_and_states_are_at_least_float32():
    class Half(Exact):
        def __call__(self, x_t, t, *, r=None, y=None):
            assert t.dtype == r.dtype == torch.float32
            return {head: u.bfloat16() for head, u in super().__call__(x_t, t, r=r, y=y).items()}

    assert Euler(steps=2)(Half(), torch.randn(3, 2).bfloat16()).samples.dtype == torch.float32


def test_the_edm_path_ends_at_the_size_of_the_data():
    walk = FlowMap(steps=2)(Exact(EDM(), {"w": "interval"}), noise(4000, 1), path=EDM())
    assert walk.samples.std().item() == pytest.approx(S, rel=0.05)


@pytest.mark.parametrize(
    ("sampler", "horizons", "words"),
    [
        (
            FlowMap(steps=4),
            {"v": "instant", "u": "data"},
            "flow_map with 4 steps needs a head that jumps between times (horizon interval); "
            "this model has v (instant), u (data): use restart, or flow_map with steps=1",
        ),
        (
            FlowMap(steps=1),
            {"v": "instant"},
            "jumps to data (horizon data, ends or interval); this model has v (instant): use eul",
        ),
        (FlowMap(steps=4, head="u"), ALL, "it is told to follow u (data): use restart"),
        (Restart(steps=4), {"v": "instant"}, "use euler or heun"),
        (Euler(), {"u": "data"}, "needs a head that gives the velocity (horizon instant, ends or interval)"),
        (Euler(head="x"), {"v": "instant", "u": "data"}, "this model has no head 'x': choose from v, u"),
        (Heun(), {}, "this model has none: train one"),
    ],
    ids=str,
)
def test_a_refusal_says_what_is_missing_and_what_to_use(sampler, horizons, words):
    assert words in sampler.refusal(horizons)
    net = Exact(horizons=dict(horizons))
    net.horizons = dict(horizons)
    with pytest.raises(ValueError, match="head"):
        sampler(net, noise(2, 2))


@pytest.mark.parametrize(
    ("sampler", "horizons", "head"),
    [
        (Euler(), ALL, "v"),
        (Euler(), {"w": "interval", "v": "instant"}, "v"),
        (Heun(), {"u": "data", "w": "interval"}, "w"),
        (Restart(), ALL, "u"),
        (FlowMap(), ALL, "u"),
        (FlowMap(steps=2), ALL, "w"),
        (Restart(head="w"), ALL, "w"),
    ],
)
def test_the_head_made_for_the_question_answers_it(sampler, horizons, head):
    assert sampler.refusal(horizons) is None
    assert sampler._head(horizons) == head


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Heun().with_nfe(5), "type nfe=4 or nfe=6"),
        (lambda: Midpoint().with_nfe(1), "type nfe=2"),
        (lambda: Euler().with_nfe(0), "type nfe=1"),
        (
            lambda: EDMHeun().with_nfe(4),
            "2 evaluations a step but 1 in the last, not nfe=4 in all: type nfe=3 or nfe=5",
        ),
        (lambda: Unified(order=2, grid=Kumaraswamy(gaps=(0.1, 0.1))).with_nfe(8), "type nfe=7 or nfe=9"),
        (lambda: Ode().with_nfe(8), "cannot be told nfe=8: type rtol and atol, or a sampler such as heun"),
        (lambda: FlowMap(steps=2, grid=Levels()).with_nfe(6), "type steps=4 or steps=8"),
        (lambda: Unified(order=2, style="any"), "type order=1 or style=mul"),
        (lambda: Unified(order=2, grid=Uniform()), r"type grid.gaps=\[0.001,0.001\]"),
        (lambda: Kumaraswamy(gaps=(0.5, 0.5)), "leave room"),
        (lambda: EDMHeun(grid=Uniform())(Exact(), noise(2, 2)), "infinite at t = 1, .* type grid=karras"),
        (lambda: FlowMap(steps=2)(Exact(horizons={"f": "fake"}), noise(2, 2)), "this model has f .fake."),
        (lambda: Euler(steps=3, grid=Listed(points=(1.0, 0.5))), "type steps=2"),
        (
            lambda: FlowMap(steps=2, grid=Listed(points=(1.0, 0.5))).with_nfe(4),
            r"type steps=2 \(as it stands, flow_map takes nfe=2\)",
        ),
        (lambda: Euler(interval=(0.8, 0.2)), "low <= high"),
        (lambda: Listed(points=(0.5, 1.0)), "must decrease"),
        (lambda: Listed(points=(1.5, 1.0)), "must decrease"),
        (lambda: Listed(points=()), "must decrease"),
        (lambda: Listed(points=(0.0,)), "must decrease"),
        (lambda: Listed(points=(1.0, -0.5)), "must decrease"),
        (lambda: Listed(sigmas=(0.5, 80.0)), r"sigmas must decrease towards 0, got \[0.5, 80.0\]"),
        (lambda: Listed(sigmas=(80.0, -1.0)), "sigmas must decrease"),
        (lambda: Listed(sigmas=(0.0,)), "sigmas must decrease"),
        (lambda: Listed(sigmas=(80.0, 0.8), points=(0.9, 0.4)), "type one of the two"),
        (lambda: Restart(steps=3, grid=Listed(sigmas=(80.0, 0.8))), "type steps=2"),
        (lambda: Karras(sigma_min=1.0, sigma_max=0.5), "must be below"),
        (lambda: Euler(guidance=2.0)(Exact(), noise(2, 2)), "no labels: set guidance=1"),
        (lambda: Euler(guidance=2.0)(Exact(), noise(2, 2), null=10), "labels y: set guidance=1"),
        (lambda: choose({}, 4), "train one"),
        (lambda: choose(ALL, 0), "type nfe=1"),
    ],
)
def test_mistakes_say_what_to_type(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("horizons", "nfe", "sampler"),
    [
        (ALL, 1, Restart(steps=1)),
        (ALL, 32, Heun(steps=16)),
        ({"v": "instant", "w": "interval"}, 4, FlowMap(steps=4)),
        ({"w": "interval"}, 32, FlowMap(steps=32)),
        ({"v": "instant", "u": "data"}, 1, Restart(steps=1)),
        ({"v": "instant", "u": "data"}, 15, Restart(steps=15)),
        ({"v": "instant", "u": "data"}, 16, Heun(steps=8)),
        ({"v": "instant", "u": "data"}, 17, Euler(steps=17)),
        ({"u": "data"}, 50, Restart(steps=50)),
        ({"v": "instant"}, 4, Euler(steps=4)),
        ({"v": "instant"}, 100, Heun(steps=50)),
    ],
)
def test_the_sampler_that_is_chosen_costs_what_was_asked(horizons, nfe, sampler):
    assert choose(horizons, nfe) == sampler
    assert sampler.refusal(horizons) is None
    assert sampler(Exact(horizons=horizons), noise(2, 2)).nfe == nfe


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (Unified(style="mul", kappa=0.0, grid=Kumaraswamy(a=1, b=1, c=1, gaps=(0.2, 0))), 1),
        (Unified(style="mul", kappa=0.0, order=2, grid=Kumaraswamy(a=1, b=1, c=1, gaps=(0.2, 0))), 2),
        (EDMHeun(), 2),
    ],
    ids=["unified", "unified of order 2", "edm"],
)
def test_samplers_of_data_and_noise_converge_with_their_order(sampler, order):
    """Unified walks start at pure noise whatever the first time, those of edm at sigma_max."""
    net, z, steps = Exact(horizons={"v": "instant"}), noise(16, 2), (64, 192)
    t = torch.tensor([sampler.grid.times(64)[0]], dtype=z.dtype)
    start = 1.0 if isinstance(sampler, Unified) else t
    exact = S * z * start / net.scale(t)
    walks = [type(sampler).model_validate(dict(sampler) | {"steps": n})(net, z) for n in steps]
    errors = [(walk.samples - exact).abs().max().item() for walk in walks]
    assert abs(math.log(errors[0] / errors[1], 3) - order) < 0.15, errors


@pytest.mark.parametrize("path", CURVES)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_unified_sampler_is_exact_where_its_answers_are(path, steps):
    """Flow maps without fresh noise: any number of steps; jumps to data: one."""
    net, z, at = Exact(CURVES[path]), noise(16, 2), torch.tensor([0.9, 0.0], dtype=torch.float64)
    grid = Kumaraswamy(a=1, b=1, c=1, gaps=(0.1, 0.3))
    start = z * (0.5 if path == "half" else 1)
    exact = start * net.scale(at[1:]) / net.scale(at[:1]) / net.path.data_scale(at[1:])
    jumps = Unified(style="any", kappa=0.0, steps=steps, grid=grid)(net, z, path=net.path)
    torch.testing.assert_close(jumps.samples, exact)
    first = Unified(steps=1, grid=grid, head="w" if steps > 1 else None)(net, z, path=net.path)
    torch.testing.assert_close(first.samples, exact)


@pytest.mark.parametrize("path", CURVES)
def test_jumps_that_know_both_ends_land_exactly_without_fresh_noise(path):
    net, z = Coupled(CURVES[path]), noise(16, 3)
    walk = Unified(steps=5, kappa=0.0, grid=Uniform())(net, z, path=net.path)
    # walks start at z itself, which on three paths is not all of x_1
    loose = {"edm": 0.1, "quarter": 0.01, "random": 1e-5}.get(path, 1e-12)
    torch.testing.assert_close(walk.samples, net.a * z + net.c, rtol=0, atol=loose)


@pytest.mark.parametrize("style", ["few", "mul", "any"])
@pytest.mark.parametrize("kappa", [0.0, 0.6, "auto"])
def test_walks_from_noise_of_half_the_size_to_data_of_half_the_size_are_half(style, kappa):
    """noise_std = s and data s x are the plain path, all of it times s: start, fresh noise and share of noise."""
    z, fresh = noise(8, 2), noise(3, 8, 2)
    for order in (1, 2) if style != "any" else (1,):
        grid = Kumaraswamy(gaps=(0.1, 0.2))
        sampler = Unified(style=style, kappa=kappa, frozen=False, steps=3, extrapolation=0.3, order=order, grid=grid)
        plain = sampler(GaussianFlow(std=S), z, noise=fresh.__getitem__)
        half = sampler(GaussianFlow(CURVES["half"], S / 2), z, path=CURVES["half"], noise=fresh.__getitem__)
        torch.testing.assert_close(half.samples, plain.samples / 2)
        torch.testing.assert_close(half.trajectory, plain.trajectory / 2)


@pytest.mark.parametrize("path", CURVES)
@pytest.mark.parametrize("name", ["edm", "restart-ect-1", "restart-ect-2", "restart-ict-2"])
def test_a_walk_in_noise_levels_is_the_same_on_every_path(name, path):
    """In y = x_t / data_scale and sigma there is one flow; the edm path has sigma in [0.0017, 78] only."""
    cls, settings = find(SAMPLERS, name)
    sampler, z, fresh = cls.model_validate(settings), noise(16, 2), noise(2, 16, 2)
    line, here = (
        sampler(Exact(curve), z, path=curve, noise=fresh.__getitem__).samples for curve in (Linear(), CURVES[path])
    )
    loose = 2e-4 if path == "edm" else 1e-9
    torch.testing.assert_close(here, line, rtol=loose, atol=loose)
    if name == "edm":
        assert abs(here.std() / (S * z).std() - 1) < 0.07  # EDM's own error of 18 steps


@pytest.mark.parametrize("path", CURVES)
def test_grids_of_noise_levels_lie_where_the_path_has_them(path):
    def levels(times):
        t = torch.tensor(times[:-1], dtype=torch.float64)
        return (CURVES[path].noise_scale(t) / CURVES[path].data_scale(t)).tolist()

    highest = 78.26 if path == "edm" else 80
    assert levels(Karras().along(CURVES[path], 3)) == pytest.approx([highest, 2.515, 0.002], rel=1e-3)
    assert levels(Listed(sigmas=(5.0, 0.3)).along(CURVES[path], 2)) == pytest.approx([5, 0.3])
    assert Listed(points=(0.9, 0.3)).along(CURVES[path], 2) == [0.9, 0.3, 0]


def test_walks_of_moment_matching_start_where_its_training_ends():
    for recipe, high in (("imm-cifar10", 0.994), ("imm-in256-xl2", 0.994), ("imm-digits", 1.0), ("imm-moons", 1.0)):
        experiment, _ = resolve(recipe)
        for sampler in experiment.evaluation.samplers(experiment.horizons).values():
            assert isinstance(sampler, FlowMap)
            times = sampler.grid.times(sampler.steps)
            assert times == pytest.approx([high * (1 - i / sampler.steps) for i in range(sampler.steps + 1)], abs=1e-12)


def test_extrapolation_pays_where_the_velocity_changes_slowly():
    net, z = Exact(horizons={"v": "instant"}), noise(16, 2)
    exact, errors = S * z / net.scale(torch.tensor([0.8], dtype=z.dtype)), []
    for extrapolation in (0.0, 0.4):
        grid = Kumaraswamy(a=1, b=1, c=1, gaps=(0.2, 0.001))
        walk = Unified(style="mul", kappa=0.0, steps=20, extrapolation=extrapolation, grid=grid)(net, z)
        errors.append((walk.samples - exact).abs().max().item())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("frozen", [True, False])
def test_auto_puts_back_what_its_formula_says(frozen):
    """Linear path: kappa = |r - t| 2 t / r^2, of the first step or of each."""
    z, fresh = noise(8, 2), noise(3, 8, 2)
    times = (0.9, 0.8, 0.75)
    net = Exact(horizons={"u": "data"})
    sampler = Unified(steps=3, kappa="auto", frozen=frozen, grid=Listed(points=times))
    walk = sampler(net, z, noise=fresh.__getitem__)
    first, second = 0.1 * 2 * 0.9 / 0.8**2, 0.05 * 2 * 0.8 / 0.75**2
    x, scale = z, [net.scale(torch.tensor([t], dtype=z.dtype)) for t in times]
    for i, (t, r, kappa) in enumerate([(0.9, 0.8, first), (0.8, 0.75, first if frozen else second)]):
        x_hat = x * S / scale[i]
        x = (1 - r) * x_hat + r * (math.sqrt(1 - kappa) * (x - (1 - t) * x_hat) / t + math.sqrt(kappa) * fresh[i])
        torch.testing.assert_close(walk.trajectory[i + 1], x)


def test_unified_states_are_float64_and_the_network_is_asked_as_it_was_given():
    class Single(Exact):
        def __call__(self, x_t, t, *, r=None, y=None):
            assert x_t.dtype == t.dtype == r.dtype == torch.float32
            return super().__call__(x_t, t, r=r, y=y)

    z, net = torch.randn(16, 2), Single(horizons={"v": "instant"})
    sampler = Unified(style="mul", kappa=0.0, steps=50, order=2, grid=Kumaraswamy(gaps=(0.2, 0.001)))
    walk, double = sampler(net, z), sampler(Exact(horizons={"v": "instant"}), z.double())
    assert walk.samples.dtype == walk.trajectory.dtype == torch.float32
    torch.testing.assert_close(walk.samples.double(), double.samples, rtol=0, atol=2e-6)
    assert torch.equal(sampler(net, z, keep=False).samples, walk.samples)


METHODS = [("rk45", 1e-6), ("dop853", 1e-6), ("dopri5", 1e-6)]


@pytest.mark.parametrize(("method", "tolerance"), METHODS)
@pytest.mark.parametrize("path", ["linear", "trig", "edm"])
def test_the_adaptive_solver_meets_its_tolerance_between_the_ends(method, tolerance, path):
    class Inside(Exact):
        def __call__(self, x_t, t, *, r=None, y=None):
            assert (t >= 0).all()
            assert (t <= 1).all()
            return super().__call__(x_t, t, r=r, y=y)

    net, z = Inside(CURVES[path], {"v": "instant"}), noise(16, 2)
    sampler = Ode(method=method, rtol=tolerance, atol=tolerance)
    walk = sampler(net, z, path=net.path)
    torch.testing.assert_close(walk.samples, net.samples(z), rtol=0, atol=30 * tolerance)
    assert walk.nfe == len(net.rows) > 10
    assert Ode.model_validate(dict(sampler) | {"rtol": 1e-3, "atol": 1e-3})(net, z, path=net.path).nfe < walk.nfe


@pytest.mark.parametrize("method", ["rk45", "dop853", "dopri5"])
def test_each_tolerance_of_the_adaptive_solver_is_its_own(method):
    """Errors may reach atol + rtol |x|: it is cheaper where either is large."""
    net, z = Exact(horizons={"v": "instant"}), noise(16, 2)
    costs = [Ode(method=method, rtol=r, atol=a)(net, z).nfe for r, a in ((1e-8, 1e-8), (1e-8, 1e-2), (1e-2, 1e-8))]
    assert costs[0] > 2 * costs[1]
    assert costs[0] > 2 * costs[2]


def test_the_adaptive_solver_counts_guidance_twice_and_shows_its_way():
    net, z = Guided(), noise(3, 2)
    walk = Ode(guidance=2.0, steps=4)(net, z, Y, null=NULL)
    assert walk.nfe == 2 * len(net.rows)
    assert walk.trajectory.shape == (5, 3, 2)
    torch.testing.assert_close(walk.trajectory[2], z - 0.5 * (NULL + 2 * (Y.double() - NULL))[:, None])


@pytest.mark.parametrize("method", ["rk45", "dopri5"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_solver_that_cannot_go_on_says_so(method, monkeypatch):
    class Broken(Exact):
        def __call__(self, x_t, t, *, r=None, y=None):
            return {"v": torch.full_like(x_t, torch.nan)}

    with pytest.raises(ValueError, match="type larger rtol and atol, or a larger limit"):
        Ode(method=method)(Broken(horizons={"v": "instant"}), noise(2, 2))
    with pytest.raises(ValueError, match="after 10 evaluations"):
        Ode(method=method, limit=10)(Exact(), noise(2, 2))
    if method == "dopri5":
        monkeypatch.setitem(sys.modules, "torchdiffeq", None)
        with pytest.raises(ValueError, match=r"pip install 'genobj\[ode\]', or method=rk45"):
            Ode(method=method)(Exact(), noise(2, 2))


@pytest.mark.parametrize("name", TABLE)
def test_presets_cost_what_they_say_and_sample(name):
    preset = TABLE[name]
    cls, settings = find(SAMPLERS, f"{preset.part}-{name}")
    sampler = cls.model_validate(settings)
    walk = sampler(Exact(), noise(4, 2))
    assert walk.nfe == preset.nfe == sampler.cost(sampler.steps)
    assert sampler.with_nfe(preset.nfe) == sampler
    assert nfe_of(name) == nfe_of(f"{preset.part}-{name}") == preset.nfe
    assert nfe_of(preset.part) is None
    assert 0.02 < walk.samples.std() < 5 * S


def test_two_step_presets_are_those_of_their_papers():
    """OBJECTIVES.md B8.4: sigma 80 to 0.821, a walk that starts at (80 / 81) z; sigma_min in the noise of iCT."""
    z, fresh = noise(8, 2), noise(2, 8, 2)
    for name, kept in (("ect-2", 0.821), ("ict-2", math.sqrt(0.821**2 - 0.002**2))):
        sampler = Restart.model_validate(Restart.preset(name))
        walk = sampler(Exact(horizons={"u": "data"}), z, noise=fresh.__getitem__)
        assert [t / (1 - t) for t in sampler.grid.times(2)] == pytest.approx([80, 0.821, 0])
        torch.testing.assert_close(walk.trajectory[0], 80 / 81 * z)
        net = Exact()
        x_hat = 80 / 81 * z * S / net.scale(torch.tensor([80 / 81], dtype=z.dtype))
        torch.testing.assert_close(walk.trajectory[1] * 1.821, x_hat + kept * fresh[0])


@pytest.mark.parametrize(
    ("name", "style", "steps", "kappa", "extrapolation", "gaps", "exponents"),
    [
        ("ucgm-few", "few", 2, 1.0, 0.0, (0.001, 0.3), (1.0, 1.0, 1.0)),
        ("ucgm-multi", "mul", 60, 0.0, 0.21, (0.001, 0.001), (1.17, 0.8, 1.1)),
        ("twinflow-few", "few", 2, 1.0, 0.0, (0.001, 0.7), (1.0, 1.0, 1.0)),
        ("twinflow-any", "any", 4, 0.0, 0.0, (0.001, 0.5), (1.0, 1.0, 1.0)),
        ("twinflow-mul", "mul", 30, 0.0, 0.0, (0.001, 0.0), (1.17, 0.8, 1.1)),
    ],
)
def test_unified_presets_are_those_of_their_papers(name, style, steps, kappa, extrapolation, gaps, exponents):
    """OBJECTIVES.md A9, last lines."""
    sampler = Unified.model_validate(Unified.preset(name))
    found = sampler.style, sampler.steps, sampler.kappa, sampler.extrapolation
    assert found == (style, steps, kappa, extrapolation)
    assert sampler.grid == Kumaraswamy(gaps=gaps, a=exponents[0], b=exponents[1], c=exponents[2])


def test_a_preset_nobody_knows_is_answered_with_those_there_are():
    with pytest.raises(
        UnknownName, match=r"unknown preset 'ect-3' of sampler restart; type restart-ect-1, restart-ect-2"
    ):
        find(SAMPLERS, "restart-ect-3")
    with pytest.raises(UnknownName, match="unknown preset 'ect-2' of sampler heun; it has none"):
        find(SAMPLERS, "heun-ect-2")


@pytest.mark.parametrize(
    ("sampler", "asked"),
    [(Euler(steps=2), [(1, 1), (0.5, 0.5)]), (Restart(steps=2), [(1, 0), (0.5, 0)]), (FlowMap(), [(1, 0)])],
)
def test_a_head_of_both_ends_is_asked_for_one_of_them(sampler, asked):
    class Both(Guided):
        horizons = {"b": "ends", "f": "fake"}  # noqa: RUF012

        def __call__(self, x_t, t, *, r=None, y=None):
            return {"b": next(iter(super().__call__(x_t, t, r=r, y=y).values()))}

    net = Both()
    sampler(net, noise(3, 2), Y)
    assert net.times == asked
    assert choose(net.horizons, 4) == Restart(steps=4)
    assert choose(net.horizons, 32) == Heun(steps=16)


POSITIVE = st.floats(0.3, 4)
ANY_GRID = st.one_of(
    st.just(Uniform()),
    st.builds(Karras, rho=st.floats(1, 10), sigma_min=st.floats(1e-3, 0.1), sigma_max=st.floats(1, 200)),
    st.builds(Kumaraswamy, a=POSITIVE, b=POSITIVE, c=POSITIVE),
    st.builds(Kumaraswamy, gaps=st.tuples(st.floats(0, 0.4), st.floats(0, 0.5))),
    st.builds(Shifted, shift=st.floats(0.1, 10)),
)


@settings(deadline=None, max_examples=200)
@given(grid=ANY_GRID, steps=st.integers(1, 40))
def test_a_grid_decreases_to_zero(grid, steps):
    times = grid.times(steps)
    assert len(times) == steps + 1
    assert 0 < times[0] <= 1
    assert times[-1] == 0
    assert all(t >= r for t, r in itertools.pairwise(times))


@pytest.mark.parametrize("name", GRIDS.names())
def test_default_grids_decrease_strictly_and_survive_a_recipe(name):
    grid = GRIDS.get(name)()
    steps = {"listed": 1, "levels": 16}.get(name, 12)
    assert all(t > r for t, r in itertools.pairwise(grid.times(steps)))
    sampler = Euler(steps=steps, grid=grid)
    assert Euler.model_validate(sampler.model_dump(mode="json")) == sampler


def test_the_grids_are_those_of_the_papers():
    assert Uniform().times(4) == [1, 0.75, 0.5, 0.25, 0]
    assert Listed(points=(0.9, 0.3)).times(2) == Listed(points=(0.9, 0.3, 0)).times(2) == [0.9, 0.3, 0]
    assert Listed(sigmas=(9, 0.25)).times(2) == Listed(sigmas=(9, 0.25, 0)).times(2) == [0.9, 0.2, 0]
    assert Shifted(shift=3).times(2) == [1, 0.75, 0]
    assert Shifted(shift=1).times(5) == Uniform().times(5)
    assert Kumaraswamy(a=1, b=1, c=1).times(5) == pytest.approx(Uniform().times(5))
    sigmas = [t / (1 - t) for t in Karras().times(18)]
    assert sigmas[0] == pytest.approx(80)
    assert sigmas[1] == pytest.approx(57.586, rel=1e-4)  # EDM's second level of 18
    assert sigmas[-2] == pytest.approx(0.002)
    assert sigmas[-1] == 0
