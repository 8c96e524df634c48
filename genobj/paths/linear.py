"""The straight path x_t = t z + (1 - t) x.

Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow, arXiv 2209.03003,
with time reversed; DuMo (arXiv 2602.17682) Sec. 3.2.
"""

from typing import ClassVar, final

import torch

from genobj.paths.base import Path
from genobj.types import Samples, TimeTensor


@final
class Linear(Path):
    """Straight line from noise to data, v = z - x: rectified flow, SiT, MeanFlow, DuMo."""

    citations: ClassVar[tuple[str, ...]] = ("liu2023rectified",)

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: t."""
        return t

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: 1 - t."""
        return 1 - t

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of t: 1."""
        return torch.ones_like(t)

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of 1 - t: -1."""
        return -torch.ones_like(t)

    def velocity(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """z - x, whatever t."""
        return z - x
