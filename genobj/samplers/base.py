"""A sampler walks from noise (t = 1) to data (t = 0), guides the network and counts what it costs."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genobj.config.base import Config, Pick
from genobj.parts import GRIDS, SAMPLERS
from genobj.paths.base import Path
from genobj.paths.linear import Linear
from genobj.samplers.grids import Grid, Uniform
from genobj.samplers.presets import settings_of
from genobj.types import FedNetwork, Horizon, Labels, Network, Samples

S = TypeVar("S", bound="Sampler")
Noise = Callable[[int], Samples]
"""noise(i): fresh standard normal noise of step i, shaped like z."""

_STRAIGHT = Linear()
_GIVES: Mapping[Horizon, str] = {
    "instant": "gives the velocity",
    "data": "jumps to data",
    "ends": "jumps to data",
    "interval": "jumps between times",
}
_INSTEAD: Mapping[Horizon, str] = {
    "interval": "flow_map",
    "data": "restart, or flow_map with steps=1",
    "ends": "restart, euler or heun",
    "instant": "euler or heun",
}


class Walk(NamedTuple):
    """Generated samples (batch, *shape) and how they came about.

    nfe: network evaluations per sample, where a guided evaluation counts two;
    trajectory: (steps + 1, batch, *shape) states at the times of the grid, the last one being the samples.
    """

    samples: Samples
    nfe: int
    trajectory: Tensor


@final
@dataclass
class Flow:
    """The average velocity that a sampler follows: one head of a network, guided and counted."""

    net: Network
    head: str
    path: Path
    y: Labels | None
    null: int | None
    guidance: float
    interval: tuple[float, float]
    fed: bool = False
    """Whether the network is told scale and interval (one evaluation) instead of being asked twice."""
    dtype: torch.dtype | None = None
    """Type that the network is asked in; unset: that of the state."""
    nfe: int = 0
    memory: list[tuple[Samples, ...]] = field(default_factory=list)
    """What a sampler wants to remember of the steps of this walk."""

    def average(self, x_t: Samples, t: float, r: float) -> Samples:
        """u(x_t, t, r), guided as u_null + w (u_y - u_null) where t lies in the interval."""
        low, high = self.interval
        if self.fed or self.guidance == 1 or not low <= t <= high:
            self.nfe += 1
            return self._ask(x_t, t, r, self.y)
        assert self.y is not None
        assert self.null is not None
        self.nfe += 2
        labels = torch.cat([self.y, torch.full_like(self.y, self.null)])
        given, free = self._ask(torch.cat([x_t, x_t]), t, r, labels).unflatten(0, (2, -1))
        return free + self.guidance * (given - free)

    def velocity(self, x_t: Samples, t: float) -> Samples:
        """u(x_t, t, r = t), the instantaneous velocity."""
        return self.average(x_t, t, t)

    def scales(self, t: float) -> tuple[float, float]:
        """Factors of noise and data at time t, computed on the CPU in float64."""
        time = torch.tensor([t], dtype=torch.float64)
        return self.path.noise_scale(time).item(), self.path.data_scale(time).item()

    def ends(self, x_t: Samples, v: Samples, t: float) -> tuple[Samples, Samples]:
        """Data and noise that a state and its velocity belong to: see Path.ends."""
        return self.path.ends(x_t, v, x_t.new_full((x_t.shape[0],), t))

    def _ask(self, x_t: Samples, t: float, r: float, y: Labels | None) -> Samples:
        state = x_t if self.dtype is None else x_t.to(self.dtype)
        size = state.shape[0]  # len() would fix the size of the batch in an exported graph
        times = torch.full((2, size), t, dtype=state.dtype, device=state.device)
        times[1] = r
        guide = {"g": state.new_tensor([self.guidance, *self.interval]).expand(size, -1)} if self.fed else {}
        return self.net(state, times[0], r=times[1], y=y, **guide)[self.head].to(x_t.dtype)


class Sampler(Config, abc.ABC):
    """Subclasses write one step and say which horizons can answer it; the walk is the same for all."""

    evaluations: ClassVar[int] = 1
    """Unguided network evaluations of one step."""
    adaptive: ClassVar[bool] = False
    """Whether a walk itself finds out how many evaluations it takes."""

    steps: Annotated[int, Field(ge=1)] = 1
    """Number of steps."""
    grid: Annotated[Grid, Pick(GRIDS, "uniform")] = Uniform()
    """Times between the steps."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Classifier-free guidance scale w while sampling, u_null + w (u_y - u_null); 1 is off and costs half."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Closed interval of t where guidance holds; outside it w = 1."""
    head: str | None = None
    """Head to follow; by default the first one made for this sampler's question, else one that can answer it too."""

    @property
    @abc.abstractmethod
    def answers(self) -> tuple[Horizon, ...]:
        """Horizons of the heads that can answer what a step asks, best first."""

    @abc.abstractmethod
    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """State at r < t from the state at t; `fresh` gives this step's noise."""

    def start(self, flow: Flow, z: Samples, t: float) -> Samples:
        """State at the first time of the grid."""
        return flow.scales(t)[0] * z

    def end(self, flow: Flow, x_0: Samples) -> Samples:
        """Samples from the state at t = 0: data on the EDM path is twice its size there."""
        return x_0 / flow.scales(0.0)[1]

    def cost(self, steps: int) -> int:
        """Unguided evaluations of a walk of so many steps, which grow with them."""
        return steps * self.evaluations

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings behind a name of genobj.samplers.presets, as in restart-ect-2; UnknownName if it has none such."""
        return settings_of(SAMPLERS.name_of(cls), name)

    @model_validator(mode="after")
    def _fits(self) -> "Sampler":
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval must be [low, high] with 0 <= low <= high <= 1, got {list(self.interval)}")
        self.grid.times(self.steps)
        return self

    def refusal(self, horizons: Mapping[str, Horizon]) -> str | None:
        """Why these heads cannot answer this sampler, with what to use instead, or None."""
        if self.head is not None and self.head not in horizons:
            return f"this model has no head {self.head!r}: choose from {', '.join(horizons) or 'none'}"
        if self._head(horizons):
            return None
        name = f"{SAMPLERS.name_of(type(self))} with {self.steps} step{'s' if self.steps > 1 else ''}"
        *others, last = self.answers
        horizon = f"{', '.join(others)} or {last}" if others else last
        needs = f"needs a head that {_GIVES[self.answers[0]]} (horizon {horizon})"
        asked = self._asked(horizons)
        has = ", ".join(f"{head} ({horizon})" for head, horizon in asked.items()) or "none"
        use = [f"use {samplers}" for ending, samplers in _INSTEAD.items() if ending in asked.values()]
        instead = use[0] if use else "train one, for example with --objectives fm"
        return f"{name} {needs}; {'this model has' if self.head is None else 'it is told to follow'} {has}: {instead}"

    def follows(self, horizons: Mapping[str, Horizon]) -> str:
        """The head that is asked; ValueError if none of these can answer."""
        if problem := self.refusal(horizons):
            raise ValueError(problem)
        head = self._head(horizons)
        assert head is not None
        return head

    def with_nfe(self: S, nfe: int) -> S:
        """The same sampler with as many steps as cost `nfe` unguided evaluations; ValueError if there are none such."""
        steps = next(n for n in count(1) if self.cost(n) >= nfe)
        if self.cost(steps) != nfe:
            near = " or ".join(f"nfe={self.cost(n)}" for n in (steps - 1, steps) if n > 0)
            last = "" if self.cost(1) == self.evaluations else f" but {self.cost(1)} in the last"
            price = f"{SAMPLERS.name_of(type(self))} costs {self.evaluations} evaluations a step{last}"
            raise ValueError(f"{price}, not nfe={nfe} in all: type {near}")
        try:
            self.grid.times(steps)
        except ValueError as error:
            name = SAMPLERS.name_of(type(self))
            raise ValueError(f"{error} (as it stands, {name} takes nfe={self.cost(self.steps)})") from None
        return type(self).model_validate(dict(self) | {"steps": steps})

    @torch.no_grad()
    def __call__(
        self,
        net: Network,
        z: Samples,
        y: Labels | None = None,
        *,
        path: Path = _STRAIGHT,
        null: int | None = None,
        noise: Noise | None = None,
        keep: bool = True,
    ) -> Walk:
        """Samples from noise z (batch, *shape) and labels y.

        null: the label of no condition, for guidance; noise: fresh noise of step i, by default torch.randn_like(z);
        keep: False leaves only the last state in the trajectory, which saves memory where samples are large.
        """
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        flow = self.flow(net, y, path, null, z.dtype)
        draw: Noise = noise or (lambda i: torch.randn_like(z))
        times = self.grid.along(path, self.steps)
        states = [self.start(flow, z, times[0])]
        for i, (t, r) in enumerate(pairwise(times)):
            x_r = self.step(flow, states[-1], t, r, partial(draw, i))
            states = [*states, x_r] if keep else [x_r]
        states = [*(state.to(z) for state in states[:-1]), self.end(flow, states[-1]).to(z)]
        return Walk(states[-1], flow.nfe, torch.stack(states))

    def flow(
        self, net: Network, y: Labels | None, path: Path, null: int | None, dtype: torch.dtype | None = None
    ) -> Flow:
        """The network's flow, asked in this type; ValueError if its heads or labels do not allow what is wanted."""
        head = self.follows(net.horizons)
        if self.guidance != 1 and (y is None or null is None):
            what = "a model with a null label, and this one has no labels" if null is None else "labels y"
            raise ValueError(f"guidance={self.guidance} needs {what}: set guidance=1")
        fed = net.fed if isinstance(net, FedNetwork) else 0.0
        if fed and not 1 <= self.guidance <= fed:
            raise ValueError(f"this model is told its guidance scale, from 1 to {fed:g}, got {self.guidance:g}")
        return Flow(net, head, path, y, null, self.guidance, self.interval, bool(fed), dtype)

    def _asked(self, horizons: Mapping[str, Horizon]) -> Mapping[str, Horizon]:
        return horizons if self.head is None else {self.head: horizons[self.head]}

    def _head(self, horizons: Mapping[str, Horizon]) -> str | None:
        """First head in the order of `answers`, None if there is none."""
        found = [head for horizon in self.answers for head, h in self._asked(horizons).items() if h == horizon]
        return next(iter(found), None)
