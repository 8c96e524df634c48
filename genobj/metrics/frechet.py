"""Frechet distances between Gaussians fitted to features (Heusel et al., 2017, arXiv 1706.08500, Eq. 6)."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from genobj.metrics.features import Extractor, FeatureMetric, Matrix, Moments, Need, Seen, Spread
from genobj.metrics.inception import Inception

Vector = Float[Tensor, " dim"]


class Frechet(FeatureMetric):
    """Frechet distance on features of a small classifier: what FID is to Inception."""

    citations: ClassVar[tuple[str, ...]] = ("heusel2017fid",)
    title: ClassVar[str] = "Frechet distance"
    needs: ClassVar[frozenset[Need]] = frozenset({"moments"})

    def refusal_of(self, extractor: Extractor, shape: tuple[int, ...], classes: int) -> str | None:
        """On Inception's features it has a name of its own."""
        if problem := super().refusal_of(extractor, shape, classes):
            return problem
        if isinstance(extractor, Inception) and not self.inception:
            return (
                "on Inception's features it is called fid: type fid, or name a network of your own (genobj extractor "
                "train): evaluate --extractor FOLDER, evaluation.extractor=FOLDER in settings."
            )
        return None

    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """Distance over all samples, labels ignored. Fewer samples give larger values: compare equal numbers."""
        assert samples.moments
        assert reference.moments
        return {"": frechet_distance(*samples.moments, *reference.moments)}


class FID(Frechet):
    """Frechet Inception distance: the 2,048 pooled features of Inception v3."""

    title: ClassVar[str] = "FID"
    inception: ClassVar[bool] = True


class SpatialFID(Frechet):
    """sFID: the first seven channels of Inception's mixed_6/conv at all 17 x 17 places (Nash et al., 2021)."""

    citations: ClassVar[tuple[str, ...]] = ("nash2021sparse", "heusel2017fid")
    title: ClassVar[str] = "sFID"
    inception: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"spatial"})

    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """Distance over all samples."""
        assert samples.spatial
        assert reference.spatial
        return {"": frechet_distance(*samples.spatial, *reference.spatial)}


def moments(features: Float[Tensor, "n dim"]) -> Moments:
    """Mean and covariance of at least two rows."""
    spread = Spread()
    spread.add(features)
    return spread.moments()


def frechet_distance(mean1: Vector, cov1: Matrix, mean2: Vector, cov2: Matrix) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64; not a number if something is not finite.

    C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2); rounding below zero counts as zero.
    """
    mean1, cov1, mean2, cov2 = (value.double() for value in (mean1, cov1, mean2, cov2))
    if not all(value.isfinite().all() for value in (mean1, cov1, mean2, cov2)):
        return math.nan
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    common = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * common)
