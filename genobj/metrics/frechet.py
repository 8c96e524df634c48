"""Frechet distance between Gaussians fitted to features (Heusel et al., 2017, arXiv 1706.08500, Eq. 6)."""

import math
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genobj.data.base import Batch
from genobj.metrics import extractor
from genobj.metrics.base import Metric

Vector = Float[Tensor, " dim"]
Matrix = Float[Tensor, "dim dim"]


class Moments(NamedTuple):
    """Mean and covariance (divided by n - 1), float64."""

    mean: Vector
    covariance: Matrix


class Frechet(Metric):
    """Frechet distance on 64 features of a digits classifier: FID for 8 x 8 digits."""

    citations: ClassVar[tuple[str, ...]] = ("heusel2017fid",)
    title: ClassVar[str] = "Frechet distance"

    def refusal(self, shape: tuple[int, ...], classes: int) -> str | None:
        """The feature network sees 8 x 8 digits only."""
        return extractor.refusal(shape)

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """Distance over all samples, labels ignored. Fewer samples give larger values: compare equal numbers."""
        if not samples.x.isfinite().all():
            return math.nan
        mine, theirs = (moments(extractor.features(batch.x)) for batch in (samples, reference))
        return frechet_distance(*mine, *theirs)


def moments(features: Float[Tensor, "n dim"]) -> Moments:
    """Mean and covariance of at least two rows."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least two samples, got {len(features)}.")
    mean = features.double().mean(dim=0)
    centred = features.double() - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(mean1: Vector, cov1: Matrix, mean2: Vector, cov2: Matrix) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.

    C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2); rounding below zero counts as zero.
    """
    mean1, cov1, mean2, cov2 = (value.double() for value in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    common = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * common)
