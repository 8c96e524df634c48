"""2-Wasserstein distances between samples: exact by optimal assignment, and averaged over lines."""

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from genobj import seeds
from genobj.data.base import Batch
from genobj.metrics.base import Metric
from genobj.metrics.pairwise import Cloud, clouds, squared_distances

LINES, CHOICE = 0x3E7A0, 0x3E7A1
"""Streams of `seeds` that belong to this file."""
CHUNK = 32
"""Lines that are sorted together."""


class SlicedWasserstein(Metric):
    """Sliced 2-Wasserstein distance over seeded directions, exact along each line."""

    citations: ClassVar[tuple[str, ...]] = ("bonneel2015sliced",)
    title: ClassVar[str] = "sliced W2"

    projections: Annotated[int, Field(ge=1)] = 256
    """Number of random directions."""

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """Root of the mean over directions of the squared W2 of the projections, all samples used."""
        x, y = clouds(samples, reference)
        lines = torch.randn(self.projections, x.shape[1], generator=seeds.generator(seed, LINES), dtype=torch.float64)
        lines = (lines / lines.norm(dim=1, keepdim=True)).to(x)
        total = sum(float(line_costs(x @ some.T, y @ some.T).sum()) for some in lines.split(CHUNK))
        return math.sqrt(total / self.projections)


class Wasserstein(Metric):
    """Exact 2-Wasserstein distance of at most 1,000 samples a side, by optimal assignment."""

    title: ClassVar[str] = "W2"

    limit: Annotated[int, Field(ge=2)] = 1000
    """Samples per side; time grows with the third power. Values depend on it: fewer samples, larger distances."""

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """W2 of equally many samples and reference rows (`limit`, or the smaller set), chosen by the seed."""
        from scipy.optimize import linear_sum_assignment

        x, y = (cloud.double().cpu() for cloud in clouds(samples, reference))
        if not (x.isfinite().all() and y.isfinite().all()):
            return math.nan
        count = min(len(x), len(y), self.limit)
        costs = squared_distances(_some(x, count, seed, 0), _some(y, count, seed, 1)).numpy()
        return math.sqrt(costs[linear_sum_assignment(costs)].mean())


def line_costs(x: Float[Tensor, "n lines"], y: Float[Tensor, "m lines"]) -> Float[Tensor, " lines"]:
    """Squared W2 on every line, float64: the squared gap of the quantile functions, integrated exactly.

    The quantile functions of n and m points jump at multiples of 1 / n and 1 / m, here integers out of n m.
    """
    n, m = len(x), len(y)
    jumps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    widths = jumps.diff(prepend=jumps.new_zeros(1)).double() / (n * m)
    gaps = x.sort(dim=0).values[(jumps - 1) // m] - y.sort(dim=0).values[(jumps - 1) // n]
    return widths @ gaps.double().square()


def _some(cloud: Cloud, count: int, seed: int, side: int) -> Float[Tensor, "count dim"]:
    if count == len(cloud):
        return cloud
    return cloud[torch.randperm(len(cloud), generator=seeds.generator(seed, CHOICE, side))[:count]]
