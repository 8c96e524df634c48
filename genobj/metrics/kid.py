"""Kernel distance on features: KID (Binkowski et al., 2018, arXiv 1801.01401, Sec. 4)."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from genobj import seeds
from genobj.metrics.features import FeatureMetric, Need, Seen

SUBSETS = 0x3E7A2
"""Stream of `seeds` that belongs to this file."""
Rows = Float[Tensor, "n dim"]
Others = Float[Tensor, "m dim"]


class KID(FeatureMetric):
    """Squared MMD with the kernel (a b / dim + 1)^3, unbiased, averaged over random subsets of both sets."""

    citations: ClassVar[tuple[str, ...]] = ("binkowski2018kid",)
    title: ClassVar[str] = "1000 x KID"
    parts: ClassVar[Mapping[str, str]] = MappingProxyType({"std": "1000 x KID, spread of subsets"})
    factor: ClassVar[float] = 1000.0
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    subsets: Annotated[int, Field(gt=0)] = 100
    """Random subsets of both sets; their mean is the value."""
    size: Annotated[int, Field(ge=2)] = 1000
    """Samples in each subset; the smaller set as a whole if it has fewer."""

    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """Mean and population standard deviation over the subsets; values of equal laws scatter around zero."""
        assert samples.features is not None
        assert reference.features is not None
        x, y = (seen.features.double() / samples.scale for seen in (samples, reference))  # type: ignore[union-attr]
        size = min(self.size, len(x), len(y))
        values = [kernel_distance(*self._some(x, y, size, seed, i)) for i in range(self.subsets)]
        found = torch.tensor(values, dtype=torch.float64)
        return {"": float(found.mean()), "std": float(found.std(correction=0))}

    @staticmethod
    def _some(x: Rows, y: Others, size: int, seed: int, i: int) -> tuple[Tensor, Tensor]:
        source = seeds.generator(seed, SUBSETS, i)
        return tuple(rows[torch.randperm(len(rows), generator=source)[:size]] for rows in (x, y))  # type: ignore[return-value]


def kernel_distance(x: Rows, y: Others) -> float:
    """mean k(X, X) + mean k(Y, Y) - 2 mean k(X, Y) without the pairs of a row with itself, float64."""
    x, y = x.double(), y.double()
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs at least two samples in each set, got {len(x)} and {len(y)}.")
    if not (x.isfinite().all() and y.isfinite().all()):
        return math.nan

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / x.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        own = kernel(a, a)
        return (own.sum() - own.trace()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())
