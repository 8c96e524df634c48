"""A multilayer perceptron: the trunk for toys, and the baseline that any shape can be fed to.

x_t is flattened and concatenated with sin/cos features of t (and of t - r) and a learned label embedding.
"""

import itertools
import math
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from genobj.backbones.base import Backbone, Features, Trunk
from genobj.types import Labels, Samples, TimeTensor


@final
class MLP(Backbone):
    """Multilayer perceptron with SiLU; takes samples of any shape."""

    width: PositiveInt = 128
    """Units of every hidden layer."""
    depth: PositiveInt = 4
    """Number of hidden layers."""
    time_features: int = Field(4, ge=2, multiple_of=2)
    """Features per time: sines and cosines, half of each."""
    top_frequency: float = Field(2.0, ge=1)
    """Highest frequency of the time features in radians; they run geometrically from 1 to it. Rough features
    (64 and more) make flow-map objectives unstable in two dimensions."""
    label_features: PositiveInt = 16
    """Width of the label embedding, where there are labels."""

    def build(self, shape: tuple[int, ...], classes: int, *, sees_r: bool) -> "MLPTrunk":
        """The trunk for samples of any shape."""
        return MLPTrunk(self, shape, classes, sees_r)


class MLPTrunk(Trunk):
    """(batch, *shape) -> hidden (batch, width), condition (batch, time and label features)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, settings: MLP, shape: tuple[int, ...], classes: int, sees_r: bool):
        super().__init__()
        self.shape, self.classes, self.sees_r, self.channels = shape, classes, sees_r, settings.width
        half = settings.time_features // 2
        frequencies = settings.top_frequency ** torch.linspace(0, 1, half)
        self.register_buffer("frequencies", frequencies.repeat(2))
        self.register_buffer("phases", torch.tensor([0.0, math.pi / 2]).repeat_interleave(half))
        self.labels = nn.Embedding(classes + 1, settings.label_features) if classes else None
        condition = settings.time_features * (1 + sees_r) + settings.label_features * bool(classes)
        widths = [math.prod(shape) + condition] + [settings.width] * settings.depth
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def forward(self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None) -> Features:
        """Features of x_t; y = None stands for the null label."""
        condition = self._condition(t, r, y).to(x_t.dtype)
        hidden = torch.cat((x_t.flatten(1), condition), dim=1)
        for layer in self.layers:
            hidden = F.silu(layer(hidden))
        return Features(hidden, condition)

    def _condition(self, t: Tensor, r: Tensor | None, y: Tensor | None) -> Tensor:
        assert (r is not None) == self.sees_r, "r is given if and only if the trunk was built to see it"
        assert y is None or self.labels is not None, "labels were given to a trunk that was built without classes"
        times = t[:, None] if r is None else torch.stack((t, t - r), dim=1)
        # cos(a) = sin(a + pi/2): one fused product and one sine for all features of all times
        waves = torch.addcmul(self.phases, times[..., None], self.frequencies).sin().flatten(1)
        if self.labels is None:
            return waves
        if y is None:
            y = torch.full_like(t, self.classes, dtype=torch.long)
        return torch.cat((waves, self.labels(y)), dim=1)

    def projection(self, out_channels: int) -> "MLPProjection":
        """A linear layer back to the sample's sizes."""
        return MLPProjection(self.channels, (out_channels, *self.shape[1:]))

    def block(self) -> "MLPBlock":
        """One more residual layer."""
        return MLPBlock(self.channels)


class MLPProjection(nn.Module):
    """hidden (batch, width) -> (batch, *shape), zero at initialisation."""

    def __init__(self, width: int, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape
        self.linear = nn.Linear(width, math.prod(shape))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features) -> Tensor:
        """(batch, *shape)."""
        return self.linear(features.hidden).unflatten(1, self.shape)


class MLPBlock(nn.Module):
    """hidden + SiLU(W hidden + b)."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, features: Features) -> Features:
        """The same shapes; the condition passes through."""
        return features._replace(hidden=features.hidden + F.silu(self.linear(features.hidden)))
