"""t = (2 / pi) arctan(sigma) with ln sigma ~ N(mean, std^2).

FACM's default law of times (Peng et al., arXiv 2507.03738, its public code): a log-normal ratio of noise to data, read
as a share of a quarter circle. The sigmoid of the same normal variable is times=logit_normal.
"""

import math
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from genobj.times.base import Times
from genobj.types import TimeTensor


@final
class Arctan(Times):
    """Angle of a log-normal noise level, over a quarter circle: FACM (-0.8, 1.6)."""

    citations: ClassVar[tuple[str, ...]] = ("peng2025facm",)

    mean: float = -0.8
    """Mean of ln sigma; negative prefers times near data."""
    std: Annotated[float, Field(gt=0)] = 1.6
    """Standard deviation of ln sigma."""

    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1], shape (batch,)."""
        normal = torch.randn(batch, generator=generator, device=generator.device)
        return (self.mean + self.std * normal).exp().atan() * (2 / math.pi)
