"""Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo, J. Stat. Plan. Inference 143, 2013)."""

from typing import ClassVar

from torch import Tensor

from genobj.data.base import Batch
from genobj.metrics.base import Metric
from genobj.metrics.pairwise import clouds, two_sample


class Energy(Metric):
    """Energy distance, unbiased: like MMD, without a bandwidth to choose."""

    citations: ClassVar[tuple[str, ...]] = ("szekely2013energy",)
    title: ClassVar[str] = "1000 x energy distance"
    factor: ClassVar[float] = 1000.0

    biased: bool = False
    """Keep the pairs of a point with itself: never negative, but larger for fewer samples."""

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """The distance between all samples and the whole reference, in the units of the data."""
        return two_sample(*clouds(samples, reference), _negative_root, self.biased)


def _negative_root(squared: Tensor) -> Tensor:
    return squared.sqrt().neg_()
