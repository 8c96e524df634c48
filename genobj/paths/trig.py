"""The circular path x_t = sin(pi t / 2) z + cos(pi t / 2) x.

TrigFlow of Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, arXiv 2410.11081,
Sec. 3.1, with the angle pi t / 2 (and sigma_data = 1). Paper to here: their time, an angle, is pi t / 2.
"""

import math
from typing import ClassVar, final

from genobj.paths.base import Path
from genobj.types import TimeTensor

_QUARTER = math.pi / 2


@final
class Trig(Path):
    """Quarter circle (TrigFlow, sCM): keeps unit variance when the data has it."""

    citations: ClassVar[tuple[str, ...]] = ("lu2024scm",)

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: sin(pi t / 2)."""
        return (_QUARTER * t).sin()

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: cos(pi t / 2)."""
        return (_QUARTER * t).cos()

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of the sine."""
        return _QUARTER * (_QUARTER * t).cos()

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of the cosine."""
        return -_QUARTER * (_QUARTER * t).sin()
