"""A path x_t = noise_scale(t) z + data_scale(t) x and its velocity (DuMo Eq. 1, alpha and gamma there)."""

import abc
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from genobj.config.base import Config
from genobj.types import Samples, TimeTensor, over

_HALVINGS = 60
"""A time is found to 2^-60."""


class Path(Config, abc.ABC):
    """Subclasses give the two scales and their rates; everything else follows."""

    bridge: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of extra noise on x_t that the target velocity ignores (torchcfm's sigma)."""

    goes_on: ClassVar[bool] = True
    """Whether times a little below 0 or above 1 have a place on it too."""

    @abc.abstractmethod
    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z, shape (batch,)."""

    @abc.abstractmethod
    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x, shape (batch,)."""

    @abc.abstractmethod
    def noise_rate(self, t: TimeTensor) -> TimeTensor:
        """d/dt of noise_scale, shape (batch,)."""

    @abc.abstractmethod
    def data_rate(self, t: TimeTensor) -> TimeTensor:
        """d/dt of data_scale, shape (batch,)."""

    @property
    def noise_size(self) -> float:
        """Standard deviation of what this path takes for pure noise, where z has 1."""
        return 1.0

    def at_level(self, sigma: float) -> float:
        """Time in [0, 1] of the noise level sigma > 0, that is noise_scale / data_scale, which grows with time.

        Levels below those of the path lie at t = 0, levels above at t = 1. Here by bisection in float64.
        """
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            t = (low + high) / 2
            time = torch.tensor([t], dtype=torch.float64)
            below = (self.noise_scale(time) < sigma * self.data_scale(time)).item()
            low, high = (t, high) if below else (low, t)
        return low

    def noise_target(self, t: TimeTensor) -> TimeTensor:
        """Factor of z in what a network of UCGM says on this path, noise_target z + data_target x, shape (batch,).

        By default the rates: it says the velocity.
        """
        return self.noise_rate(t)

    def data_target(self, t: TimeTensor) -> TimeTensor:
        """Factor of x in it, shape (batch,)."""
        return self.data_rate(t)

    def point(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """x_t of data x and noise z, Eq. (1)."""
        return over(self.noise_scale(t), x) * z + over(self.data_scale(t), x) * x

    def velocity(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """dx_t/dt for this pair (x, z), the target of DuMo Eq. (3)."""
        return over(self.noise_rate(t), x) * z + over(self.data_rate(t), x) * x

    def landed(self, x_t: Samples, u: Samples, t: TimeTensor) -> Samples:
        """Where the jump x_t - t u to data ends, at the size of data: at t = 0 the state is data_scale(0) times it."""
        return (x_t - over(t, u) * u) / over(self.data_scale(torch.zeros_like(t)), u)

    def ends(self, x_t: Samples, v: Samples, t: TimeTensor) -> tuple[Samples, Samples]:
        """The pair (x, z) that a point x_t and its velocity v = dx_t/dt belong to: point and velocity, solved for both.

        On the plain linear path exactly x_t - t v and x_t + (1 - t) v, without rounding in between. Whatever v is, the
        pair lies on the point: noise_scale z + data_scale x = x_t. Extra noise (`bridge`) is therefore counted to the
        pair, and a velocity that fades near data (`damped_below`) gives the pair of a path that is slower there.
        """
        a, b, a_rate, b_rate = (
            over(f(t), x_t) for f in (self.noise_scale, self.data_scale, self.noise_rate, self.data_rate)
        )
        determinant = a * b_rate - b * a_rate
        return (a * v - a_rate * x_t) / determinant, (b_rate * x_t - b * v) / determinant
