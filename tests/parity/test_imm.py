"""IMM: loss, both ends and gradients of an independent implementation (the authors published no training code)."""

import pytest
import torch

from genobj.objectives.moment_matching import MomentMatching
from genobj.passes import StepPasses
from genobj.paths.linear import Linear
from genobj.types import Draw, Point
from tests.parity import fixtures
from tests.parity.fixtures import TanhNetwork, check

UNDERSTOOD = {"M", "k", "a", "b", "t_min", "t_max", "sigma_data", "eta_range_top", "gap_min", "label_drop"}


@pytest.mark.parametrize("name", fixtures.names("objective", "imm"))
def test_loss_ends_and_gradients(name: str) -> None:
    """Rows of a group follow each other in the files; here they lie a number of groups apart."""
    case = fixtures.load(name)
    o, arrays, rtol = case.options, case.arrays, case.info["recommended_rtol"]
    if unknown := o.keys() - UNDERSTOOD:
        fixtures.skip(f"options that nothing here stands for: {', '.join(sorted(unknown))}")
    size = o["M"]
    order = torch.arange(len(arrays["t"])).unflatten(0, (-1, size)).T.flatten()  # row g M + m to m G + g
    back = order.argsort()
    x, z, t, r, y = (arrays[key][order] for key in ("x", "z", "t", "r", "y"))
    path = Linear()  # the noise of the fixtures is scaled already
    objective = MomentMatching.model_validate(
        {
            "k": float(o["k"]),
            "a": float(o["a"]),
            "b": float(o["b"]),
            "sigma_data": o["sigma_data"],
            "eta_range": float(o["eta_range_top"]),
            "gap": o["gap_min"],
        }
    )
    network = TanhNetwork(case.group("param"), tuple(x.shape[1:]), {"u": "interval"})
    v = path.velocity(x, z, t)
    y = arrays["y_in"][order] if "y_in" in arrays else y
    draw = Draw(x, z, t, r, path.point(x, z, t), v, v, y, together=size)
    passes = StepPasses({"online": network}, len(t))
    out = passes.main(Point(draw.x_t, t, r, draw.y))
    prediction, target = objective.ends(out, draw, passes)
    losses = objective.loss(out, draw, passes)
    losses.mean().backward()

    check("q", objective.earlier(t, r)[back], arrays["q"], rtol)
    check("pred_y", prediction[back], arrays["expected/pred_y"], rtol)
    check("target_y", target[back], arrays["expected/target_y"], rtol)
    check("loss", losses.mean(), arrays["expected/loss"], rtol)
    check("per group", losses[: len(t) // size], arrays["expected/per_group"], rtol)
    expected = case.group("expected/grad")
    assert expected.keys() == {key for key, p in network.weights.items() if p.grad is not None}
    for key, value in expected.items():
        gradient = network.weights[key].grad
        assert gradient is not None
        check(f"gradient of {key}", gradient, value, rtol)
