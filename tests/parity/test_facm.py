"""FACM's training step: anchor and consistency on one head, which is told r, or the sign of t."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from genobj.composer import Composer
from genobj.guidance.base import Guidance
from genobj.guidance.frozen import FrozenGuidance
from genobj.guidance.mean_flow import MeanFlowGuidance
from genobj.objectives.flow_anchored import FlowAnchored
from genobj.objectives.flow_matching import FlowMatching
from genobj.paths.linear import Linear
from genobj.times.pairs import Zero
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon
from tests.parity import fixtures
from tests.parity.fixtures import Case, TanhNetwork, check


class Signed(torch.nn.Module):
    """A fixture's network under heads.u.r_in=sign: fed -t where r = t.

    Head v is the network at t. In the public code that is what guides: a teacher's velocity, but of the live network,
    whose velocity is at -t, its jump. Ours asks the live network at -t; this head keeps the code's numbers.
    """

    horizons: ClassVar[dict[str, Horizon]] = {"u": "ends", "v": "instant"}
    sees_r: ClassVar[frozenset[str]] = frozenset({"u"})

    def __init__(self, net: TanhNetwork):
        super().__init__()
        self.net, self.weights = net, net.weights

    def forward(self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        assert r is not None, "this network is told by r which end is meant"
        return {"u": self.net(x_t, torch.where(r == t, -t, t), y=y)["u"], "v": self.net(x_t, t, y=y)["u"]}


def _network(weights: dict[str, Tensor], case: Case) -> torch.nn.Module:
    """Which of the two it is, is said twice: by the weights and by the options."""
    shape, o = tuple(case.arrays["x"].shape[1:]), case.options
    if "Wr" in weights:
        assert (o["fm_time"], o["cm_r"]) == ("r=t", "0")
        return TanhNetwork(weights, shape, {"u": "interval"})
    assert (o["fm_time"], o["cm_r"]) == ("-t (negative time)", "none")
    return Signed(TanhNetwork(weights, shape, {"u": "ends"}))


def _guidance(case: Case) -> Guidance:
    o = case.options
    within = {"null_within": (o["null_kept_where_t_below"], o["null_kept_where_t_above"])}
    if o["teacher"]:
        return FrozenGuidance.model_validate({"omega": 0.0, "zeta": o["guidance_w"], **within})
    return MeanFlowGuidance.model_validate({"omega": o["guidance_w"], "kappa": 0.0, **within})


def _objectives(case: Case) -> dict[str, Any]:
    o = case.options
    assert o["cm_weight"] == "sin(pi t/2)"
    parts = {"mse": ["mse"], "mse + mean(1-cos over channel axis)": ["mse", "cosine"]}[o["fm_loss"]]
    adaptive = {"kind": "adaptive", "power": o["adaptive_p"], "eps": o["adaptive_c"], "reduce": o["adaptive_reduce"]}
    facm = {"power": o["p"], "clamp": o["clamp"], "distance": adaptive, "derivative": "jvp"}
    fm = {"head": "u", "rows": "all", "distance": {"kind": "sum", "parts": parts}}
    return {
        "fm": FlowMatching.model_validate(fm),
        "facm": FlowAnchored.model_validate({"rows": "all", **facm}),
    }


@pytest.mark.parametrize("name", fixtures.names("objective", "facm"))
def test_facm(name: str) -> None:
    case, arrays = fixtures.load(name), fixtures.load(name).arrays
    expected, rtol, path = case.group("expected"), case.info["recommended_rtol"], Linear()
    networks: dict[Any, Any] = {"online": _network(case.group("param"), case)}
    if teacher := case.group("ema"):
        networks["frozen"] = _network(teacher, case).requires_grad_(False)
    composer = Composer(
        path, Uniform(), Zero(equal_share=0.5), _objectives(case), _guidance(case), classes=10, label_drop=0.1
    )
    x, z, t = arrays["x"], arrays["z"], arrays["t"]
    v = path.velocity(x, z, t)
    draw = Draw(x, z, t, torch.zeros_like(t), path.point(x, z, t), v, v, arrays["y"], path=path)
    scored = composer.score(networks, draw)
    count = scored.passes.count
    assert (count.with_gradient, count.without_gradient, count.tangent) == (2, 2 if teacher else 1, 1)
    check("v_guided", scored.draw.v_t, expected["v_guided"], rtol)
    total = torch.stack([term.share for term in scored.terms.values()]).sum()
    check("loss", total, expected["loss"], rtol)
    total.backward()
    for key, gradient in case.group("expected/grad").items():
        check(f"gradient of {key}", networks["online"].weights[key].grad, gradient, rtol)
    facm, term = composer.objectives["facm"], scored.terms["facm"]
    with torch.no_grad():
        check("target_u", facm.target(term.draw, scored.passes), expected["target_u"], rtol)  # type: ignore[attr-defined]
    for key, row in (("per_sample_cm", "facm"), ("per_sample_fm", "fm")):
        about = scored.terms[row]
        losses = composer.objectives[row].loss(about.out, about.draw, scored.passes)
        check(key, losses, expected[key], rtol)
