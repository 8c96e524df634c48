"""Loss, targets and gradients of official implementations (and of the paper, where there is none)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genobj.backbones.base import Features, Trunk
from genobj.composer import Composer, Scored
from genobj.guidance.base import Guidance
from genobj.model import Model
from genobj.parts import GUIDANCE, OBJECTIVES, PATHS
from genobj.paths.base import Path
from genobj.paths.linear import Linear
from genobj.reading import reading
from genobj.times.pairs import Sorted
from genobj.times.uniform import Uniform
from genobj.types import Draw, resting
from tests.parity import fixtures
from tests.parity.fixtures import Case, TanhNetwork, check

Objectives = dict[str, dict[str, Any]]
PATH_NAMES = {
    "linear": "linear",
    "linear alpha=t gamma=1-t": "linear",
    "alpha=sin(pi t/2) gamma=cos(pi t/2)": "trig",
}
EXACT = {"method": "jvp"}


# What the options of each family mean here: settings of the objectives that together make the fixture's loss.


def _fm(case: Case) -> Objectives:
    return {"fm": {"head": case.info["heads"][0], "distance": _distance(case.options)}}


def _cm(case: Case) -> Objectives:
    options = case.options
    if not options.get("times_clamped_to_01", True):
        fixtures.skip("difference points always stay in [0, 1]")
    if options.get("backend", "central") not in ("central", "backward", "jvp"):
        fixtures.skip(f"derivative {options['backend']!r} is not an option of cm")
    if options.get("theta_minus", "online") not in ("online", "ema"):
        fixtures.skip(f"a network theta^- that is {options['theta_minus']!r} is not an option of cm")
    derivative = {"weights": options.get("theta_minus", "online"), "force": True}
    derivative |= {"clamp": options["clamp"]} if options.get("clamp") else {}
    if "lam" in options:
        return {"cm": {"lam": options["lam"], "derivative": derivative}}
    derivative |= {"method": options["backend"], "direction": options["tangent"]}
    derivative |= {"step": options["eps"]} if options.get("eps") else {}
    return {"fm": {"weight": options["beta"]}, "cm": {"weight": 1 - options["beta"], "derivative": derivative}}


def _mf(case: Case) -> Objectives:
    return {"mf": {"derivative": EXACT, "distance": _distance(case.options)}}


def _imf(case: Case) -> Objectives:
    distance = _distance(case.options)
    return {
        "fm": {"distance": distance},
        "imf": {"derivative": {"method": "jvp", "direction": "predicted"}, "distance": distance},
    }


def _sc(case: Case) -> Objectives:
    o = case.options
    weights = "online" if o["teacher"] == "live" else "ema"
    return {"sc": {"weights": weights, "clip": o["clip"], "scale": o["guidance_w"]}}


def _ect(case: Case) -> Objectives:
    o = case.options
    assert o["mapping"] in ("sigmoid", "const"), o["mapping"]
    k = o["k"] if o["mapping"] == "sigmoid" else 0.0
    edm = {"weighting": "edm", "sigma_data": o["sigma_data"]} if "sigma^2" in o["weight"] else {}
    distance = {"kind": "pseudo_huber", "c": o["c"]}
    return {"ect": {"stage": o["stage"], "base": o["q"], "k": k, "b": o["b"], "distance": distance, **edm}}


def _soflow(case: Case) -> Objectives:
    o = case.options
    if "velocity" in case.info["what"]:
        distance = {"kind": "adaptive", "power": o["p"], "eps": o["eps"], "reduce": o["reduce"]}
        return {"fm": {"head": "u", "distance": distance}}
    return {"soflow": {"a": o["a"], "power": o["p"], "eps": o["eps"]}}


def _alphaflow(case: Case) -> Objectives:
    o = case.options
    settings = {"a": o["alpha"], "clip": o["clip_u_target_discrete"], "distance": _distance(o), "derivative": EXACT}
    return {"alphaflow": settings}


FAMILIES: dict[str, Callable[[Case], Objectives]] = {
    "fm": _fm,
    "cm": _cm,
    "mf": _mf,
    "imf": _imf,
    "sc": _sc,
    "ect": _ect,
    "soflow": _soflow,
    "alphaflow": _alphaflow,
}


def _distance(options: dict[str, Any]) -> dict[str, Any]:
    if "adaptive_p" not in options:
        return {"kind": "mse"}
    form = options.get("weight_form", "S/sg(S+eps)^p")
    return {
        "kind": "adaptive",
        "power": options["adaptive_p"],
        "eps": options.get("adaptive_eps", options.get("adaptive_c")),
        "reduce": options.get("reduce", options.get("adaptive_reduce")),
        "squared": form.startswith("S^2"),
    }


def _path(options: dict[str, Any]) -> Path:
    name = options.get("path", "linear")
    if name not in PATH_NAMES:
        fixtures.skip(f"path {name!r} is not registered yet")
    settings = {"bridge": options.get("bridge_sigma", 0.0)}
    if "sigma_min" in options:
        settings["sigma_min"] = options["sigma_min"]
    if "clip(t," in options.get("v_target", ""):
        settings["damped_below"] = float(options["v_target"].split("clip(t,")[1].split(",")[0])
    return PATHS.get(PATH_NAMES[name]).model_validate(settings)


def _guidance(case: Case) -> Guidance:
    o, family = case.options, case.info["family"]
    settings: dict[str, Any] = {}
    kind = "mean_flow"
    if family == "imf":
        kind = "fed"
    elif family == "soflow":
        settings = {"omega": o["mix"] * o["w"], "kappa": 1 - o["mix"]} | ({"fade": o["t0"]} if o["t0"] < 1 else {})
    elif "guidance_w" in o and family == "mf":  # FACM's repository: the data's or a teacher's velocity, extrapolated
        settings = {"null_within": (o["null_kept_where_t_below"], o["null_kept_where_t_above"])}
        kind = "frozen" if o["teacher"] else kind
        settings |= {"omega": 0.0, "zeta": o["guidance_w"]} if o["teacher"] else {"omega": o["guidance_w"], "kappa": 0}
    elif "zeta" in o:
        kind, settings = "self", {"zeta": o["zeta"], "weights": o.get("theta_minus", "online")}
    elif "omega" in o:
        settings = {"omega": o["omega"], "kappa": o["kappa"]}
        settings["interval"] = o.get("guidance_interval_closed", o.get("guidance_interval_open", (0.0, 1.0)))
        if family == "alphaflow":
            settings |= {"ends": "open", "dropped": "guided"}
    else:
        kind = "none"
    return GUIDANCE.get(kind).model_validate(settings)


def _draw(case: Case, path: Path) -> Draw:
    arrays, family, options = case.arrays, case.info["family"], case.options
    x, z, t = arrays["x"], arrays["z"], arrays["t"]
    if "x_row" in arrays:
        x = x[arrays["x_row"]]
    r = arrays.get("r", t if family == "fm" else torch.zeros_like(t))
    x_t, v = path.point(x, z, t), path.velocity(x, z, t)
    if "draw/bridge" in arrays:
        x_t = x_t + path.bridge * arrays["draw/bridge"]
    draw = Draw(x, z, t, r, x_t, v, v, arrays.get("y_in", arrays.get("y")), arrays.get("dropped"))
    draw = draw._replace(equal=_prefix(t == r), gap=1 / options["T"] if family == "sc" else 0.0)
    if "w" in arrays:
        w, low, high = arrays["w"], arrays["lo"], arrays["hi"]
        g = torch.stack([w, low, high], 1)
        draw = draw._replace(g=g, g_v=resting(g, t))
    return draw


def _prefix(rows: Tensor) -> int:
    """Length of the block of true rows at the front."""
    return int(rows.long().cumprod(0).sum())


def _compare(case: Case, composer: Composer, networks: dict[Any, Any], draw: Draw) -> None:
    expected, rtol = case.group("expected"), case.info["recommended_rtol"]
    scored = composer.score(networks, draw)
    total = torch.stack([term.share for term in scored.terms.values()]).sum()
    total.backward()
    check("loss", total, expected["loss"], rtol)
    for name in ("loss_v", "loss_u"):
        if name in expected:
            check(name, scored.terms[{"loss_v": "fm", "loss_u": "cm"}[name]].value, expected[name], rtol)
    if "v_guided" in expected:
        check("v_guided", scored.draw.v_t, expected["v_guided"], rtol)
    if "x_t" in expected:
        check("x_t", draw.x_t, expected["x_t"], rtol)
    for name, objective in composer.objectives.items():
        _targets(case, objective, scored.terms[name].out, scored, rtol)
    for name, gradient in case.group("expected/grad").items():
        check(f"gradient of {name}", networks["online"].weights[name].grad, gradient, rtol)


def _targets(case: Case, objective: Any, out: dict[str, Tensor], scored: Scored, rtol: float) -> None:
    expected, u = case.group("expected"), out[objective.head]
    with torch.no_grad():
        target = objective.target(scored.draw, scored.passes)
        if f"target_{objective.head}" in expected:
            check(f"target_{objective.head}", target, expected[f"target_{objective.head}"], rtol)
        if "per_sample" in expected and len(scored.terms) == 1:
            check("per_sample", objective.loss(out, scored.draw, scored.passes), expected["per_sample"], rtol)
        if "q" in case.arrays:
            check("q", objective.earlier(scored.draw), case.arrays["q"], 1e-9)
        if "delta_quotient" in expected:
            a = objective.fraction(scored.draw, objective.earlier(scored.draw))
            quotient = (target - u) / a.view(-1, *[1] * (u.ndim - 1))
            check("delta_quotient", quotient, expected["delta_quotient"], rtol)
            check(
                "weight",
                (quotient.square().flatten(1).mean(1) + objective.eps) ** -objective.power,
                expected["weight"],
                rtol,
            )
        if "v_tangent" in expected and objective.asks_velocity:
            along, kept = objective.derivative.along(scored.draw, scored.passes), ~case.arrays["dropped"]
            assert bool((scored.draw.t == scored.draw.r)[~kept].all()), "dropped rows have r = t: no tangent is used"
            check("v_tangent", along[kept], expected["v_tangent"][kept], rtol)  # official: with the label not dropped
            check("V", u + scored.draw.v_t - target, expected["V"], rtol)


ELSEWHERE = {"rcgm", "twinflow", "ucgm", "facm", "scm", "imm"}
"""Families with a file of their own beside this one."""


def test_no_family_of_fixtures_is_left_out() -> None:
    families = {fixtures.load(name).info["family"] for name in fixtures.names("objective")}
    assert families <= {*FAMILIES, *ELSEWHERE}


@pytest.mark.parametrize("name", fixtures.names("objective", *FAMILIES))
def test_objective(name: str) -> None:
    case = fixtures.load(name)
    family = case.info["family"]
    path = _path(case.options)
    settings = FAMILIES[family](case)
    objectives = {name: OBJECTIVES.get(name).model_validate(given) for name, given in settings.items()}
    horizons = {objective.head: objective.horizon for objective in objectives.values()}
    shape = tuple(case.arrays["x"].shape[1:])
    networks: dict[Any, Any] = {"online": TanhNetwork(case.group("param"), shape, horizons)}
    if averaged := case.group("ema"):
        networks["ema"] = networks["frozen"] = TanhNetwork(averaged, shape, horizons).requires_grad_(False)
    pairs = Sorted(equal_share=0.25)  # the fixture's own (t, r) are used; this says that rows with r = t exist
    if family == "sc":
        from genobj.times.dyadic import Dyadic

        pairs = Dyadic(finest="step")
    composer = Composer(path, Uniform(), pairs, objectives, _guidance(case), classes=10, label_drop=0.1)
    _compare(case, composer, networks, _draw(case, path))


class Preconditioned(Trunk):
    """F(c_in y, ln(s) / 4) for which D = c_skip y + c_out F is x_t - t u of a fixture's network, y = x + s z."""

    channels = 1

    def __init__(self, network: TanhNetwork):
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None) -> Features:
        sigma = (4 * t).exp().view(-1, *[1] * (x_t.ndim - 1))
        norm = (sigma**2 + 0.25).sqrt()
        noisy, flat = norm * x_t, sigma.flatten()
        u = self.network(noisy / (1 + sigma), flat / (1 + flat), y=y)["u"]
        denoised = (noisy - sigma * u) / (1 + sigma)
        return Features((denoised - 0.25 / norm**2 * noisy) / (0.5 * sigma / norm), flat)

    def projection(self, out_channels: int) -> nn.Module:
        raise AssertionError(f"no head of {out_channels} channels is asked for")


class Hidden(nn.Module):
    """The head of a trunk that has done everything."""

    def forward(self, features: Features, t: Tensor, r: Tensor | None) -> Tensor:
        return features.hidden


@pytest.mark.parametrize("name", [name for name in fixtures.names("objective", "ect") if "main" in name])
def test_ect_inside_the_preconditioning_has_the_official_loss(name: str) -> None:
    """As the recipes of ECT and iCT train: what is learnt is F, and reading "edm" makes it a denoiser."""
    case = fixtures.load(name)
    inner = TanhNetwork(case.group("param"), tuple(case.arrays["x"].shape[1:]), {"u": "data"})
    read_as = reading("edm", Linear())
    model = Model(Preconditioned(inner), {"u": Hidden()}, {"u": "data"}, trunk_r=False, reading=read_as)
    objectives = {key: OBJECTIVES.get(key).model_validate(given) for key, given in _ect(case).items()}
    pairs, guidance = Sorted(equal_share=0.25), _guidance(case)
    composer = Composer(Linear(), Uniform(), pairs, objectives, guidance, classes=10, label_drop=0.1)
    model.weights = inner.weights
    _compare(case, composer, {"online": model}, _draw(case, Linear()))
