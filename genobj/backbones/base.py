"""A backbone's settings know how to build its trunk; the trunk itself is plain torch."""

import abc
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from genobj.config.base import Config
from genobj.types import Labels, Samples, TimeTensor


class Features(NamedTuple):
    """What a trunk hands to every head."""

    hidden: Tensor
    """(batch, ...) with the channels on the trunk's `channel_axis`."""
    condition: Tensor
    """(batch, width): embedding of time and label, for output layers that modulate with it."""
    context: Tensor | None = None
    """What else a trunk's blocks need, the same for all of them; handed through."""


class Trunk(nn.Module, abc.ABC):
    """A network without its output layers. A third-party backbone needs no more than this to carry N heads."""

    channels: int
    """Width of Features.hidden along `channel_axis`; read by heads that see r themselves."""
    channel_axis: int = -1
    """Axis of the channels in Features.hidden: -1 for tokens and vectors, 1 for images."""

    @abc.abstractmethod
    def forward(self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None) -> Features:
        """Features of x_t at time t (unscaled, in [0, 1]); r is given if and only if the trunk was built to see it."""

    @abc.abstractmethod
    def projection(self, out_channels: int) -> nn.Module:
        """A new output layer: Features -> (batch, out_channels, ...) with the sizes of x_t, zero at initialisation."""

    @property
    def units(self) -> list[nn.Module]:
        """The repeated blocks: what is compiled, recomputed and sharded one by one.

        Unless overridden: what lies in the trunk's lists and dictionaries of modules and consists of several layers.
        """
        lists = [m for m in self.children() if isinstance(m, (nn.ModuleList, nn.ModuleDict))]
        blocks = [block for m in lists for block in (m.values() if isinstance(m, nn.ModuleDict) else m)]
        return [block for block in blocks if any(True for _ in block.children())]

    def block(self) -> nn.Module:
        """A new block Features -> Features for heads deeper than a projection (Head.depth)."""
        raise ValueError(f"{type(self).__name__} has no blocks for deeper heads; set depth = 0 on every head.")


class Backbone(Config, abc.ABC):
    """Settings of a trunk.

    Capabilities beyond the contract: a backbone that `augments` takes `augmentation=` in build (numbers in a label) and
    `a=` in its trunk's forward; one that is `guided` takes `guided=True` and `g=`. Others are never given them.
    """

    augments: ClassVar[bool] = False
    """Whether trunks can be told augmentation labels."""

    @property
    def guided(self) -> bool:
        """Whether trunks can be told fed guidance; else it is fed as constant channels of x_t."""
        return False

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...], classes: int, *, sees_r: bool) -> Trunk:
        """The trunk for samples of this shape, e.g. (2,) or (1, 8, 8).

        classes: number of labels, 0 if there are none; label `classes` is the null label.
        sees_r: whether forward is given the target time r (embedded as t - r).
        Raises ValueError for a shape the backbone cannot take.
        """
