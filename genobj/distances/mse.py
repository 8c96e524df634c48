"""Mean squared error, and the squared error that the robust distances are made of (OBJECTIVES A0)."""

from typing import Literal, final

import torch
import torch.nn.functional as F

from genobj.distances.base import Distance
from genobj.types import Losses, Samples

Reduce = Literal["sum", "mean"]


def squared_error(prediction: Samples, target: Samples, reduce: Reduce = "mean") -> Losses:
    """Sum or mean over the elements of each sample of (prediction - target)^2, shape (batch,), float32 or better."""
    wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    error = F.mse_loss(prediction.to(wide), target.detach().to(wide), reduction="none").flatten(1)
    return error.sum(1) if reduce == "sum" else error.mean(1)


@final
class MSE(Distance):
    """Mean squared error over the elements of a sample: the loss of plain flow matching."""

    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """m = mean (prediction - target)^2, shape (batch,)."""
        return squared_error(prediction, target)
