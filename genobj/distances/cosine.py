"""One minus the cosine between prediction and target, pixel by pixel (UCGM, arXiv 2505.07447; FasterDiT)."""

from typing import final

import torch
import torch.nn.functional as F

from genobj.distances.base import Distance
from genobj.types import Losses, Samples


@final
class Cosine(Distance):
    """Mean over pixels of 1 - cosine along the channels; blind to length, so add it to another.

    Images of one channel have no direction there but a sign, which pulls near zero alone: leave it out for them.
    """

    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """Mean over pixels of 1 - cos along dimension 1, shape (batch,); a vector is one pixel."""
        wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        cosine = F.cosine_similarity(prediction.to(wide), target.detach().to(wide), dim=1)
        return 1 - cosine.reshape(len(prediction), -1).mean(1)
