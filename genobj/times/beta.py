"""t ~ Beta(a, b) (DuMo, arXiv 2602.17682, Alg. 1 line 3).

Beta(a, b) is G_a / (G_a + G_b) of two gamma variates. For small a and b both variates underflow and the ratio becomes
0 / 0, so they are kept as logarithms: G_a = G_{a+1} U^(1/a) in law, and t = sigmoid(log G_a - log G_b) is finite.
"""

from typing import Annotated, final

import torch
from pydantic import Field

from genobj.times.base import Times
from genobj.types import TimeTensor


@final
class Beta(Times):
    """Beta law; a = b = 1 is uniform, a = b = 2 prefers the middle (DuMo's best on ImageNet)."""

    a: Annotated[float, Field(gt=0)] = 1.0
    """Weight of late times: theta_1 of DuMo; above 1 it keeps t away from data (t = 0)."""
    b: Annotated[float, Field(gt=0)] = 1.0
    """Weight of early times: theta_2 of DuMo; above 1 it keeps t away from noise (t = 1)."""

    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1], shape (batch,)."""
        return torch.sigmoid(_log_gamma(self.a, batch, generator) - _log_gamma(self.b, batch, generator))


def _log_gamma(shape: float, batch: int, generator: torch.Generator) -> TimeTensor:
    """Logarithms of Gamma(shape, 1) variates, shape (batch,); torch.distributions takes no generator."""
    shapes = torch.full((batch,), shape + 1, device=generator.device)
    above = torch._standard_gamma(shapes, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    uniform = 1 - torch.rand(batch, generator=generator, device=generator.device)  # in (0, 1]: a finite logarithm
    return above.log() + uniform.log() / shape
