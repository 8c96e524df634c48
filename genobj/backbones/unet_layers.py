"""Layers of the U-Net: residual blocks, resampling convolutions, features of times, and the output layer.

Names of parameters and buffers are those of EDM's layers. Shapes: b batch, c channels, h x w pixels, e embedding width.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genobj.backbones.base import Features


class Block(nn.Module):
    """Residual block: two convolutions, the condition added between them; may resample first and attend at the end."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition: int,
        dropout: float = 0.0,
        attends: bool = False,
        resample: str = "",
        taps: tuple[int, ...] = (1, 1),
    ):
        super().__init__()
        self.dropout, self.attends = nn.Dropout(dropout), attends  # a module: see Model.has_dropout
        self.norm0, self.norm1 = Norm(inputs), Norm(outputs)
        self.conv0 = xavier(Conv(inputs, outputs, 3, resample, taps))
        self.affine = xavier(nn.Linear(condition, outputs))
        self.conv1 = xavier(nn.Conv2d(outputs, outputs, 3, padding=1), gain=1e-5)
        self.skip = xavier(Conv(inputs, outputs, 1, resample, taps)) if resample or inputs != outputs else nn.Identity()
        if attends:
            self.norm2 = Norm(outputs)
            self.qkv = xavier(nn.Conv2d(outputs, 3 * outputs, 1), gain=math.sqrt(0.2))
            self.proj = xavier(nn.Conv2d(outputs, outputs, 1), gain=1e-5)

    def forward(self, features: Features) -> Features:
        """(b, inputs, h, w) -> (b, outputs, h', w'); sums are scaled to keep the variance."""
        x = features.hidden
        hidden = self.conv0(F.silu(self.norm0(x))) + self.affine(features.condition)[:, :, None, None]
        hidden = self.dropout(F.silu(self.norm1(hidden)))
        x = (self.conv1(hidden) + self.skip(x)) * math.sqrt(0.5)
        if self.attends:
            x = (self._attend(self.norm2(x)) + x) * math.sqrt(0.5)
        return features._replace(hidden=x)

    def _attend(self, x: Tensor) -> Tensor:
        """One head over the pixels; qkv holds q, k and v one after the other (EDM's own files interleave them)."""
        q, k, v = self.qkv(x).flatten(2).mT[:, None].chunk(3, dim=-1)  # each (b, 1, h w, c)
        return self.proj(F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape))


class Norm(nn.GroupNorm):
    """Group normalisation of (b, c, h, w), in at most 32 groups of at least 4 channels."""

    def __init__(self, channels: int):
        groups = max(n for n in range(1, max(2, min(32, channels // 4) + 1)) if channels % n == 0)
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """Compiled, scale and shift come after: forward mode inside torch.compile fails in one affine call."""
        if not torch.compiler.is_compiling():
            return super().forward(input)
        weight, bias = (value.view(-1, 1, 1) for value in (self.weight, self.bias))
        return torch.addcmul(bias, F.group_norm(input, self.num_groups, eps=self.eps), weight)


class Conv(nn.Conv2d):
    """Convolution, after halving or doubling the sides with a separable filter if asked to."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, resample: str, taps: tuple[int, ...]):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.resample, self.box, self.reach = resample, taps == (1, 1), (len(taps) - 1) // 2
        if resample:
            row = torch.tensor(taps, dtype=torch.get_default_dtype())
            self.register_buffer("resample_filter", torch.outer(row, row)[None, None] / sum(taps) ** 2)

    def forward(self, input: Tensor) -> Tensor:
        """(b, inputs, h, w) -> (b, outputs, h', w')."""
        return super().forward(self._resample(input) if self.resample else input)

    def _resample(self, x: Tensor) -> Tensor:
        if self.box:  # the same numbers, several times faster
            return F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2)
        kernel = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        if self.resample == "down":
            return F.conv2d(x, kernel, stride=2, padding=self.reach, groups=x.shape[1])
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=self.reach, groups=x.shape[1])


class Shortcut(Conv):
    """Convolution at the full size, then halving the sides: NCSN++'s order, the other way round than in blocks."""

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, ...]):
        super().__init__(inputs, outputs, 3, "down", taps)

    def forward(self, input: Tensor) -> Tensor:
        """(b, inputs, h, w) -> (b, outputs, h / 2, w / 2)."""
        wide = F.conv2d(input, self.weight, padding=1 + self.reach)
        kernel = self.resample_filter.to(wide.dtype).expand(wide.shape[1], -1, -1, -1)
        return F.conv2d(wide, kernel, self.bias, stride=2, groups=wide.shape[1])


class Waves(nn.Module):
    """Times (b, k) -> (b, k 2 count): sines, then cosines, time by time. Frequencies run from 1 down to 1 / 10000."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, times: Tensor) -> Tensor:
        """Computed in float32 at least."""
        times = times.to(torch.promote_types(times.dtype, torch.float32))
        angles = times[..., None] * self.frequencies(times)
        return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)

    def frequencies(self, like: Tensor) -> Tensor:
        """(count,), in radians per unit of time."""
        exponents = torch.arange(self.count, dtype=like.dtype, device=like.device) / max(self.count - 1, 1)
        return 10000**-exponents


class FourierWaves(Waves):
    """The same of random frequencies (Fourier features), drawn once from N(0, bandwidth^2), in cycles."""

    freqs: Tensor

    def __init__(self, count: int, bandwidth: float):
        super().__init__(count)
        self.register_buffer("freqs", torch.randn(count) * bandwidth)

    def frequencies(self, like: Tensor) -> Tensor:
        """See Waves.frequencies."""
        return 2 * math.pi * self.freqs.to(like.dtype)


class Output(nn.Module):
    """(b, channels, h, w) -> (b, out_channels, h, w), zero at initialisation."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.aux_norm = Norm(channels)
        self.aux_conv = xavier(nn.Conv2d(channels, out_channels, 3, padding=1), gain=0.0)

    def forward(self, features: Features) -> Tensor:
        """(b, out_channels, h, w)."""
        return self.aux_conv(F.silu(self.aux_norm(features.hidden)))


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d, Conv, Shortcut)


def xavier(layer: _Layer, gain: float = 1.0) -> _Layer:
    """The layer with Xavier's uniform weights times `gain` and zero bias."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
