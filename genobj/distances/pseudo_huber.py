"""Squared near zero, a distance far away.

Song and Dhariwal, Improved Techniques for Training Consistency Models, arXiv 2310.14189, Sec. 3.3. Its gradient is that
of half the adaptive distance with p = 1/2 and eps = c^2.
"""

from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.distances.base import Distance
from genobj.distances.mse import Reduce, squared_error
from genobj.types import Losses, Samples


@final
class PseudoHuber(Distance):
    """sqrt(S + c^2) - c of the squared error S: iCT, UCGM."""

    citations: ClassVar[tuple[str, ...]] = ("song2023ict",)

    c: Annotated[float, Field(ge=0)] = 0.03
    """Error at which squared turns into linear; iCT: 0.00054 sqrt(elements of a sample), that is 0.03 on CIFAR-10.
    0 is the norm itself (ECT on CIFAR-10)."""
    reduce: Reduce = "sum"
    """S is the sum over the elements of a sample (iCT) or their mean (UCGM)."""

    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """sqrt(S + c^2) - c, shape (batch,), as a quotient that does not cancel for small S."""
        error = squared_error(prediction, target, self.reduce)
        soft = self.c**2 or 1e-12  # the norm has no gradient at 0
        return error / ((error + soft).sqrt() + self.c)
