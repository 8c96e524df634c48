"""A path x_t = noise_scale(t) z + data_scale(t) x and its velocity (DuMo Eq. 1, alpha and gamma there)."""

import abc
from typing import Annotated

from pydantic import Field

from genobj.config.base import Config
from genobj.types import Samples, TimeTensor, over


class Path(Config, abc.ABC):
    """Subclasses give the two scales and their rates; everything else follows."""

    bridge: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of extra noise on x_t that the target velocity ignores (torchcfm's sigma)."""

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

    def point(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """x_t of data x and noise z, Eq. (1)."""
        return over(self.noise_scale(t), x) * z + over(self.data_scale(t), x) * x

    def velocity(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """dx_t/dt for this pair (x, z), the target of DuMo Eq. (3)."""
        return over(self.noise_rate(t), x) * z + over(self.data_rate(t), x) * x
