"""Gaussian data has closed-form velocities and flow maps: fed as the network, every objective's residual vanishes."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from genobj.objectives.consistency import Consistency
from genobj.objectives.flow_matching import FlowMatching
from genobj.parts import PATHS
from genobj.passes import StepPasses
from genobj.testing import GaussianFlow
from genobj.types import Draw, Point

SCALES = ["linear", "trig", "vp", "edm"]


def _draw(net: GaussianFlow, low: float = 0.05, high: float = 0.95) -> Draw:
    """A draw whose velocity is the marginal one, so that the identities hold sample by sample."""
    t = torch.linspace(low, high, 128, dtype=torch.float64)
    x_t = net.scale(t)[:, None] * torch.randn(128, 3, dtype=torch.float64)
    v = net.velocity(x_t, t)
    return Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v)


def _residual(objective: Any, net: GaussianFlow, draw: Draw) -> torch.Tensor:
    passes = StepPasses({"online": net, "ema": net}, len(draw.t))
    out = passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
    return out[objective.head] - objective.target(draw, passes)


@pytest.mark.parametrize("path", SCALES)
def test_flow_matching_vanishes(path: str) -> None:
    net = GaussianFlow(PATHS.get(path)())
    assert _residual(FlowMatching(), net, _draw(net)).abs().max() < 1e-12


@pytest.mark.parametrize("path", SCALES)
def test_consistency_vanishes_with_jvp(path: str) -> None:
    net = GaussianFlow(PATHS.get(path)())
    cm = Consistency.model_validate({"derivative": {"method": "jvp"}})
    assert _residual(cm, net, _draw(net)).abs().max() < 1e-12


@pytest.mark.parametrize(("method", "order"), [("central", 2), ("backward", 1)])
def test_differences_vanish_with_their_order(method: str, order: int) -> None:
    net = GaussianFlow()
    draw = _draw(net)

    def error(step: float) -> float:
        cm = Consistency.model_validate({"derivative": {"method": method, "step": step}})
        return _residual(cm, net, draw).abs().max().item()

    errors = [error(step) for step in (0.02, 0.01, 0.005)]
    slopes = [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]
    assert all(abs(slope - order) < 0.15 for slope in slopes), errors


@pytest.mark.parametrize("method", ["central", "backward"])
def test_differences_stay_inside_the_domain_and_finite_at_its_ends(method: str) -> None:
    net = GaussianFlow()
    times: list[torch.Tensor] = []

    class Watched(GaussianFlow):
        def __call__(self, x_t: Any, t: Any, *, r: Any = None, y: Any = None) -> dict[str, Any]:
            times.append(t)
            return super().__call__(x_t, t, r=r, y=y)

    draw = _draw(net, 0.0, 1.0)
    cm = Consistency.model_validate({"derivative": {"method": method, "step": 0.01}})
    residual = _residual(cm, Watched(), draw)
    assert residual.isfinite().all()
    assert residual.abs().max() < 0.1
    assert all(bool(((t >= 0) & (t <= 1)).all()) for t in times)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9])
def test_discrete_consistency_vanishes_as_lam_approaches_one(lam: float) -> None:
    """One Euler step of length (1 - lam) t along the exact velocity leaves an error of second order in it."""
    net = GaussianFlow()
    draw = _draw(net)
    gaps = [_residual(Consistency(lam=value), net, draw).abs().max().item() for value in (lam, 1 - (1 - lam) / 2)]
    assert gaps[1] < 0.45 * gaps[0]


def test_the_discrete_form_has_the_gradient_of_the_continuous_one_in_the_limit() -> None:
    """Theorem 1: residual / (1 - lam) tends to the residual of Eq. (8) as lam -> 1 (for a wrong network)."""
    wrong = GaussianFlow(std=0.8)
    draw = _draw(GaussianFlow())
    limit = _residual(Consistency.model_validate({"derivative": {"method": "jvp"}}), wrong, draw)
    errors = [
        (_residual(Consistency(lam=lam), wrong, draw) / (1 - lam) - limit).abs().max().item()
        for lam in (0.99, 0.999, 0.9999)
    ]
    assert errors[1] < 0.15 * errors[0]
    assert errors[2] < 0.15 * errors[1]


def test_a_wrong_flow_map_has_a_residual() -> None:
    """The tests above can fail: a network for other data does not satisfy the identity."""
    cm = Consistency.model_validate({"derivative": {"method": "jvp"}})
    assert _residual(cm, GaussianFlow(std=0.8), _draw(GaussianFlow())).abs().mean() > 0.01
