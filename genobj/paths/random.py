"""UCGM's path that nobody designed: x_t = sin(1.57 t) z + (1 - t) x.

Sun et al., Unified Continuous Generative Models, arXiv 2505.07447, its public code (transport Random): any two scales
with the right ends make a path. Its network says z - (1 + exp(-5 t)) x.
"""

from typing import ClassVar, final

import torch

from genobj.paths.base import Path
from genobj.types import TimeTensor

_QUARTER = 1.57


@final
class Random(Path):
    """UCGM's arbitrary path, curved in the noise and straight in the data."""

    citations: ClassVar[tuple[str, ...]] = ("sun2025ucgm",)

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: sin(1.57 t)."""
        return (_QUARTER * t).sin()

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: 1 - t."""
        return 1 - t

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of the sine."""
        return _QUARTER * (_QUARTER * t).cos()

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of 1 - t: -1."""
        return -torch.ones_like(t)

    def noise_target(self, t: TimeTensor) -> TimeTensor:
        """1."""
        return torch.ones_like(t)

    def data_target(self, t: TimeTensor) -> TimeTensor:
        """-1 - exp(-5 t)."""
        return -1 - torch.exp(-5 * t)
