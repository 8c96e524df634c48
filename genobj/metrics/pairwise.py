"""Means of a kernel over all pairs of two point clouds, in tiles that stay in the processor's cache."""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from genobj.data.base import Batch

Cloud = Float[Tensor, "n dim"]
Other = Float[Tensor, "m dim"]
Kernel = Callable[[Float[Tensor, "rows columns"]], Float[Tensor, "rows columns"]]

TILE = 512
"""Rows and columns of one tile: 1 MB in float32."""
FEW = 16
"""Up to this many dimensions a loop over them is faster than cdist."""


def clouds(samples: Batch, reference: Batch) -> tuple[Cloud, Other]:
    """Both sets flattened, on one device: float64 if either is, float32 otherwise."""
    if samples.x.shape[1:] != reference.x.shape[1:]:
        raise ValueError(f"samples are shaped {tuple(samples.x.shape[1:])}, reference {tuple(reference.x.shape[1:])}.")
    if min(len(samples.x), len(reference.x)) < 2:
        raise ValueError("a distance between sets needs at least two samples in each.")
    dtype = torch.float64 if torch.float64 in (samples.x.dtype, reference.x.dtype) else torch.float32
    return samples.x.flatten(1).to(dtype), reference.x.flatten(1).to(samples.x.device, dtype)


def two_sample(x: Cloud, y: Other, kernel: Kernel, biased: bool) -> float:
    """mean k(X, X) + mean k(Y, Y) - 2 mean k(X, Y); unbiased: without the pairs of a point with itself."""
    between = _sum(x, y, kernel) / (len(x) * len(y))
    return _within(x, kernel, biased) + _known(y, 0 if y.is_inference() else y._version, kernel, biased) - 2 * between


def squared_distances(a: Cloud, b: Other) -> Float[Tensor, "n m"]:
    """|a_i - b_j|^2 from differences: |a|^2 + |b|^2 - 2 a b would lose near neighbours in float32."""
    if a.shape[1] > FEW:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
    total = a.new_zeros(len(a), len(b))
    for left, right in zip(a.T, b.T, strict=True):
        total += (left[:, None] - right).square_()
    return total


@lru_cache(maxsize=2)
def _known(y: Other, version: int, kernel: Kernel, biased: bool) -> float:
    """Within a reference, that is compared with again and again; `version` tells of changes in place."""
    return _within(y, kernel, biased)


def _within(x: Cloud, kernel: Kernel, biased: bool) -> float:
    tiles, total = x.split(TILE), 0.0
    for i, rows in enumerate(tiles):
        own = kernel(squared_distances(rows, rows)).double()
        total += float(own.sum() if biased else own.sum() - own.trace())
        total += 2 * sum(_sum(rows, columns, kernel) for columns in tiles[i + 1 :])
    return total / (len(x) ** 2 if biased else len(x) * (len(x) - 1))


def _sum(x: Cloud, y: Other, kernel: Kernel) -> float:
    """Sum over all pairs; float64 whatever the inputs are."""
    tiles = [
        kernel(squared_distances(rows, columns)).sum(dtype=torch.float64)
        for rows in x.split(TILE)
        for columns in y.split(TILE)
    ]
    return float(torch.stack(tiles).sum())
