"""The variance-preserving path with the cosine schedule, noise_scale^2 + data_scale^2 = 1.

Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, arXiv 2102.09672, Eq. (17): their alpha_bar is
data_scale^2 here, with phi(t) = (t + s) / (1 + s) pi / 2 and data_scale = cos phi(t) / cos phi(0).
"""

import math
from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.paths.base import Path
from genobj.types import TimeTensor

NEAREST = 1e-5
"""Below this time noise_rate is the one at this time."""


@final
class VP(Path):
    """Variance preserving, cosine schedule of improved DDPM; velocity unbounded near data.

    With offset s > 0 noise_scale starts like sqrt(t), so the true noise_rate grows like 1 / sqrt(t) and is infinite at
    t = 0. Here it is frozen below t = 1e-5, at about 31 for s = 0.008; the three other functions are exact everywhere.
    A law of times that keeps away from 0, or offset = 0, avoids this.
    """

    citations: ClassVar[tuple[str, ...]] = ("nichol2021improved",)

    goes_on: ClassVar[bool] = False  # noise_scale is a root

    offset: Annotated[float, Field(ge=0)] = 0.008
    """s of the paper: makes the noise grow faster near data; 0 gives the trig path."""

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: sqrt(1 - data_scale^2), as a product of sines that does not cancel near t = 0."""
        angle, start = self._speed() * t, self._start()
        return (angle.sin() * (angle + 2 * start).sin()).sqrt() / math.cos(start)

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: cos phi(t) / cos phi(0)."""
        return (self._speed() * t + self._start()).cos() / math.cos(self._start())

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of noise_scale, -data_scale data_rate / noise_scale, at max(t, 1e-5)."""
        t = t.clamp(min=NEAREST)
        return -self.data_scale(t) * self.data_rate(t) / self.noise_scale(t)

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of data_scale."""
        return -self._speed() * (self._speed() * t + self._start()).sin() / math.cos(self._start())

    def _speed(self) -> float:
        """Derivative of phi."""
        return math.pi / 2 / (1 + self.offset)

    def _start(self) -> float:
        """phi(0)."""
        return self.offset * self._speed()
