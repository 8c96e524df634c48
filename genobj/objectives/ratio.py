"""What UCGM's consistency ratio decides: what the head learns, where it is compared with itself, in which units.

Heads say v, or u = (x_t - b(0) x_hat) / t; UCGM's losses are in F = p z_hat + q x_hat, with p, q = noise_target,
data_target of the path, whatever the network says itself. X_s = a(s) z_g + b(s) x_g is the path through x_t whose pair
(z_g, x_g) belongs to the guided velocity.
"""

import abc
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from genobj.config.base import Pick
from genobj.distances.base import Distance
from genobj.distances.pseudo_huber import PseudoHuber
from genobj.objectives.base import Regression
from genobj.parts import DISTANCES
from genobj.schedules import Constant, Number, Schedule, within
from genobj.types import Draw, Horizon, Losses, Passes, Point, Samples, TimeTensor, over

QUARTER = 1.57
_SOON = 1e-6


class Ratio(Regression, abc.ABC):
    """Subclasses say how far a head moves when it disagrees with itself."""

    ratio: Annotated[Number, within(0.0, 1.0)] = Constant()
    """Consistency ratio lambda: 0 learns the velocity, 1 the jump in the limit; a schedule stays above 0."""
    distance: Annotated[Distance, Pick(DISTANCES, "pseudo_huber")] = PseudoHuber(c=5.0, reduce="mean")
    """Distance between F and F* (few steps: c = 5, or 9; many steps: c = 0 and the cosine beside it, kind sum)."""
    weighting: Literal["cosine", "reversed", "none"] = "cosine"
    """Factor of a row's loss: cos(1.57 t), the same in the time of the reversed transport, cos(1.57 (1 - t)), or 1."""
    step: Annotated[float, Field(gt=0, le=0.25)] = 0.005
    """e, step in t of the difference at ratios above 1 - e."""
    clamped: bool = False
    """Keep the times of that difference in [0, 1], and divide by what is left of 2e; on the path vp ever so."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the passes: a difference amplifies rounding. Where the forward with gradients is in low precision,
    float32 is one more pass below ratio 1."""

    @field_validator("ratio")
    @classmethod
    def _one_horizon(cls, ratio: Schedule) -> Schedule:
        if ratio.span[0] == 0 < ratio.span[1]:
            raise ValueError("0 learns the velocity, all above it the jump to data; type 0, or start it at 0.01")
        return ratio

    @property
    def jumps(self) -> bool:
        """Whether the head learns the jump to data."""
        return self.ratio.span[1] > 0

    @property
    def trains(self) -> Mapping[str, Horizon]:
        """The velocity at ratio 0, else the jump to data."""
        return {self.head: "data" if self.jumps else "instant"}

    @property
    def precise(self) -> bool:
        """As set, where passes are made."""
        return self.jumps and self.precision == "float32"

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """distance(F, F*), weighed, per sample."""
        with torch.no_grad():
            target = self.target(draw, passes)
        errors = self.distance(self.said(out[self.head], draw), self.said(target, draw))
        t = 1 - draw.t if self.weighting == "reversed" else draw.t
        return errors if self.weighting == "none" else (QUARTER * t).cos() * errors

    def said(self, answer: Samples, draw: Draw) -> Samples:
        """F of what the head says at x_t."""
        path, t = draw.interpolant, kept(draw.t)
        if self.jumps:
            x = path.landed(draw.x_t, answer, t)
            z = (draw.x_t - over(path.data_scale(t), x) * x) / over(path.noise_scale(t), x)
        else:
            x, z = path.ends(draw.x_t, answer, draw.t)
        return over(path.noise_target(t), z) * z + over(path.data_target(t), x) * x

    def change(self, draw: Draw, passes: Passes) -> Samples:
        """D: how fast x_hat changes along X, by its difference between t and ratio t, or t + e and t - e."""
        path, here, ratio, exact = draw.interpolant, draw.point, self.ratio(draw.progress), self.precise
        x, z = path.ends(draw.x_t, draw.v_t, draw.t)

        def at(s: TimeTensor) -> Point:
            s = s.clamp(0, 1) if self.clamped or not path.goes_on else s
            return here._replace(x_t=path.point(x, z, s), t=s)

        if 1 - ratio > self.step:  # nearer to 1 rounding is all that such a difference shows
            ahead, behind = here._replace(t=kept(here.t)), at(ratio * kept(here.t))
            u = self.ask(passes, here, precise=exact)
        else:
            ahead, behind = at(here.t + self.step), at(here.t - self.step)
            passes(ahead, behind, precise=exact)  # one batch; both are known from here on
            u = self.ask(passes, ahead, precise=exact)
        there = self.ask(passes, behind, precise=exact)
        change = path.landed(ahead.x_t, u, ahead.t) - path.landed(behind.x_t, there, behind.t)
        return change / over(ahead.t - behind.t, change)


def kept(t: TimeTensor) -> TimeTensor:
    """t, away from 0: jumps to data are divided by their length."""
    return t.where(t.abs() > _SOON, _SOON)
