"""The family with a step fraction a: compare u with itself a little nearer to the data.

    q = t - a (t - r),   x_q = x_t - (t - q) v_t,   u_tgt = a v_t + (1 - a) sg u(x_q, q, r)

a = 1 is the velocity alone; for a -> 0 the residual (u - u_tgt) / a becomes MeanFlow's. With r = 0 it is consistency
training, f(x_t) - f(x_q) = -t (u - u_tgt) for f = x_t - t u (CT, iCT, ECT); with any r AlphaFlow and SoFlow. On a
curved path the step to x_q is one of Euler's, with an error of its order.
"""

import abc
from typing import Literal

import torch

from genobj.objectives.base import Regression
from genobj.types import Draw, Passes, Samples, TimeTensor, Weights, over


class Neighbour(Regression, abc.ABC):
    """Subclasses say where the neighbour q lies, and how residuals are weighed."""

    weights: Weights = "online"
    """Network at the neighbour: the live one or its average."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the passes: the residual is divided by a, and rounding with it. In low precision, float32 costs one
    more pass."""

    @property
    def networks(self) -> frozenset[Weights]:
        """The network at the neighbour."""
        return frozenset({self.weights})

    @property
    def precise(self) -> bool:
        """As set."""
        return super().precise or self.precision == "float32"

    @abc.abstractmethod
    def earlier(self, draw: Draw) -> TimeTensor:
        """q with r <= q <= t, shape (batch,)."""

    def end(self, draw: Draw) -> TimeTensor:
        """r: the drawn one, or 0 for a head that jumps to data."""
        return draw.r if self.horizon == "interval" else torch.zeros_like(draw.t)

    def fraction(self, draw: Draw, q: TimeTensor) -> TimeTensor:
        """a = (t - q) / (t - r), and 1 where r = t: the target there is the velocity."""
        length = draw.t - self.end(draw)
        return torch.where(length > 0, (draw.t - q) / length.where(length > 0, 1.0), 1.0)

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """u_tgt."""
        q = self.earlier(draw)
        a = over(self.fraction(draw, q), draw.x_t)
        x_q = draw.x_t - over(draw.t - q, draw.x_t) * draw.v_t
        point, precise = draw.point._replace(x_t=x_q, t=q), self.precision == "float32"
        u = self.ask(passes, point, weights=self.weights, precise=precise, skip=draw.equal)
        low, exact = (self.ask(passes, draw.point, precise=p, skip=draw.equal) for p in (False, precise))
        return a * draw.v_t + (1 - a) * u + (low - exact)  # as rounded as the prediction
