"""The straight path x_t = t z + (1 - t) x.

With `sigma_min` it ends at data with a little noise, x_t = (t + sigma_min (1 - t)) z + (1 - t) x (Lipman et al., arXiv
2210.02747, Eq. 22; Shortcut models). With `damped_below` the target velocity fades near the data (pMF). With
`noise_std` it is x_t = noise_std t z + (1 - t) x, for z of variance 1 (IMM scales noise to the data's 0.5).

Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow, arXiv 2209.03003,
with time reversed; DuMo (arXiv 2602.17682) Sec. 3.2.
"""

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from genobj.paths.base import Path
from genobj.types import Samples, TimeTensor, over


@final
class Linear(Path):
    """Straight line from noise to data, v = z - x: rectified flow, SiT, MeanFlow, DuMo."""

    citations: ClassVar[tuple[str, ...]] = ("liu2023rectified",)

    sigma_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Noise that is left at t = 0 (Shortcut's code: 1e-5)."""
    damped_below: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Time below which the target velocity is multiplied by t over it (pMF: 0.05)."""

    noise_std: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the noise at t = 1 (IMM: 0.5, that of its data); unset: 1."""

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: t, and sigma_min at the data, times noise_std."""
        return self._scaled(t + self.sigma_min * (1 - t) if self.sigma_min else t)

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: 1 - t."""
        return 1 - t

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Its derivative: 1 - sigma_min, times noise_std."""
        return self._scaled(torch.full_like(t, 1 - self.sigma_min))

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of 1 - t: -1."""
        return -torch.ones_like(t)

    @property
    def noise_size(self) -> float:
        """noise_std."""
        return 1.0 if self.noise_std is None else self.noise_std

    def at_level(self, sigma: float) -> float:
        """sigma / (1 + sigma), sigma in units of noise_std and without sigma_min."""
        level = max(sigma / self.noise_size - self.sigma_min, 0.0)
        return level / (1 + level)

    def velocity(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """z - x whatever t, but for the three settings."""
        z = self._scaled(z)
        v = (1 - self.sigma_min) * z - x if self.sigma_min else z - x
        return over((t / self.damped_below).clamp(max=1), v) * v if self.damped_below else v

    def _scaled(self, noise: Tensor) -> Tensor:
        return noise if self.noise_std is None else self.noise_std * noise
