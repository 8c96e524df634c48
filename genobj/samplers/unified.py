"""The unified sampler of UCGM (Sun et al., arXiv 2505.07447) and TwinFlow (Cheng et al., arXiv 2512.05150).

Every step asks for the data and the noise (x_hat, z_hat) that the state seems made of, and mixes them anew at the next
time (their gamma and alpha are data_scale and noise_scale here, their rho is kappa):

    x_r = data_scale(r) x_hat + noise_scale(r) (sqrt(1 - kappa) z_hat + sqrt(kappa) eps).

The samples are the last x_hat as the network gave it. A walk starts at pure noise of the path's size, whatever the
first time, and its states are float64; the network is asked in its own precision.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, model_validator

from genobj.config.base import Pick
from genobj.parts import GRIDS
from genobj.paths.linear import Linear
from genobj.samplers.base import Flow, Sampler
from genobj.samplers.grids import Grid, Kumaraswamy
from genobj.types import Horizon, Samples


@final
class Unified(Sampler):
    """UCGM's and TwinFlow's: few jumps with fresh noise, or many extrapolated steps, one evaluation each."""

    citations: ClassVar[tuple[str, ...]] = ("sun2025ucgm", "cheng2025twinflow")

    steps: Annotated[int, Field(ge=1)] = 2
    """Number of steps."""
    grid: Annotated[Grid, Pick(GRIDS, "kumaraswamy")] = Kumaraswamy()
    """Times between the steps; kumaraswamy has UCGM's exponents and gaps."""
    style: Literal["few", "mul", "any"] = "few"
    """Target time that a head is told: data (few: heads that jump to data), the time itself (mul: velocity heads) or
    the next time (any: flow maps)."""
    kappa: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 1.0
    """Share of fresh noise in the variance; auto: |r - t| 2 noise_scale(t) / noise_scale(r)^2, at most 1,
    where noise has size 1."""
    frozen: bool = True
    """Whether auto is worked out in the first step only, as the public code does, and not in every step anew."""
    extrapolation: Annotated[float, Field(ge=0)] = 0.0
    """How far x_hat and z_hat are moved on along their last change, from the third step on."""
    order: Literal[1, 2] = 1
    """2: Heun's correction with the noise at the end of the step, for a second evaluation; not in the last step of a
    grid that leaves a gap before data."""

    @property
    def idle(self) -> frozenset[str]:
        """Freezing a number."""
        return frozenset() if self.kappa == "auto" else frozenset({"frozen"})

    @model_validator(mode="after")
    def _second_order(self) -> "Unified":
        if self.order == 2 and self.style == "any":
            raise ValueError("order=2 corrects velocities or jumps to data, not style=any: type order=1 or style=mul")
        if self.order == 2 and self.grid.times(self.steps)[0] == 1:
            raise ValueError("order=2 divides by the share of data, which is 0 at t = 1: type grid.gaps=[0.001,0.001]")
        return self

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """Heads that answer at the target time of the style."""
        styles: dict[str, tuple[Horizon, ...]] = {
            "few": ("data", "ends", "interval"),
            "mul": ("instant", "ends", "interval"),
            "any": ("interval",),
        }
        return styles[self.style]

    def cost(self, steps: int) -> int:
        """One evaluation a step, two at order 2 but for a last step that only jumps to data."""
        return steps if self.order == 1 else 2 * steps - bool(self.grid.rest)

    def start(self, flow: Flow, z: Samples, t: float) -> Samples:
        """Noise, in float64."""
        return z.to(torch.float64) * flow.path.noise_size

    def end(self, flow: Flow, x_0: Samples) -> Samples:
        """The last x_hat as it came."""
        return flow.memory[-1][0]

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """x_r from what x_t seems made of."""
        (noise_t, data_t), (noise_r, data_r) = flow.scales(t), flow.scales(r)
        raw = self._made_of(flow, x_t, t, r)
        x_hat, z_hat = raw
        if self.extrapolation and len(flow.memory) > 1:
            x_hat, z_hat = (
                now + self.extrapolation * (now - before) for now, before in zip(raw, flow.memory[-1], strict=True)
            )
        flow.memory = [*flow.memory[-1:], raw]
        mixed, kappa = z_hat, self._kappa(flow, t, r)
        if kappa > 0:
            mixed = z_hat * math.sqrt(1 - kappa) + fresh().to(x_t) * math.sqrt(kappa)
        x_r = data_r * x_hat + noise_r * mixed
        if self.order == 1 or (r == 0 and self.grid.rest):
            return x_r
        z_there = self._made_of(flow, x_r, r, r)[1]
        return x_t * data_r / data_t + (noise_r - data_r * noise_t / data_t) * (0.5 * z_hat + 0.5 * z_there)

    def _made_of(self, flow: Flow, x_t: Samples, t: float, r: float) -> tuple[Samples, Samples]:
        """x_hat and z_hat of a state: of its velocity or, where a head jumps, of the state and where it lands."""
        told = {"few": 0.0, "mul": t, "any": r}[self.style]
        u = flow.average(x_t, t, told)
        if told == t or isinstance(flow.path, Linear):  # a jump along a straight line says what a velocity says
            return flow.ends(x_t, u, t)
        (noise_t, data_t), (noise_s, data_s) = flow.scales(t), flow.scales(told)
        noise_s = noise_s if told else 0.0  # the EDM path has a trace of noise in its data
        there, determinant = x_t - (t - told) * u, noise_t * data_s - data_t * noise_s
        return (noise_t * there - noise_s * x_t) / determinant, (data_s * x_t - data_t * there) / determinant

    def _kappa(self, flow: Flow, t: float, r: float) -> float:
        if self.kappa != "auto":
            return self.kappa
        if self.frozen:
            t, r = next(pairwise(self.grid.along(flow.path, self.steps)))
        noise_t, noise_r = (flow.scales(time)[0] / flow.path.noise_size for time in (t, r))
        share = math.sqrt(abs(r - t)) * math.sqrt(2 * noise_t) / noise_r if noise_r else 1.0
        return min(share * share, 1.0)
