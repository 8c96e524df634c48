"""sCM's loss, targets and gradients in the official codes of FastGen (TrigFlow) and of FACM (linear path)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.composer import Composer, log_variance
from genobj.guidance.none import NoGuidance
from genobj.objectives.continuous import ContinuousConsistency
from genobj.parts import GUIDANCE
from genobj.passes import StepPasses
from genobj.paths.linear import Linear
from genobj.schedules import Constant
from genobj.times.pairs import Sorted
from genobj.times.uniform import Uniform
from genobj.types import Draw, over
from tests.parity import fixtures
from tests.parity.fixtures import Case, TanhNetwork, check

TERM = log_variance("scm")


class Scaled(TanhNetwork):
    """The fixture's network for data of standard deviation s, s u(x_t / s, t), and log-variances that are given."""

    scale: float = 1.0
    log_variances: Tensor | None = None

    def forward(self, x_t: Tensor, t: Tensor, **told: Any) -> dict[str, Tensor]:
        out = {head: self.scale * value for head, value in super().forward(x_t / self.scale, t, **told).items()}
        return out if self.log_variances is None else out | {TERM: self.log_variances.expand(len(x_t))}


def _network(case: Case, weights: str, horizon: str = "data") -> Scaled:
    return Scaled(case.group(weights), tuple(case.arrays["x"].shape[1:]), {"u": horizon})


def _objective(case: Case) -> ContinuousConsistency:
    o = case.options
    settings: dict[str, Any] = {"warmup": o["tangent_warmup"], "floor": o["norm_const"], "derivative": "jvp"}
    if o["norm"] not in ("l2", "rms", "rms over the sample"):
        fixtures.skip(f"norm {o['norm']!r} is not an option of scm")
    settings["norm"] = o["norm"].split()[0]
    if o.get("prefactor") == "sin(pi t/2)" and o["weight"].startswith("1 "):
        settings["form"] = "linear"
    elif "prefactor" in o or "weight" in o:
        fixtures.skip(f"prefactor {o.get('prefactor')!r} and weight {o.get('weight')!r} are not options of scm")
    else:
        settings |= {"by_elements": o["divide_by_D"], "by_sigma": o["prior_weight_1_over_sigma"]}
    return ContinuousConsistency.model_validate(settings | {"uncertainty": "logvar" in case.arrays})


def _draw(case: Case, path: Linear) -> Draw:
    x, z, t = (case.arrays[name] for name in "xzt")
    v = path.velocity(x, z, t)
    y = case.arrays["y"]
    return Draw(x, z, t, torch.zeros_like(t), path.point(x, z, t), v, v, y, null=torch.full_like(y, 10), path=path)


def _guided(case: Case, draw: Draw) -> Draw:
    """FACM's velocity: extrapolated from what the teacher, or the network that is trained, says at this t."""
    if "guidance_w" not in case.options:
        return draw
    o = case.options
    kind, factors = ("frozen", ("omega", 0.0, "zeta")) if o["teacher"] else ("mean_flow", ("kappa", 0.0, "omega"))
    within = (o["null_kept_where_t_below"], o["null_kept_where_t_above"])
    guidance = GUIDANCE.get(kind).model_validate(
        {factors[0]: factors[1], factors[2]: o["guidance_w"], "null_within": within}
    )
    network = _network(case, "ema" if o["teacher"] else "param", "instant").requires_grad_(False)
    return draw._replace(v_t=guidance.velocity(draw, StepPasses({"online": network, "frozen": network}, len(draw.t))))


@pytest.mark.parametrize("units", ["of the data", "of one"])
@pytest.mark.parametrize("name", fixtures.names("objective", "scm"))
def test_objective(name: str, units: str) -> None:
    """The fixture's numbers, with noise as large as the data, or with data scaled to size one."""
    case = fixtures.load(name)
    expected, rtol, scale = case.group("expected"), case.info["recommended_rtol"], case.options.get("sigma_data", 1.0)
    path, objective, network = Linear(noise_std=scale), _objective(case), _network(case, "param")
    network.scale = scale
    draw = _draw(case, path)
    if units == "of one":
        draw = _draw(case._replace(arrays=case.arrays | {"x": case.arrays["x"] / scale}), Linear())
        if objective.by_sigma and scale != 1:
            fixtures.skip("sigma is that of the data's own units")
        objective, network.scale = objective.model_copy(update={"floor": objective.floor / scale}), 1.0
    if "logvar" in case.arrays:
        network.log_variances = case.arrays["logvar"].clone().requires_grad_()
    composer = Composer(path, Uniform(), Sorted(), {"scm": objective}, NoGuidance(), classes=10, label_drop=0.1)
    scored = composer.score({"online": network}, _guided(case, draw))
    term = scored.terms["scm"]
    term.share.backward()
    check("loss", term.share, expected["loss"], rtol)
    _parts(case, objective, scored.draw, scored.passes, term.out, network.scale)
    if network.log_variances is not None:
        assert network.log_variances.grad is not None
        check("gradient of logvar", network.log_variances.grad, expected["grad_logvar"], rtol)
    for weight, gradient in case.group("expected/grad").items():
        check(f"gradient of {weight}", network.weights[weight].grad, gradient, rtol)


def _parts(
    case: Case, objective: ContinuousConsistency, draw: Draw, passes: StepPasses, out: dict[str, Tensor], scale: float
) -> None:
    """What the loss is made of, where the fixture says it."""
    expected, rtol = case.group("expected"), case.info["recommended_rtol"]
    if "v_guided" in expected:
        check("v_guided", draw.v_t, expected["v_guided"], rtol)
    with torch.no_grad():
        losses, u = objective.loss(out, draw, passes), out["u"]
        if TERM in out:
            losses = (-out[TERM]).exp() * losses + out[TERM]
        check("per_sample", losses, expected["per_sample"], rtol)
        if "target_u" in expected:
            check("target_u", objective.target(draw, passes), expected["target_u"], rtol)
        t = over(draw.t, u)
        rho = torch.hypot(t, 1 - t)
        if "F" in expected:
            check("F", ((1 - 2 * t) / rho * draw.x_t + rho * u) / scale, expected["F"], rtol)
        if "dF" in expected:  # g = cos^2 (dx - F) - (cos sin x + cos sin dF) at w = 1, and cos^2 (dx - F) at w = 0
            whole, part = (
                objective.model_copy(update={"warmup": Constant(value=w)}).pull(u, draw, passes) for w in (1.0, 0.0)
            )
            d = (part - whole - t * (1 - t) / rho**3 * draw.x_t) / scale
            check("dF", d, expected["dF"], rtol)
