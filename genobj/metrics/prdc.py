"""Precision, recall, density and coverage: how samples and real images lie among each other's nearest neighbours.

Precision and recall: Kynkaanniemi et al., 2019 (arXiv 1904.06991, Eq. 1 and 2). Density and coverage: Naeem et al.,
2020 (arXiv 2002.09797, Eq. 3 and 4).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from genobj.metrics.features import FeatureMetric, Need, Seen

ROWS = 1000
"""Rows of distances held at once."""
COPY = 1e-12
"""Share of |x|^2 + |y|^2 below which a squared distance is rounding, and the rows are copies of each other."""
SAME = 1e-9
"""Relative difference up to which two distances are the same number, rounded in two ways."""
Rows = Float[Tensor, "n dim"]
Others = Float[Tensor, "m dim"]


class PRDC(FeatureMetric):
    """Precision and recall (k = 3), density and coverage (k = 5) on features; both depend on the numbers of samples."""

    citations: ClassVar[tuple[str, ...]] = ("kynkaanniemi2019precision", "naeem2020reliable")
    title: ClassVar[str] = "precision"
    parts: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage"}
    )
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    neighbours: Annotated[int, Field(gt=0)] = 3
    """k of precision and recall: the radius around a sample reaches its k-th neighbour in its own set."""
    density_neighbours: Annotated[int, Field(gt=0)] = 5
    """k of density and coverage."""
    limit: Annotated[int, Field(gt=0)] = 10_000
    """Real images compared with at most, the first ones (ADM: 10,000); time and values depend on it."""

    def too_few(self, samples: int, reference: int | None) -> str | None:
        """Every sample needs k others of its own set."""
        real = None if reference is None else min(reference, self.limit)
        most = max(self.neighbours, self.density_neighbours)
        return _lonely(samples, self.neighbours) or (None if real is None else _lonely(real, most))

    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """The four shares (density may exceed 1)."""
        assert samples.features is not None
        assert reference.features is not None
        x, y = samples.features.double(), reference.features[: self.limit].double()
        if not (x.isfinite().all() and y.isfinite().all()):
            return dict.fromkeys(self.parts, math.nan)
        k, kd = self.neighbours, self.density_neighbours
        reach_x, reach_y, reach_d = radii(x, k), radii(y, k), radii(y, kd)
        precise, recalled, dense, covered = 0.0, torch.zeros(len(y), dtype=torch.bool), 0.0, torch.zeros(len(y)).bool()
        for rows, own in zip(x.split(ROWS), reach_x.split(ROWS), strict=True):
            gaps = distances(rows, y)
            precise += float((gaps <= reach_y).any(1).sum())
            recalled |= (gaps <= own[:, None]).any(0)
            dense += float((gaps <= reach_d).sum())
            covered |= (gaps <= reach_d).any(0)
        return {
            "precision": precise / len(x),
            "recall": float(recalled.double().mean()),
            "density": dense / (kd * len(x)),
            "coverage": float(covered.double().mean()),
        }


def radii(x: Rows, k: int) -> Float[Tensor, " n"]:
    """Distance from every row to its k-th nearest other row; ValueError if there are too few.

    A little longer than it comes out, so that the k-th neighbour itself lies within it whatever the rounding.
    """
    if problem := _lonely(len(x), k):
        raise ValueError(problem)
    return torch.cat([distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(ROWS)]) * (1 + SAME)


def _lonely(count: int, k: int) -> str | None:
    if count > k:
        return None
    return f"the {k} nearest neighbours of a sample need more than {k} samples, got {count}."


def distances(x: Rows, y: Others) -> Float[Tensor, "n m"]:
    """Euclidean distances, float64; exactly 0 between rows that are the same.

    |x|^2 + |y|^2 - 2 x y, the fast way, leaves about 1e-6 |x| of nothing, which matters where images stand twice.
    """
    sizes = x.square().sum(1)[:, None] + y.square().sum(1)
    squares = torch.addmm(sizes, x, y.T, alpha=-2)
    return squares.masked_fill_(squares < COPY * sizes, 0).sqrt_()
