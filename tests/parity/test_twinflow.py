"""RCGM and TwinFlow against the authors' code: loss, targets and gradients, all five terms of their tutorial too."""

from typing import Any

import pytest
import torch

from genobj.composer import Composer, Scored
from genobj.guidance.base import Guidance
from genobj.objectives.twin_flow import TwinFlow
from genobj.parts import GUIDANCE, OBJECTIVES
from genobj.paths.linear import Linear
from genobj.times.pairs import Below
from genobj.times.twin import Twin
from genobj.times.uniform import Uniform
from genobj.types import Draw
from tests.parity import fixtures
from tests.parity.fixtures import Case, TanhNetwork, check

GROUPS = ("e2e", "mul", "any", "adv")


def _distance(o: dict[str, Any]) -> dict[str, Any]:
    if o["loss"] in ("mse", "l2"):
        return {"kind": "mse"}
    assert o["loss"] == "barron_reweighting", o["loss"]
    return {"kind": "barron", "alpha": o["loss_alpha"], "c": o["loss_c"]}


def _whole(case: Case) -> bool:
    """Whether this is the tutorial's loss with all its terms on every row."""
    return "part" not in case.arrays and case.info["family"] == "twinflow"


def _walk(case: Case) -> dict[str, Any]:
    """theta^- of the walk: a frozen network only guides, except in the tutorial."""
    o, tutorial = case.options, "part" not in case.arrays
    weights = "online" if o["ema_decay"] == 0 else "ema" if o["ema_decay"] < 1 else "frozen" if tutorial else "online"
    shared = {"order": o["N"], "delta": o["delta"], "clamp": o["clamp"], "distance": _distance(o)}
    return shared | {"weights": weights}


def _objectives(case: Case) -> dict[str, dict[str, Any]]:
    o, distance = case.options, {"distance": _distance(case.options)}
    if case.info["family"] == "rcgm":
        return {"rcgm": _walk(case)}
    if _whole(case):
        fm = {"head": "u", "rows": "all", **distance}
        return {"rcgm": _walk(case), "fm": fm, "twin": {"rectify": 1.0, **_walk(case)}}
    if o["consistency_ratio"] == 0 and o["N"]:
        fixtures.skip("a consistency ratio of 0 at order 1 or more is another law of (t, r)")
    rectify = o["rectify_weight"] if o["consistency_ratio"] == 1 else 0.0
    return {"twinflow": {"rectify": rectify, "image_free": o["image_free"], **_walk(case)}}


def _guidance(case: Case) -> Guidance:
    o = case.options
    if not o["zeta"]:
        return GUIDANCE.get("none")()
    interval, ends = o.get("guidance_interval_open", (0.0, 1.0)), "open" if "part" in case.arrays else "closed"
    settings = {"interval": interval, "ends": ends}
    if o["ema_decay"] == 1:
        settings |= {"zeta": o["zeta"], "omega": 0.0 if o.get("image_free") else 1.0}
        return GUIDANCE.get("frozen").model_validate(settings)
    weights = "ema" if o["ema_decay"] else "online"
    return GUIDANCE.get("mean_flow").model_validate(settings | {"kappa": o["zeta"], "weights": weights})


def _draw(case: Case) -> Draw:
    a, path = case.arrays, Linear()
    x, z, t = a["x"], a["z"], a["t"]
    x_t, v = path.point(x, z, t.abs()), path.velocity(x, z, t.abs())
    draw = Draw(x, z, t, a["r"], x_t, v, v, a.get("y_in", a["y"]), a.get("dropped"), path=path)
    if _whole(case):
        return draw._replace(noise=(a["draw/z_rect"],), chance=a["draw/tau_rect"])
    if "part" not in a:
        return draw
    groups = {name: _block(a["part"] == place) for place, name in enumerate(GROUPS)}
    own, rectify, chance = a.get("draw/e_free", torch.zeros_like(x)).clone(), torch.zeros_like(x), torch.zeros_like(t)
    own[groups["adv"]] = a["draw/e_adv"]
    rectify[groups["e2e"]], chance[groups["e2e"]] = a["draw/z_rect"], a["draw/tau_rect"]
    return draw._replace(groups=groups, noise=(own, rectify), chance=chance)


def _block(rows: torch.Tensor) -> slice:
    """The rows as a slice, which they have to be."""
    found = rows.nonzero().flatten()
    block = slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)
    assert block.stop - block.start == len(found)
    return block


def _targets(case: Case, composer: Composer, scored: Scored, rtol: float) -> None:
    """What the official code has on its way to the loss."""
    expected, draw = case.group("expected"), scored.draw
    name = next(iter(composer.objectives))
    objective: Any = composer.objectives[name]
    with torch.no_grad():
        target = objective.target(draw, scored.passes)
    check("target_u", target, expected["target_u"], rtol)
    u = scored.terms[name].out["u"].detach()
    if "per_sample_rcgm" in expected:
        check("per_sample_rcgm", objective.distance(u, target), expected["per_sample_rcgm"], rtol)
    if isinstance(objective, TwinFlow):
        assert draw.groups is not None
        weight = objective.model_copy(update={"order": 1}).importance(draw)
        check("weight", weight, expected["weight"], rtol)
        check("per_sample_base", weight * objective.distance(u, target), expected["per_sample_base"], rtol)
        part = draw.part(draw.groups["e2e"])
        with torch.no_grad():
            own = objective.landed(part, part.x_t, u[draw.groups["e2e"]])
            apart = objective.bounded(objective.apart(own, part, scored.passes, None))
        better = u[draw.groups["e2e"]] - apart
        check("target_rectify", better, expected["target_rectify"], rtol)
        rectified = objective.distance(u[draw.groups["e2e"]], better)
        check("per_sample_rectify", rectified, expected["per_sample_rectify"], rtol)
    if "per_term" in expected:
        first, second, third, fourth, fifth = expected["per_term"]
        check("rcgm", scored.terms["rcgm"].value, first, rtol)
        check("fm", scored.terms["fm"].value, second, rtol)
        check("twin", scored.terms["twin"].value, third + fourth + fifth, rtol)
        check("target_fm", draw.v_t, expected["target_fm"], rtol)


@pytest.mark.parametrize("name", fixtures.names("objective", "rcgm", "twinflow"))
def test_objective(name: str) -> None:
    case = fixtures.load(name)
    rtol, shape = case.info["recommended_rtol"], tuple(case.arrays["x"].shape[1:])
    settings = _objectives(case)
    objectives = {name: OBJECTIVES.get(name).model_validate(given) for name, given in settings.items()}
    networks: dict[Any, Any] = {"online": TanhNetwork(case.group("param"), shape, {"u": "interval"})}
    if averaged := case.group("ema"):
        averaged_network = TanhNetwork(averaged, shape, {"u": "interval"}).requires_grad_(False)
        networks["ema"] = networks["frozen"] = averaged_network
    pairs = Twin() if "part" in case.arrays else Below()
    composer = Composer(Linear(), Uniform(), pairs, objectives, _guidance(case), classes=10, label_drop=0.1)
    scored = composer.score(networks, _draw(case))
    total = torch.stack([term.share for term in scored.terms.values()]).sum()
    total.backward()
    count = scored.passes.count[:2]
    _targets(case, composer, scored, rtol)
    check("loss", total, case.group("expected")["loss"], rtol)
    for key, gradient in case.group("expected/grad").items():
        check(f"gradient of {key}", networks["online"].weights[key].grad, gradient, rtol)
    if case.info["family"] == "twinflow" and case.options["N"] == 2 and case.options["zeta"]:
        assert count == ((1, 4.75) if "part" in case.arrays else (4, 8)), "OBJECTIVES.md A10, and the tutorial's"


def test_every_fixture_is_one_of_the_above() -> None:
    assert len(fixtures.names("objective", "rcgm", "twinflow")) >= 12
