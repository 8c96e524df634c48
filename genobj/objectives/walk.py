"""Objectives that compare a jump with a walk: a small step along the velocity, then N jumps of the network itself.

RCGM of order N, with which TwinFlow (arXiv 2512.05150) trains. With N + 1 evenly spaced times s_i from
s_0 = max(t - Delta, r) down to s_N = r,

    x' = x_t - Delta v_t,    d_i = (s_i - s_i+1) u^-(x', s_i, s_i+1),    x' <- x' - d_i,    S = sum_i d_i
    g  = ( (t - r) sg u - S ) / Delta - v_t    if t - r >= Delta,    sg u - v_t    else
    u* = sg u - clamp(g, +-c)

For N = 1 and Delta -> 0, g tends to u + (t - r) du/dt - v_t: MeanFlow without a derivative. Exact flow maps have
g = O(Delta) for every N, the error of the first step alone.
"""

import abc
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from genobj.objectives.base import Regression
from genobj.types import Draw, Passes, Samples, Weights, over


class Walk(Regression, abc.ABC):
    """Subclasses say which rows are compared with the walk, and what they learn besides."""

    order: Annotated[int, Field(ge=1)] = 2
    """N: jumps from t - delta to r; each costs a pass."""
    delta: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Delta: length of the step along the velocity; rows with t - r below it learn the velocity."""
    clamp: Annotated[float, Field(ge=0)] = 1.0
    """Bound on the entries of a correction, in units of the velocity; 0: none."""
    weights: Weights = "ema"
    """Network of the walk: the average (the authors': decay .99 or more for N > 1), the live one (theirs for N = 1; for
    N = 2 it ran away on moons), or a teacher."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the passes: g divides rounding by delta. In low precision, float32 costs one more pass."""

    @property
    def networks(self) -> frozenset[Weights]:
        """The network of the walk, where there is one."""
        return super().networks.union([self.weights] if self.order else [])

    @property
    def precise(self) -> bool:
        """As set for the walk, where there is one."""
        return super().precise or (self.order > 0 and self.precision == "float32")

    def bounded(self, difference: Tensor) -> Tensor:
        """The difference between +-clamp."""
        return difference.clamp(-self.clamp, self.clamp) if self.clamp else difference

    def walked(self, draw: Draw, passes: Passes) -> Samples:
        """u*, shaped like x_t; rows at the front that need no more than the velocity (draw.equal) cost nothing."""
        t, r, precise = draw.t, draw.r, self.precision == "float32"
        here = self.ask(passes, draw.point, precise=precise)
        x, start = draw.x_t - self.delta * draw.v_t, torch.maximum(t - self.delta, r)
        s, walk = start, torch.zeros_like(x)
        for step in range(1, self.order + 1):
            end = torch.lerp(start, r, step / self.order)
            point = draw.point._replace(x_t=x, t=s, r=end)
            jump = over(s - end, x) * self.ask(passes, point, weights=self.weights, precise=precise, skip=draw.equal)
            x, s, walk = x - jump, end, walk + jump
        rate = (over(t - r, here) * here - walk) / self.delta
        return here - self.bounded(torch.where(over(t - r < self.delta, here), here, rate) - draw.v_t)
