"""Loss, targets and gradients of official implementations (and of the paper, where there is none)."""

from typing import Any

import pytest
import torch

from genobj.composer import Composer
from genobj.guidance.none import NoGuidance
from genobj.guidance.own import SelfGuidance
from genobj.parts import OBJECTIVES, PATHS
from genobj.passes import StepPasses
from genobj.times.pairs import Zero
from genobj.times.uniform import Uniform
from genobj.types import Draw, Point
from tests.parity import fixtures
from tests.parity.fixtures import Case, TanhNetwork, check

PATH_NAMES = {
    "linear": "linear",
    "linear alpha=t gamma=1-t": "linear",
    "alpha=sin(pi t/2) gamma=cos(pi t/2)": "trig",
}


def _path(options: dict[str, Any]) -> Any:
    name = options.get("path", "linear")
    if name not in PATH_NAMES:
        fixtures.skip(f"path {name!r} is not registered yet")
    return PATHS.get(PATH_NAMES[name])(bridge=options.get("bridge_sigma", 0.0))


def _guidance(options: dict[str, Any]) -> Any:
    kappa = options.get("zeta", options.get("kappa", 0.0))
    if options.get("omega", 1.0) != 1.0:
        fixtures.skip("guidance with omega != 1 arrives with MeanFlow")
    interval = tuple(options.get("guidance_interval_closed", (0.0, 1.0)))
    weights = "ema" if options.get("theta_minus") == "ema" else "online"
    return SelfGuidance(zeta=kappa, interval=interval, weights=weights) if kappa else NoGuidance()


def _distance(options: dict[str, Any]) -> dict[str, Any]:
    if "adaptive_p" not in options:
        return {"kind": "mse"}
    if options.get("weight_form", "S/sg(S+eps)^p") != "S/sg(S+eps)^p":
        fixtures.skip(f"the weight {options['weight_form']!r} is a trap of one repository, not an option")
    return {
        "kind": "adaptive",
        "power": options["adaptive_p"],
        "eps": options["adaptive_eps"],
        "reduce": options["reduce"],
    }


def _objectives(case: Case) -> dict[str, Any]:
    options, family = case.options, case.info["family"]
    if family == "fm":
        head = case.info["heads"][0]
        return {"fm": OBJECTIVES.get("fm").model_validate({"head": head, "distance": _distance(options)})}
    if options.get("clamp") is not None:
        fixtures.skip("clamped derivatives are not an option of cm")
    if not options.get("times_clamped_to_01", True):
        fixtures.skip("difference points always stay in [0, 1]")
    if options.get("backend", "central") not in ("central", "backward", "jvp"):
        fixtures.skip(f"derivative {options['backend']!r} is not an option of cm")
    if options.get("theta_minus", "online") not in ("online", "ema"):
        fixtures.skip(f"a network theta^- that is {options['theta_minus']!r} is not an option of cm")
    if "lam" in options:
        derivative = {"weights": options.get("theta_minus", "online")}
        return {"cm": OBJECTIVES.get("cm").model_validate({"lam": options["lam"], "derivative": derivative})}
    derivative = {
        "method": options["backend"],
        "direction": options["tangent"],
        "force": True,
        "weights": options["theta_minus"],
    }
    if options.get("eps"):
        derivative["step"] = options["eps"]
    cm = {"weight": 1 - options["beta"], "derivative": derivative}
    return {
        "fm": OBJECTIVES.get("fm").model_validate({"weight": options["beta"]}),
        "cm": OBJECTIVES.get("cm").model_validate(cm),
    }


def _draw(case: Case, path: Any) -> Draw:
    arrays = case.arrays
    x, z, t = arrays["x"], arrays["z"], arrays["t"]
    x_t = path.point(x, z, t)
    if "draw/bridge" in arrays:
        x_t = x_t + path.bridge * arrays["draw/bridge"]
    r = t if case.info["family"] == "fm" else torch.zeros_like(t)
    v, y = path.velocity(x, z, t), arrays.get("y_in", arrays["y"])
    return Draw(x, z, t, r, x_t, v, v, y, arrays.get("dropped"))


def _compare(case: Case, composer: Composer, networks: dict[Any, Any], draw: Draw) -> None:
    expected, rtol = case.group("expected"), case.info["recommended_rtol"]
    loss = composer.loss(networks, draw)
    loss.total.backward()
    check("loss", loss.total, expected["loss"], rtol)
    passes = StepPasses(networks, len(draw.x))
    passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
    guided = composer.guided(draw, passes)
    for objective in composer.objectives.values():
        if f"target_{objective.head}" in expected:
            with torch.no_grad():
                target = objective.target(guided, passes)
            check(f"target_{objective.head}", target, expected[f"target_{objective.head}"], rtol)
    for name in ("loss_v", "loss_u"):
        if name in expected:
            check(name, loss.terms[{"loss_v": "fm", "loss_u": "cm"}[name]], expected[name], rtol)
    if "v_guided" in expected:
        check("v_guided", guided.v_t, expected["v_guided"], rtol)
    for name, gradient in case.group("expected/grad").items():
        check(f"gradient of {name}", networks["online"].weights[name].grad, gradient, rtol)


@pytest.mark.parametrize("name", fixtures.names("objective"))
def test_objective(name: str) -> None:
    case = fixtures.load(name)
    family = case.info["family"]
    if family not in OBJECTIVES.names():
        fixtures.skip(f"objective {family!r} is not registered yet")
    if family not in ("fm", "cm"):
        fixtures.skip(f"options of {family!r} fixtures are not mapped yet")
    path, objectives = _path(case.options), _objectives(case)
    horizons = {objective.head: objective.horizon for objective in objectives.values()}
    shape = tuple(case.arrays["x"].shape[1:])
    networks: dict[Any, Any] = {"online": TanhNetwork(case.group("param"), shape, horizons)}
    if averaged := case.group("ema"):
        networks["ema"] = TanhNetwork(averaged, shape, horizons).requires_grad_(False)
    composer = Composer(path, Uniform(), Zero(), objectives, _guidance(case.options), classes=10)
    _compare(case, composer, networks, _draw(case, path))
