"""UCGM's training step: loss, F*, gradients of the public code on its six transports."""

from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.composer import Composer
from genobj.guidance.base import Guidance
from genobj.guidance.enhanced import EnhancedGuidance
from genobj.guidance.none import NoGuidance
from genobj.objectives.flow_matching import FlowMatching
from genobj.objectives.unified import Unified
from genobj.paths.base import Path
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.paths.random import Random
from genobj.paths.trig import Trig
from genobj.reading import ReadingName, reading
from genobj.times.pairs import Sorted
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon
from tests.parity import fixtures
from tests.parity.fixtures import Case, TanhNetwork, check

TRANSPORTS: dict[str, tuple[Path, ReadingName]] = {
    "Linear": (Linear(), "target"),
    "ReLinear": (Linear(), "sit"),
    "TrigFlow": (Trig(quarter=1.57), "target"),
    "TrigLinear": (Trig(quarter=1.57, target="difference"), "target"),
    "EDM": (EDM(), "target"),
    "Random": (Random(), "target"),
}


class Read(torch.nn.Module):
    """A fixture's network F as ours: head u is read as its objective trains it, v as the velocity."""

    def __init__(self, weights: dict[str, Tensor], shape: tuple[int, ...], path: Path, name: ReadingName, u: Horizon):
        super().__init__()
        self.net = TanhNetwork(weights, shape, {"u": "instant"})
        self.weights, self.sees_r = self.net.weights, frozenset[str]()
        self.horizons: dict[str, Horizon] = {"u": "instant"} if u == "instant" else {"u": u, "v": "instant"}
        found = reading(name, path)
        assert found is not None
        self.reading = found

    def forward(self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        line = self.reading.line(t)
        said = self.net(line.state(x_t), self.reading.time(t), y=y)["u"]
        lines = {"instant": line, "data": self.reading.jump(t)}
        return {head: lines[horizon].velocity(said, x_t) for head, horizon in self.horizons.items()}


def _reversed(case: Case) -> bool:
    return case.options["path"] == "ReLinear"


def _guidance(case: Case) -> Guidance:
    o = case.options
    if not o["zeta"]:
        return NoGuidance()
    low, high = o["guidance_interval_open"]
    return EnhancedGuidance(
        zeta=o["zeta"],
        pull="model" if o["consistency_ratio"] else "null",
        weights="online" if o["ema_decay"] == 0 else "frozen" if o["ema_decay"] == 1 else "ema",
        interval=(1 - high, 1 - low) if _reversed(case) else (low, high),
    )


def _objective(case: Case) -> Unified:
    o = case.options
    distance: dict[str, Any] = {"kind": "pseudo_huber", "c": o["h"], "reduce": "mean"}
    if o["cosine_loss"]:
        distance = {"kind": "sum", "parts": [distance, "cosine"]}
    weightings = {"none": "none", "Cosine": "reversed" if _reversed(case) else "cosine"}
    settings = {"ratio": o["consistency_ratio"], "step": o["fd_eps"], "clamp": o["clamp"]}
    return Unified.model_validate({"distance": distance, "weighting": weightings[o["weight"]], **settings})


def _draw(case: Case, path: Path) -> Draw:
    arrays = case.arrays
    x, z, t = arrays["x"], arrays["z"], 1 - arrays["t"] if _reversed(case) else arrays["t"]
    v = path.velocity(x, z, t)
    draw = Draw(x, z, t, torch.zeros_like(t), path.point(x, z, t), v, v, arrays["y_in"], arrays["dropped"])
    return draw._replace(path=path)


@pytest.mark.parametrize("name", fixtures.names("objective", "ucgm"))
def test_ucgm(name: str) -> None:
    case = fixtures.load(name)
    if _reversed(case) and case.options["consistency_ratio"]:
        fixtures.skip("the public code moves away from the data here; tests/test_unified.py has the sign")
    path, read = TRANSPORTS[case.options["path"]]
    objective, expected, rtol = _objective(case), case.group("expected"), case.info["recommended_rtol"]
    shape, horizon = tuple(case.arrays["x"].shape[1:]), objective.trains["u"]
    networks: dict[Any, Any] = {"online": Read(case.group("param"), shape, path, read, horizon)}
    if averaged := case.group("ema"):
        networks["ema"] = networks["frozen"] = Read(averaged, shape, path, read, horizon).requires_grad_(False)
    objectives: dict[str, Any] = {"ucgm": objective}
    if horizon == "data" and case.options["zeta"]:  # whose velocity guides is trained for it; too little to count
        objectives["fm"] = FlowMatching.model_validate({"weight": 1e-300})
    law = Sorted(equal_share=0.25)
    composer = Composer(path, Uniform(), law, objectives, _guidance(case), classes=10, label_drop=0.1)
    scored = composer.score(networks, _draw(case, path))
    term, ratio = scored.terms["ucgm"], case.options["consistency_ratio"]
    guides = case.options["zeta"] and (not ratio or case.group("ema"))  # towards itself it costs nothing
    assert scored.passes.count[:2] == (1, {0: 0, 1: 2}.get(ratio, 1) + bool(guides)), "passes of OBJECTIVES A10"
    check("loss", term.share, expected["loss"], rtol)
    torch.stack([term.share for term in scored.terms.values()]).sum().backward()
    for key, gradient in case.group("expected/grad").items():
        check(f"gradient of {key}", networks["online"].weights[key].grad, gradient, rtol)
    with torch.no_grad():
        target = objective.said(objective.target(term.draw, scored.passes), term.draw)
        check("target_F", -target if _reversed(case) else target, expected["target_F"], rtol)
        check("per_sample", objective.loss(term.out, term.draw, scored.passes), expected["per_sample"], rtol)
