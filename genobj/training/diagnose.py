"""Do the heads of one trunk help each other? Looks at a run now and then, and changes nothing in it (DuMo Sec. 4.3).

Every look takes held-out samples with noise and times of its own, a function of (seed, step), and logs, by key:

    norm/a              norm of objective a's gradient on the trunk, weighted as it enters the total loss
    cosine/a/b          cosine of the gradients of a and b there; weights do not change it
    norm_ratio/a/b      norm/a divided by norm/b; weights do
    gap/u/velocity      rms(u(x_t, t, t) - v) / rms(v): an interval head at r = t against the instant head
    gap/u/integral      the same for u(x_t, t, r), r < t, against the mean of v on the way from t to r
    tangent/u           rms of du/dt along the draw's velocity (guided, where guidance is on), where r < t
    scaled_tangent/u    rms of (t - r) du/dt, the form in which targets contain it
    target/a            rms of the target of a, on the rows that a scores
    added/a             rms of that target minus the draw's velocity: what a adds to flow matching

The network runs in evaluation mode (no dropout) and never compiled; gaps and tangents are float32. A value that is
not defined, such as the cosine with a gradient that is zero, is left out.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from genobj.composer import Composer, Scored
from genobj.config.base import Config
from genobj.data.base import Source
from genobj.derivatives import Derivative
from genobj.objectives.base import Regression
from genobj.passes import StepPasses, TrainedNetwork
from genobj.seeds import mix
from genobj.training.feed import moved
from genobj.training.state import State
from genobj.training.step import StepModule
from genobj.types import Draw, Horizon, Point, Samples, TimeTensor, over, resting

LOG, PICTURE = "diagnostics.jsonl", "diagnostics.png"
LOOKS = 0xD1A6  # stream of random numbers
Values = dict[str, float]


class Diagnose(Config):
    """How the objectives and heads of a run get on with each other; written to diagnostics.jsonl."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between looks (and one at the end); 0: none."""
    batch: Annotated[int, Field(gt=0)] = 256
    """Held-out samples of a look, all at once on the device."""
    steps: Annotated[int, Field(gt=0)] = 16
    """Heun steps of the integral of the velocity."""

    @property
    def idle(self) -> frozenset[str]:
        """All but `every`, if nobody looks."""
        return frozenset() if self.every else frozenset({"batch", "steps"})


class Diagnosis:
    """A hook that looks at the run and writes one line.

    board: TensorBoard's writer, if one is wanted; compiled: whether the network is.
    """

    def __init__(
        self,
        folder: Path,
        settings: Diagnose,
        step: StepModule,
        source: Source,
        seed: int,
        total: int,
        board: Any = None,
        *,
        compiled: bool = False,
    ):
        self.file, self.board = folder / LOG, board
        self.settings, self.composer, self.seed, self.total = settings, step.composer, seed, total
        self.networks, self.compiled = step.networks, compiled
        self.held_out = source.held_out(settings.batch, seed)

    def __call__(self, state: State, means: Mapping[str, float]) -> None:
        """Write the line of this step."""
        values = {key: value for key, value in self.look(state).items() if math.isfinite(value)}
        line = {"step": state.step, "seen": state.seen} | {key: float(f"{v:.6g}") for key, v in values.items()}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for key, value in values.items():
                self.board.add_scalar(key, value, state.step)

    def look(self, state: State) -> Values:
        """All values of this moment."""
        device, composer = next(state.model.parameters()).device, self.composer
        x, y, _ = self.held_out
        with untouched(state.model, device), eagerly() if self.compiled else nullcontext():
            stream = mix(self.seed, LOOKS, state.step)
            torch.manual_seed(stream)
            generator = torch.Generator(device).manual_seed(stream)
            progress = state.seen / self.total
            draw = composer.draw(
                moved(x, device), None if y is None else moved(y, device), generator, min(progress, 1.0)
            )
            scored = composer.score(self.networks, draw)
            values = gradients(scored, [p for p in state.model.trunk.parameters() if p.requires_grad])
            with torch.no_grad():
                values |= gaps(self.networks["online"], scored.draw, self.settings.steps)
                values |= tangents(self.networks["online"], scored.draw)
                values |= targets(composer, scored)
        return values


def eagerly() -> AbstractContextManager[Any]:
    """No torch.compile inside: compiled backward passes run once only, and here it is once a term."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module's mode and the global random numbers are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def gradients(scored: Scored, trunk: list[nn.Parameter]) -> Values:
    """Norms of the terms' gradients on the trunk, and every pair's cosine and ratio of norms."""
    flat: dict[str, Tensor] = {}
    for name, term in scored.terms.items():
        parts = torch.autograd.grad(term.share, trunk, retain_graph=True, materialize_grads=True)
        flat[name] = torch.cat([part.detach().flatten().float() for part in parts])
    norms = {name: gradient.norm().item() for name, gradient in flat.items()}
    values = {f"norm/{name}": norm for name, norm in norms.items()}
    for a, b in combinations(flat, 2):
        values[f"cosine/{a}/{b}"] = _ratio(flat[a].dot(flat[b]).item(), norms[a] * norms[b])
        values[f"norm_ratio/{a}/{b}"] = _ratio(norms[a], norms[b])
    return values


def gaps(net: TrainedNetwork, draw: Draw, steps: int) -> Values:
    """How far every flow map is from the model's own velocity, at r = t and integrated from t to r."""
    values: Values = {}
    for head, horizon in _flow_maps(net):
        velocity = _velocity_of(head, net.horizons)
        if velocity is None:
            continue
        if velocity != head and horizon == "interval":
            at_t = draw.velocity_point._replace(r=draw.t)
            values[f"gap/{head}/velocity"] = _relative(_ask(net, at_t, head), _ask(net, at_t, velocity))
        jump = _jumps(draw, horizon).point
        if len(jump.t):
            mean = average_velocity(net, velocity, jump, steps)
            values[f"gap/{head}/integral"] = _relative(_ask(net, jump, head), mean)
    return values


def average_velocity(net: TrainedNetwork, head: str, point: Point, steps: int) -> Samples:
    """Mean of the velocity that `head` gives on the way from t to r, by Heun's method in equal steps.

    The mean of the steps' velocities, rather than (x_t - x_r) / (t - r), is exact in short intervals, too.
    """
    assert point.r is not None
    x, mean = point.x_t, torch.zeros_like(point.x_t)
    for i in range(steps):
        t, s = (point.t + (point.r - point.t) * (k / steps) for k in (i, i + 1))
        here = _ask(net, _at_rest(point, x, t), head)
        there = _ask(net, _at_rest(point, x - over(t - s, x) * here, s), head)
        v = (here + there) / 2
        x, mean = x - over(t - s, x) * v, mean + v / steps
    return mean


def tangents(net: TrainedNetwork, draw: Draw) -> Values:
    """Norms of du/dt along the draw's velocity, as it is and times t - r."""
    values: Values = {}
    for head, horizon in _flow_maps(net):
        jumps = _jumps(draw, horizon)
        if len(jumps.t):
            du_dt = Derivative()(jumps, StepPasses({"online": net}, len(jumps.t)), head)
            values[f"tangent/{head}"] = _rms(du_dt)
            values[f"scaled_tangent/{head}"] = _rms(over(jumps.t - jumps.r, du_dt) * du_dt)
    return values


def targets(composer: Composer, scored: Scored) -> Values:
    """Norms of the targets, and of what they add to the draw's velocity."""
    values: Values = {}
    for name, objective in composer.objectives.items():
        if not isinstance(objective, Regression) or not objective.at_draw:
            continue
        draw, rows = scored.terms[name].draw, composer.shares[name].mask(scored.draw)
        kept = slice(None) if rows is None else rows
        target = objective.target(draw, scored.passes)[kept]
        if len(target):
            values |= {f"target/{name}": _rms(target), f"added/{name}": _rms(target - draw.v_t[kept])}
    return values


def panels(folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What a picture of a run's diagnostics shows, heading -> label -> (step, value); nothing if there are none."""
    file = folder / LOG
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    shown: dict[str, dict[str, list[tuple[float, float]]]] = {heading: {} for heading in _PANELS.values()}
    for line in lines:
        for key, value in line.items():
            kind, _, rest = key.partition("/")
            if kind in _PANELS and value:  # flow matching adds 0 all the time
                label = _LABELS[kind].format(*rest.split("/"))
                shown[_PANELS[kind]].setdefault(label, []).append((float(line["step"]), value))
    return {heading: curves for heading, curves in shown.items() if curves}


_PANELS = {
    "cosine": "cosine of trunk gradients",
    "norm": "norm of trunk gradients",
    "gap": "distance of flow maps from the velocity (relative rms)",
} | dict.fromkeys(("tangent", "added"), "tangents, and what targets add to the velocity (rms)")
_LABELS = {
    "cosine": "{} and {}",
    "norm": "{}",
    "gap": "{} against the {}",
    "tangent": "du/dt of {}",
    "added": "added by {}",
}


def _flow_maps(net: TrainedNetwork) -> list[tuple[str, Horizon]]:
    return [(head, horizon) for head, horizon in net.horizons.items() if horizon != "instant"]


def _velocity_of(head: str, horizons: Mapping[str, Horizon]) -> str | None:
    """The head whose velocity `head` should follow: an instant head, itself, another interval head, or none."""
    best = [name for name, horizon in horizons.items() if horizon == "instant"]
    others = [name for name, horizon in horizons.items() if horizon == "interval"]
    return next(iter([*best, *(name for name in others if name == head), *others]), None)


def _jumps(draw: Draw, horizon: Horizon) -> Draw:
    """The draw with r = 0 for a head that jumps to data; for an interval head its rows with r < t."""
    if horizon == "data":
        return draw._replace(r=torch.zeros_like(draw.t), equal=0)
    rows = draw.r < draw.t
    kept = {key: value[rows] for key, value in draw._asdict().items() if isinstance(value, Tensor)}
    return draw._replace(**kept, equal=0)


def _at_rest(point: Point, x: Samples, t: TimeTensor) -> Point:
    """The point where the velocity at (x, t) is asked for, with the guidance that holds there."""
    return Point(x, t, t, point.y, resting(point.g, t))


def _ask(net: TrainedNetwork, point: Point, head: str) -> Samples:
    """A head at a point, in full precision."""
    return StepPasses({"online": net}, len(point.t))(point, precise=True)[0][head]


def _rms(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()


def _relative(x: Tensor, wanted: Tensor) -> float:
    return _ratio(_rms(x - wanted), _rms(wanted))


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
