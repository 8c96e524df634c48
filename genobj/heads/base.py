"""Settings of a named output."""

import abc
from typing import ClassVar, Literal

from torch import nn

from genobj.backbones.base import Trunk
from genobj.config.base import Config


class Head(Config, abc.ABC):
    """Settings of an output on the trunk."""

    scalar: ClassVar[bool] = False
    """Whether this gives one number a sample instead of a tensor shaped like x_t; such a head has no horizon."""

    r_in: Literal["head", "trunk", "sign"] | None = None
    """Where an interval head sees r; unset: in the trunk if it is the only head, else in the head. sign: the trunk is
    fed -t where r = t, and t for the jump to data (FACM's expanded time); no other r can be asked."""

    @abc.abstractmethod
    def build(self, trunk: Trunk, channels: int, *, sees_r: bool) -> nn.Module:
        """A module forward(features, t, r) -> (batch, channels, ...).

        sees_r: whether this head is told the target time r while the trunk is not (DuMo Sec. 4.3).
        """
