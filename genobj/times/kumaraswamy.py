"""t with the distribution function 1 - (1 - t^a)^b: a beta law that a formula can draw."""

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from genobj.times.base import Times
from genobj.types import TimeTensor


@final
class Kumaraswamy(Times):
    """Kumaraswamy's law, close to Beta(a, b) but drawn by inversion; a = b = 1 is uniform."""

    citations: ClassVar[tuple[str, ...]] = ("sun2025ucgm",)

    a: Annotated[float, Field(gt=0)] = 1.0
    """Weight of late times; above 1 it keeps t away from data (t = 0)."""
    b: Annotated[float, Field(gt=0)] = 1.0
    """Weight of early times; above 1 it keeps t away from noise (t = 1)."""

    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1], shape (batch,): t = (1 - U^(1/b))^(1/a)."""
        uniform = torch.rand(batch, generator=generator, device=generator.device)
        return (1 - uniform ** (1 / self.b)) ** (1 / self.a)
