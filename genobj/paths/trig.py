"""The circular path x_t = sin(pi t / 2) z + cos(pi t / 2) x.

TrigFlow of Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, arXiv 2410.11081,
Sec. 3.1, with the angle pi t / 2 (and sigma_data = 1). Paper to here: their time, an angle, is pi t / 2. UCGM (arXiv
2505.07447) writes 1.57 for pi / 2, and has a variant whose network says z - x (TrigLinear).
"""

import math
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field

from genobj.paths.base import Path
from genobj.types import TimeTensor


@final
class Trig(Path):
    """Quarter circle (TrigFlow, sCM): keeps unit variance when the data has it."""

    citations: ClassVar[tuple[str, ...]] = ("lu2024scm",)

    quarter: Annotated[float, Field(ge=1.56, le=math.pi / 2)] | None = None
    """Angle at t = 1 (UCGM: 1.57, which leaves 0.08 % of the data); unset: pi / 2."""
    target: Literal["difference"] | None = None
    """What a network of UCGM says: 'difference' z - x (TrigLinear); unset: cos z - sin x (TrigFlow)."""

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: sin(pi t / 2)."""
        return (self._quarter * t).sin()

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: cos(pi t / 2)."""
        return (self._quarter * t).cos()

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of the sine."""
        return self._quarter * (self._quarter * t).cos()

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of the cosine."""
        return -self._quarter * (self._quarter * t).sin()

    def at_level(self, sigma: float) -> float:
        """2 / pi arctan(sigma)."""
        return min(math.atan(sigma) / self._quarter, 1.0)

    def noise_target(self, t: TimeTensor) -> TimeTensor:
        """cos, or 1."""
        return torch.ones_like(t) if self.target else self.data_scale(t)

    def data_target(self, t: TimeTensor) -> TimeTensor:
        """-sin, or -1."""
        return -torch.ones_like(t) if self.target else -self.noise_scale(t)

    @property
    def _quarter(self) -> float:
        return math.pi / 2 if self.quarter is None else self.quarter
