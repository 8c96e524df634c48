"""t uniform on [0, 1)."""

from typing import final

import torch

from genobj.times.base import Times
from genobj.types import TimeTensor


@final
class Uniform(Times):
    """Every time is equally likely."""

    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1), shape (batch,)."""
        return torch.rand(batch, generator=generator, device=generator.device)
