"""The usual head: the backbone's own output layer, after as many of its blocks as wanted."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from genobj.backbones.base import Features, Trunk
from genobj.heads.base import Head
from genobj.types import TimeTensor


class Projection(Head):
    """A tensor shaped like x_t: the backbone's output layer, optionally behind blocks of its own."""

    depth: Annotated[int, Field(ge=0)] = 0
    """Blocks of the backbone's kind before the output layer."""

    def build(self, trunk: Trunk, channels: int, *, sees_r: bool) -> nn.Module:
        """See Head.build."""
        return ProjectionHead(trunk, channels, self.depth, sees_r)


class ProjectionHead(nn.Module):
    """[target time] -> blocks -> output layer."""

    def __init__(self, trunk: Trunk, channels: int, depth: int, sees_r: bool):
        super().__init__()
        self.target_time = TargetTime(trunk.channels, trunk.channel_axis) if sees_r else None
        self.blocks = nn.ModuleList(trunk.block() for _ in range(depth))
        self.projection = trunk.projection(channels)

    def forward(self, features: Features, t: TimeTensor, r: TimeTensor | None) -> Tensor:
        """(batch, channels, ...), shaped like x_t."""
        if self.target_time is not None:
            assert r is not None, "this head was built to see r"
            features = features._replace(hidden=self.target_time(features.hidden, t - r))
        for block in self.blocks:
            features = block(features)
        return self.projection(features)


class TargetTime(nn.Module):
    """Scale and shift of the channels by t - r, neutral at initialisation: the trunk stays 'one input' (DuMo 4.3)."""

    def __init__(self, channels: int, axis: int, width: int = 64):
        super().__init__()
        self.axis = axis
        out = nn.Linear(width, 2 * channels)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        self.embed = nn.Sequential(nn.Linear(5, width), nn.SiLU(), out)

    def forward(self, hidden: Tensor, gap: TimeTensor) -> Tensor:
        """Hidden features of the same shape."""
        angles = torch.stack([gap, 2 * gap], dim=1)
        waves = torch.cat([gap[:, None], angles.sin(), angles.cos()], dim=1).to(next(self.embed.parameters()).dtype)
        sizes = [1] * hidden.ndim
        sizes[0], sizes[self.axis] = hidden.shape[0], hidden.shape[self.axis]
        scale, shift = self.embed(waves).chunk(2, dim=1)
        return hidden * (1 + scale.view(sizes)) + shift.view(sizes)
