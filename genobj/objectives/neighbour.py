"""The family with a step fraction a: compare u with itself a little nearer to the data.

    q = t - a (t - r),   x_q = x_t - (t - q) v_t,   u_tgt = a v_t + (1 - a) sg u(x_q, q, r)

a = 1 is the velocity alone; for a -> 0 the residual (u - u_tgt) / a becomes MeanFlow's. With r = 0 it is consistency
training, f(x_t) - f(x_q) = -t (u - u_tgt) for f = x_t - t u (CT, iCT, ECT); with any r AlphaFlow and SoFlow.
"""

import abc
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from genobj.config.base import Pick
from genobj.distances.base import Distance
from genobj.distances.pseudo_huber import PseudoHuber
from genobj.objectives.base import Regression
from genobj.parts import DISTANCES
from genobj.types import Draw, Horizon, Losses, Passes, Samples, TimeTensor, Weights, over


class Neighbour(Regression, abc.ABC):
    """Subclasses say where the neighbour q lies, and how residuals are weighed."""

    weights: Literal["online", "ema"] = "online"
    """Network at the neighbour: the live one or its average."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the pass: the residual is divided by a, and rounding with it."""

    @property
    def networks(self) -> frozenset[Weights]:
        """The network at the neighbour."""
        return frozenset({self.weights})

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
        return a * draw.v_t + (1 - a) * u


class LowerNoise(Neighbour, abc.ABC):
    """Consistency training in noise levels sigma = t / (1 - t): x + sigma z is x_t / (1 - t) on the linear path.

    L = E w d( f(x_t, t), sg f(x_q, q) ),    f = x_t - t u, so f(x_q) - f(x_t) = t (u - u_tgt)
    """

    horizon: ClassVar[Horizon] = "data"

    head: str = "u"
    """Head that learns the jump to data."""
    distance: Annotated[Distance, Pick(DISTANCES, "pseudo_huber")] = PseudoHuber()
    """Distance d between the two ends (iCT: c = 0.00054 sqrt(elements of a sample))."""

    @abc.abstractmethod
    def lower(self, sigma: TimeTensor, progress: float) -> TimeTensor:
        """sigma_q below sigma, at least 0."""

    def pull(self, sigma: TimeTensor, sigma_q: TimeTensor) -> TimeTensor:
        """w."""
        return 1 / (sigma - sigma_q)

    def earlier(self, draw: Draw) -> TimeTensor:
        """q of sigma_q."""
        sigma_q = self.lower(noise_level(draw.t), draw.progress)
        return sigma_q / (1 + sigma_q)

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """w times the distance between the ends."""
        with torch.no_grad():
            sigma, target = noise_level(draw.t), self.target(draw, passes)
            w = self.pull(sigma, self.lower(sigma, draw.progress))
        t = over(draw.t, target)
        return w * self.distance(t * out[self.head], t * target)


def noise_level(t: TimeTensor) -> TimeTensor:
    """sigma = t / (1 - t), finite and positive."""
    t = t.clamp(1e-6, 1 - 1e-6)
    return t / (1 - t)
