"""Consistency training in noise levels (ECT, iCT): the neighbour lies at a lower noise."""

import abc
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from genobj.config.base import Pick
from genobj.distances.base import Distance
from genobj.distances.pseudo_huber import PseudoHuber
from genobj.objectives.neighbour import Neighbour
from genobj.parts import DISTANCES
from genobj.times.karras_levels import KarrasSpacing
from genobj.types import Draw, Horizon, Losses, Passes, TimeTensor, over


class LowerNoise(Neighbour, abc.ABC):
    """Consistency training in noise levels sigma = t / (1 - t): x + sigma z is x_t / (1 - t) on the linear path.

    L = E w d( f(x_t, t), sg f(x_q, q) ),    f = x_t - t u, so f(x_q) - f(x_t) = t (u - u_tgt)
    """

    horizon: ClassVar[Horizon] = "data"
    straight: ClassVar[bool] = True

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


class KarrasGrid(LowerNoise, KarrasSpacing, abc.ABC):
    """The neighbour lies one step below on a grid of noise levels, which is even in sigma^(1 / rho) (Karras et al.)."""

    slack: ClassVar[float] = 0.0
    """Share of a step by which rounding may lift the first level."""

    @abc.abstractmethod
    def count(self, progress: float) -> float:
        """Number of steps of the grid."""

    def lower(self, sigma: TimeTensor, progress: float) -> TimeTensor:
        """One step down the grid; 0 from the first level down."""
        low, high = self.roots
        step = (high - low) / self.count(progress)
        root = sigma ** (1 / self.rho) - step
        return torch.where(root > low + self.slack * step, root.clamp(min=low) ** self.rho, 0.0)


def noise_level(t: TimeTensor) -> TimeTensor:
    """sigma = t / (1 - t), finite and positive."""
    t = t.clamp(1e-6, 1 - 1e-6)
    return t / (1 - t)
