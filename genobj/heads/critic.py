"""A critic: one number a sample, from the trunk's features (as in LADD, arXiv 2403.12015, and DMD2, arXiv 2405.14867).

The features of every position are normalised (a trunk's have any size) and go through a small network; the mean over
the positions goes through one more hidden layer. Time and label are in the features, for the trunk was told both.
"""

from itertools import pairwise
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from genobj.backbones.base import Features, Trunk
from genobj.heads.base import Head
from genobj.types import TimeTensor


class Critic(Head):
    """One number a sample: how real it looks; made for adversarial objectives."""

    citations: ClassVar[tuple[str, ...]] = ("sauer2024ladd", "yin2024dmd2")
    scalar: ClassVar[bool] = True

    width: Annotated[int, Field(gt=0)] = 128
    """Units of every hidden layer."""
    depth: Annotated[int, Field(gt=0)] = 2
    """Hidden layers at every position, before the mean."""

    def build(self, trunk: Trunk, channels: int, *, sees_r: bool) -> nn.Module:
        """See Head.build."""
        return CriticHead(trunk.channels, trunk.channel_axis, self.width, self.depth)


class CriticHead(nn.Module):
    """normalise -> layers at every position -> mean over positions -> hidden layer -> number.

    Initialised as linear layers usually are: an output of zero would leave the generator without a gradient, and the
    layers below it.
    """

    def __init__(self, channels: int, axis: int, width: int, depth: int):
        super().__init__()
        self.axis = axis
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([channels] + [width] * depth))
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, features: Features, t: TimeTensor, r: TimeTensor | None) -> Tensor:
        """(batch,)."""
        hidden = features.hidden.movedim(self.axis, -1)
        hidden = hidden.reshape(len(hidden), -1, hidden.shape[-1])  # (batch, positions, channels)
        hidden = F.layer_norm(hidden, hidden.shape[-1:]).to(self.inner.weight.dtype)
        for layer in self.layers:
            hidden = F.silu(layer(hidden))
        return self.outer(F.silu(self.inner(hidden.mean(1))))[:, 0]
