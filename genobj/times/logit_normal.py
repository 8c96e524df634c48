"""logit t ~ N(mean, std^2).

Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, arXiv 2403.03206, Eq. (19). With
t = sigma / (1 + sigma) it is EDM's log-normal sigma (arXiv 2206.00364, Table 1) with P_mean = mean and P_std = std.
"""

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from genobj.times.base import Times
from genobj.types import TimeTensor


@final
class LogitNormal(Times):
    """Sigmoid of a normal variable: MeanFlow (-0.4, 1), SD3 (0, 1), EDM's log-normal sigma."""

    citations: ClassVar[tuple[str, ...]] = ("esser2024sd3",)

    mean: float = -0.4
    """Mean of logit t; negative prefers times near data."""
    std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of logit t."""

    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1], shape (batch,)."""
        return torch.sigmoid(self.mean + self.std * torch.randn(batch, generator=generator, device=generator.device))
