"""EDM's noise levels with its input scaling, as a path of t in [0, 1].

Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv 2206.00364, Table 1: log sigma
is linear in t as UCGM (arXiv 2505.07447) has it, and the state x + sigma z is divided by sqrt(sigma^2 + sigma_data^2).
"""

import math
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from genobj.paths.base import Path
from genobj.types import TimeTensor

_RATE, _START = 4 * 2.68, 4 * 1.59
"""d log sigma / dt: sigma runs from 0.0017 at t = 0 to 78 at t = 1."""


@final
class EDM(Path):
    """EDM's noise levels, sigma = exp(4 (2.68 t - 1.59)), with states of unit variance.

    The ends are those of EDM, not exact: x_0 = x / sigma_data (twice the data by default) and a trace of noise, x_1 is
    noise and 1 % of the data. Samplers divide by data_scale(0).
    """

    citations: ClassVar[tuple[str, ...]] = ("karras2022edm", "sun2025ucgm")

    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the data."""

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z: sigma / q with q = sqrt(sigma^2 + sigma_data^2)."""
        return _sigma(t) * self.data_scale(t)

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x: 1 / q."""
        return (_sigma(t).square() + self.sigma_data**2).rsqrt()

    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of sigma / q: sigma' sigma_data^2 / q^3."""
        return _RATE * _sigma(t) * self.sigma_data**2 * self.data_scale(t) ** 3

    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """Derivative of 1 / q: -sigma sigma' / q^3."""
        return -_RATE * _sigma(t).square() * self.data_scale(t) ** 3

    def at_level(self, sigma: float) -> float:
        """The inverse of sigma(t), between its ends."""
        return min(max((math.log(sigma) + _START) / _RATE, 0.0), 1.0)

    def noise_target(self, t: TimeTensor) -> TimeTensor:
        """-sigma_data / q: the network says what is inside EDM's preconditioning."""
        return -self.sigma_data * self.data_scale(t)

    def data_target(self, t: TimeTensor) -> TimeTensor:
        """sigma / (sigma_data q)."""
        return self.noise_scale(t) / self.sigma_data


def _sigma(t: TimeTensor) -> TimeTensor:
    """Noise level at t, shape (batch,)."""
    return torch.exp(_RATE * t - _START)
