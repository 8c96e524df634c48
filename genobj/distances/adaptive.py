"""Squared error divided by a power of itself that carries no gradient.

Geng et al., Mean Flows for One-step Generative Modeling, arXiv 2505.13447, Sec. 4.3 and appendix, after Geng et al.,
Consistency Models Made Easy, arXiv 2406.14548: the gradient is 2 (S + eps)^-p (prediction - target), so that larger p
evens out how hard the samples pull. With D elements a sample, sum and mean relate as
adaptive(S; p, eps) = D^(1 - p) adaptive(S / D; p, eps / D).
"""

from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.distances.base import Distance
from genobj.distances.mse import Reduce, squared_error
from genobj.types import Losses, Samples


@final
class Adaptive(Distance):
    """Squared error S over (S + eps)^p without gradient: MeanFlow's adaptive weight."""

    citations: ClassVar[tuple[str, ...]] = ("geng2025meanflow",)

    power: Annotated[float, Field(ge=0)] = 1.0
    """p: 0 is the squared error, 0.5 pulls equally on all samples, 1 less on bad ones (MeanFlow: 1, CIFAR-10: 0.75)."""
    eps: Annotated[float, Field(gt=0)] = 1e-3
    """Squared error below which a sample's pull fades, summed or meaned as S is (MeanFlow's ImageNet code: 1e-2)."""
    reduce: Reduce = "sum"
    """S is the sum over the elements of a sample (MeanFlow) or their mean (FACM)."""
    squared: bool = False
    """Put S^2 in the place of S, as a public port of MeanFlow does: the pull is that of 2 p - 1, twice as strong."""

    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """S / sg(S + eps)^p, shape (batch,)."""
        error = squared_error(prediction, target, self.reduce)
        error = error.square() if self.squared else error
        return error * (error.detach() + self.eps) ** -self.power
