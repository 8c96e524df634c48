"""Mean squared error with the weight of Barron's general robust loss, which carries no gradient.

Barron, A General and Adaptive Robust Loss Function, arXiv 1701.03077, Eq. (1), as a weight: TwinFlow (arXiv 2512.05150)
and RCGM train with it. With alpha = 1 it is the adaptive distance of the mean with p = 1/2 and eps = c^2.
"""

from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.distances.base import Distance
from genobj.distances.mse import squared_error
from genobj.types import Losses, Samples

_TINY = 1e-8
"""Added to c^2 in TwinFlow's code; at c = 1e-3 it changes losses by up to half a percent."""


@final
class Barron(Distance):
    """Mean squared error under Barron's robust weight: TwinFlow, RCGM."""

    citations: ClassVar[tuple[str, ...]] = ("barron2019loss",)

    alpha: Annotated[float, Field(lt=2)] = 1.0
    """Shape: 1 pulls like a distance, 0 like Cauchy's loss, -2 like Geman and McClure's; smaller ignores outliers."""
    c: Annotated[float, Field(gt=0)] = 1e-3
    """Error (root mean square) at which the weight starts to fall."""

    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """m sg((m / (c^2 |alpha - 2|) + 1)^((alpha - 2) / 2)) / c of the mean squared error m, shape (batch,)."""
        error = squared_error(prediction, target)
        ratio = error.detach() / (self.c**2 + _TINY) / abs(self.alpha - 2)
        return error * (ratio + 1) ** ((self.alpha - 2) / 2) / self.c
