"""Consistency training, CT (Song et al., 2023, arXiv:2303.01469), in the time of the linear path.

    L = E  d( f(x_t, t), f-(x_q, q) ),    f = x_t - t u                                                     Sec. 5
    sigma_i = ( lowest^(1/7) + (i - 1) / (N - 1) (highest^(1/7) - lowest^(1/7)) )^7,    i = 1, ..., N
    N = ceil( sqrt( s_0^2 + k / K ((s_1 + 1)^2 - s_0^2) ) ),    mu = exp( s_0 log(mu_0) / (N - 1) )         App. C

sigma = t / (1 - t), and sigma_q is the level below sigma_t. i is uniform on 2, ..., N: type times=karras_levels with
the same levels; other laws of t step down by as much. d is the mean squared error (their "l2"; their LPIPS is not
here). f- is an average with decay mu (weights=ema, and ema.follows with the same levels) or, by default, the live
network, mu = 0, which iCT found to be right. The paper's f is the identity at the first level, ours at t = 0: q is 0
there.
"""

import math
from typing import Annotated, ClassVar, final

import torch

from genobj.config.base import Pick
from genobj.distances.base import Distance
from genobj.distances.mse import MSE
from genobj.objectives.lower_noise import KarrasGrid
from genobj.parts import DISTANCES
from genobj.schedules import Number, Root, within
from genobj.types import TimeTensor


@final
class ConsistencyTraining(KarrasGrid):
    """Consistency training: neighbours on a grid of noise levels, all weighed alike."""

    citations: ClassVar[tuple[str, ...]] = ("song2023consistency",)
    slack: ClassVar[float] = 1e-3

    distance: Annotated[Distance, Pick(DISTANCES, "mse")] = MSE()
    """Distance between the two ends f."""
    levels: Annotated[Number, within(2.0)] = Root(start=2.0, end=151.0)
    """N, the lowest and the highest level included: a number or a schedule (CIFAR-10: 2 to 151)."""

    def count(self, progress: float) -> float:
        """N - 1."""
        return math.floor(self.levels(progress)) - 1.0

    def pull(self, sigma: TimeTensor, sigma_q: TimeTensor) -> TimeTensor:
        """1."""
        return torch.ones_like(sigma)
