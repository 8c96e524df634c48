"""How a network that was trained with other conventions is read as one of ours (t = 0 data, v = dx_t/dt).

Such a network F is asked about the same mixture of data and noise, at its own size and at its own time, and its answer
is a straight line away from the velocity: v = given x_t + made F(size x_t, time). With the scales of any of our paths,
a for noise and b for data, and a' and b' their rates, x_t / b is data plus noise of level sigma = a / b; that alone
says at which time of the foreign path the same mixture lies. So a reading holds on every path, and at every time that
the foreign network was trained for; beyond the ends of its schedule it is asked at the nearest end.

What a velocity says of the pair (x, z) is the same information as where the pair's data lie. So the answer of a head
that jumps to data is read as that jump, u = (x_t - b(0) x) / t; on a straight line it is the velocity itself.
"""

import abc
import math
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from genobj.paths.base import Path
from genobj.paths.linear import Linear
from genobj.types import Samples, TimeTensor, over

ReadingName = Literal["sit", "ddpm", "edm", "target"]

_TINY = 1e-9
"""Scales below this are zero: keeps logarithms and their derivatives finite at t = 0 and t = 1."""
_SOON = 1e-6
"""Times nearer to 0 are read as this one: the way to data is divided by its length."""


class Line(NamedTuple):
    """v = given x_t + made F(size x_t, ...); each (batch,)."""

    size: TimeTensor
    given: TimeTensor
    made: TimeTensor

    def state(self, x_t: Samples) -> Samples:
        """x_t as the network wants it; it keeps its type."""
        return (over(self.size, x_t) * x_t).to(x_t.dtype)

    def velocity(self, answer: Tensor, x_t: Samples) -> Tensor:
        """Our velocity from the network's answer about x_t."""
        return over(self.given, x_t) * x_t + over(self.made, x_t) * answer


class Reading(abc.ABC):
    """Subclasses say which time their networks are fed, and how the velocity follows from the answer."""

    def __init__(self, path: Path):
        self.path = path

    @abc.abstractmethod
    def time(self, t: TimeTensor) -> TimeTensor:
        """What the network's time embedding is fed at our time t."""

    @abc.abstractmethod
    def line(self, t: TimeTensor) -> Line:
        """The coefficients of the reading at our time t."""

    @property
    def even(self) -> bool:
        """Whether states are read alike at t and at -t, so that the sign of t can tell the network something else."""
        t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
        return all(torch.allclose(*pair) for pair in zip(self.line(t), self.line(-t), strict=True))

    def jump(self, t: TimeTensor) -> Line:
        """The coefficients for a head that jumps to data: u = (x_t - b(0) x) / t, x = (a v - a' x_t) / (a b' - b a').

        On the linear path the velocity's, whose jump ends at the same x.
        """
        if isinstance(self.path, Linear):
            return self.line(t)
        t = t.where(t.abs() > _SOON, _SOON)
        line, (noise, data, noise_rate, data_rate) = self.line(t), self._scales(t)
        share = self.path.data_scale(torch.zeros_like(t)) / (noise * data_rate - data * noise_rate)
        given = (1 + share * (noise_rate - noise * line.given)) / t
        return Line(line.size, given, -share * noise * line.made / t)

    def _scales(self, t: TimeTensor) -> tuple[TimeTensor, TimeTensor, TimeTensor, TimeTensor]:
        """Scales of noise and data, and their rates."""
        path = self.path
        return path.noise_scale(t), path.data_scale(t), path.noise_rate(t), path.data_rate(t)

    def _log_level(self, t: TimeTensor) -> TimeTensor:
        """log(a / b), finite everywhere."""
        noise, data = self.path.noise_scale(t), self.path.data_scale(t)
        return noise.clamp(min=_TINY).log() - data.clamp(min=_TINY).log()


@final
class SiT(Reading):
    """Velocity x - z on the straight path from noise at 0 to data at 1 (SiT, arXiv 2401.08740, its public code).

    On our linear path: v(x_t, t) = -F(x_t, 1 - t).
    """

    def time(self, t: TimeTensor) -> TimeTensor:
        """b / (a + b)."""
        noise, data = self.path.noise_scale(t), self.path.data_scale(t)
        return data / (noise + data)

    def line(self, t: TimeTensor) -> Line:
        """z = x' - b' F and x = x' + a' F with x' = x_t / (a + b) and shares b', a' of a + b."""
        noise, data, noise_rate, data_rate = self._scales(t)
        size = 1 / (noise + data)
        return Line(size, (noise_rate + data_rate) * size, (data_rate * noise - noise_rate * data) * size)


@final
class DDPM(Reading):
    """Noise prediction at 1000 levels with linear betas from 1e-4 to 0.02 (DDPM, arXiv 2006.11239; DiT's networks).

    sigma_k^2 = 1 / prod_{i <= k} (1 - beta_i) - 1. Between two levels log sigma is interpolated and the network is fed
    the fraction; below sigma_0 = 0.01 and above sigma_999 = 157 (t > 0.9937 on the linear path) it is asked at the end.
    """

    def time(self, t: TimeTensor) -> TimeTensor:
        """The number of the level whose sigma is a / b, with a fraction."""
        levels = _ddpm_levels(t)
        at = self._level(t, levels)
        upper = torch.searchsorted(levels, at.detach()).clamp(1, len(levels) - 1)
        low, high = levels[upper - 1], levels[upper]
        return upper - 1 + (at - low) / (high - low)

    def line(self, t: TimeTensor) -> Line:
        """x = sqrt(1 + sigma^2) size x_t - sigma F and v = a' F + b' x."""
        noise, data, noise_rate, data_rate = self._scales(t)
        size, sigma = (noise.square() + data.square()).rsqrt(), self._level(t, _ddpm_levels(t)).exp()
        return Line(size, data_rate * (1 + sigma.square()).sqrt() * size, noise_rate - data_rate * sigma)

    def _level(self, t: TimeTensor, levels: Tensor) -> TimeTensor:
        """log sigma, between those of the first and the last level."""
        return torch.minimum(torch.maximum(self._log_level(t), levels[0]), levels[-1])


def _ddpm_levels(like: Tensor) -> Tensor:
    """log sigma of all levels, computed in float64; cheaper than keeping a table right on every device."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device=like.device)
    kept = (-betas).log1p().cumsum(0)  # log alpha_bar
    return (0.5 * torch.expm1(-kept).log()).to(like.dtype)


@final
class EDM(Reading):
    """F inside EDM's preconditioning, D = c_skip (x + sigma z) + c_out F(c_in (x + sigma z), log(sigma) / 4).

    Karras et al., arXiv 2206.00364, Table 1, with sigma_data = 0.5. Times are those of sigma between 0.002 and 80, the
    ends of EDM's sampler.
    """

    sigma_data = 0.5
    """Standard deviation of the data that these networks were trained for."""

    def time(self, t: TimeTensor) -> TimeTensor:
        """log(sigma) / 4."""
        return self._log_level(t).clamp(math.log(0.002), math.log(80)) / 4

    def line(self, t: TimeTensor) -> Line:
        """With m^2 = a^2 + s^2 b^2: x = s^2 b / m^2 x_t + a s / m F and z = a / m^2 x_t - b s / m F."""
        noise, data, noise_rate, data_rate = self._scales(t)
        s = self.sigma_data
        size = (noise.square() + s**2 * data.square()).rsqrt()
        given = (noise_rate * noise + s**2 * data_rate * data) * size.square()
        return Line(size, given, s * (data_rate * noise - noise_rate * data) * size)


@final
class Target(Reading):
    """What UCGM's networks say, F = p z + q x with p, q = noise_target, data_target of the path (arXiv 2505.07447).

    Their alpha, gamma are a, b and their hatted ones p, q. On the linear path F is the velocity.
    """

    def time(self, t: TimeTensor) -> TimeTensor:
        """t: they keep our time."""
        return t

    def line(self, t: TimeTensor) -> Line:
        """With d = a q - b p: x = (a F - p x_t) / d, z = (q x_t - b F) / d and v = a' z + b' x."""
        noise, data, noise_rate, data_rate = self._scales(t)
        p, q = self.path.noise_target(t), self.path.data_target(t)
        d = noise * q - data * p
        made = (data_rate * noise - noise_rate * data) / d
        return Line(torch.ones_like(t), (noise_rate * q - data_rate * p) / d, made)


_READINGS: dict[ReadingName, type[Reading]] = {"sit": SiT, "ddpm": DDPM, "edm": EDM, "target": Target}


def reading(name: ReadingName | None, path: Path) -> Reading | None:
    """The reading of this name on a path; None for networks of our own."""
    return None if name is None else _READINGS[name](path)
