"""Maximum mean discrepancy with a mixture of Gaussian kernels (Gretton et al., JMLR 13, 2012, Eq. 3 and 5)."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genobj.data.base import Batch
from genobj.metrics.base import Metric
from genobj.metrics.pairwise import clouds, two_sample


class MMD(Metric):
    """Squared maximum mean discrepancy over six Gaussian kernels, unbiased: for 2-D toys."""

    citations: ClassVar[tuple[str, ...]] = ("gretton2012mmd",)
    title: ClassVar[str] = "1000 x MMD^2"
    factor: ClassVar[float] = 1000.0

    bandwidths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        2.0,
        1.0,
        0.5,
        0.25,
        0.125,
        0.0625,
    )
    """Standard deviations s of the kernels exp(-d^2 / (2 s^2)), averaged. Values of other lists do not compare."""
    biased: bool = False
    """Keep the pairs of a point with itself: never negative, but larger for fewer samples."""

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """MMD^2 of all samples against the whole reference; unbiased values of equal laws scatter around zero."""
        return two_sample(*clouds(samples, reference), self._kernel, self.biased)

    def _kernel(self, squared: Tensor) -> Tensor:
        total, term, wider = torch.zeros_like(squared), torch.empty_like(squared), 0.0
        for bandwidth in sorted(self.bandwidths, reverse=True):
            if wider == 2 * bandwidth:
                term.square_().square_()  # half the bandwidth is the fourth power, cheaper than another exponential
            else:
                torch.mul(squared, -0.5 / bandwidth**2, out=term).exp_()
            total, wider = total.add_(term), bandwidth
        return total.div_(len(self.bandwidths))
