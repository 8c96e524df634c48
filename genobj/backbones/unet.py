"""U-Net of the DDPM++ family, arXiv 2011.13456 (score SDE) in the form of 2206.00364 (EDM).

Parameter names and shapes are those of EDM's SongUNet (encoder and decoder "standard") and of its copies in MeanFlow's
and SoFlow's CIFAR-10 code; the output layer is the projection. With a second time the features of t and t - r are
concatenated. Times are fed unscaled. Shapes: b batch, c channels, h x w pixels, e embedding width.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar, final

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor, nn

from genobj.backbones.base import Backbone, Features, Trunk
from genobj.registry import UnknownName
from genobj.types import Labels, Samples, TimeTensor

_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"channels": 32, "multipliers": (1, 1), "blocks": (0, 2)},  # 300 thousand parameters
    "cifar10": {  # 55,929,347 parameters with r and without classes, output layer included
        "channels": 128,
        "multipliers": (2, 2, 2),
        "blocks": (4,),
        "attention": (16,),
        "dropout": 0.2,
        "filter": (1, 3, 3, 1),
    },
}


@final
class UNet(Backbone):
    """Convolutional U-Net (DDPM++) for images; sizes unet-tiny and unet-cifar10."""

    citations: ClassVar[tuple[str, ...]] = ("song2021sde", "karras2022edm")

    channels: int = Field(32, ge=2, multiple_of=2)
    """Channels after the first convolution; widths are multiples of it."""
    multipliers: tuple[PositiveInt, ...] = Field((1, 1), min_length=1)
    """Width of each level in units of `channels`, from the full resolution down; each level halves the sides."""
    blocks: tuple[NonNegativeInt, ...] = Field((0, 2), min_length=1)
    """Residual blocks per level of the encoder, one more in the decoder; the last number holds for further levels."""
    attention: tuple[PositiveInt, ...] = ()
    """Image heights at which the encoder's blocks and the decoder's last block attend; the middle always does."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the features that each block drops in training."""
    embedding: PositiveInt = 4
    """Width of the embedding of times and label in units of `channels`."""
    time_features: PositiveInt = 2
    """Sines and cosines per time in units of `channels`."""
    filter: tuple[PositiveInt, ...] = (1, 1)
    """Filter for halving and doubling the sides: (1, 1) averages pairs, (1, 3, 3, 1) is smoother."""

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings of 'tiny' (8 x 8 digits on a laptop) or 'cifar10' (py-meanflow's network)."""
        if name.lower() not in _PRESETS:
            known = ", ".join(f"unet-{name}" for name in _PRESETS)
            raise UnknownName(f"unknown size {name!r} of backbone unet; type {known}.")
        return dict(_PRESETS[name.lower()])

    @field_validator("filter")
    @classmethod
    def _even(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(value) % 2:
            raise ValueError("a filter has an even number of taps, such as [1, 1] or [1, 3, 3, 1].")
        return value

    def build(self, shape: tuple[int, ...], classes: int, *, sees_r: bool) -> "UNetTrunk":
        """The trunk for images (channels, height, width) that can be halved once per level."""
        if len(shape) != 3:
            raise ValueError(f"backbone unet takes images (channels, height, width), not {shape}; type backbone=mlp.")
        side, levels = math.gcd(*shape[1:]), len(self.multipliers)
        if side % 2 ** (levels - 1):
            fit = [*self.multipliers[: (side & -side).bit_length()]]
            sizes = f"{shape[1]}x{shape[2]}"
            raise ValueError(f"size {sizes} cannot be halved {levels - 1} times; type backbone.multipliers={fit}.")
        return UNetTrunk(self, shape, classes, sees_r)


class _Level(NamedTuple):
    """Sides, width and number of blocks at one resolution."""

    height: int
    width: int
    channels: int
    blocks: int


def _levels(settings: UNet, height: int, width: int) -> Iterator[_Level]:
    for level, multiplier in enumerate(settings.multipliers):
        blocks = settings.blocks[min(level, len(settings.blocks) - 1)]
        yield _Level(height >> level, width >> level, settings.channels * multiplier, blocks)


class UNetTrunk(Trunk):
    """(b, c, height, width) -> hidden (b, channels, height, width), condition (b, e)."""

    channel_axis = 1

    def __init__(self, settings: UNet, shape: tuple[int, ...], classes: int, sees_r: bool):
        super().__init__()
        self.settings, self.classes, self.sees_r = settings, classes, sees_r
        self.channels = settings.channels * settings.multipliers[0]
        waves, width = settings.time_features * settings.channels, settings.embedding * settings.channels
        self.map_label = nn.Embedding(classes + 1, waves * (1 + sees_r)) if classes else None
        self.map_layer0 = _xavier(nn.Linear(waves * (1 + sees_r), width))
        self.map_layer1 = _xavier(nn.Linear(width, width))
        levels = list(_levels(settings, *shape[1:]))
        skips: list[int] = []
        self.enc = nn.ModuleDict(dict(self._encoder(shape[0], levels, skips)))
        self.dec = nn.ModuleDict(dict(self._decoder(levels[::-1], skips)))

    def _encoder(self, inputs: int, levels: list[_Level], skips: list[int]) -> Iterator[tuple[str, nn.Module]]:
        """Names and layers from the image down; the channels of every output are appended to `skips`."""
        width = self.settings.channels
        for level, (h, w, outputs, blocks) in enumerate(levels):
            name = f"{h}x{w}"
            if level == 0:
                yield f"{name}_conv", _xavier(nn.Conv2d(inputs, width, 3, padding=1))
            else:
                yield f"{name}_down", self._block(width, width, resample="down")
            skips.append(width)
            for i in range(blocks):
                yield f"{name}_block{i}", self._block(width, outputs, attends=h in self.settings.attention)
                skips.append(width := outputs)

    def _decoder(self, levels: list[_Level], skips: list[int]) -> Iterator[tuple[str, nn.Module]]:
        """Names and layers from the middle up; the last blocks of a level join the encoder's outputs, latest first."""
        width = skips[-1]
        for level, (h, w, outputs, blocks) in enumerate(levels):
            name = f"{h}x{w}"
            if level == 0:
                yield f"{name}_in0", self._block(width, width, attends=True)
                yield f"{name}_in1", self._block(width, width)
            else:
                yield f"{name}_up", self._block(width, width, resample="up")
            for i in range(blocks + 1):
                attends = i == blocks and h in self.settings.attention
                yield f"{name}_block{i}", self._block(width + skips.pop(), outputs, attends=attends)
                width = outputs

    def _block(self, inputs: int, outputs: int, *, resample: str = "", attends: bool = False) -> "Block":
        settings = self.settings
        width = settings.embedding * settings.channels
        return Block(inputs, outputs, width, settings.dropout, attends, resample, settings.filter)

    def forward(self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None) -> Features:
        """Features of x_t; y = None stands for the null label."""
        condition = self._condition(t, r, y)
        first, *encoder = self.enc.values()
        features = Features(first(x_t), condition)
        skips = [features.hidden]
        for block in encoder:
            features = block(features)
            skips.append(features.hidden)
        for name, block in self.dec.items():
            if "_block" in name:
                features = Features(torch.cat((features.hidden, skips.pop()), dim=1), condition)
            features = block(features)
        return features

    def _condition(self, t: Tensor, r: Tensor | None, y: Tensor | None) -> Tensor:
        assert (r is not None) == self.sees_r, "r is given if and only if the trunk was built to see it"
        assert y is None or self.map_label is not None, "labels were given to a trunk that was built without classes"
        count = self.settings.time_features * self.settings.channels // 2
        times = t[:, None] if r is None else torch.stack((t, t - r), dim=1)
        waves = _waves(times, count).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            waves = waves + self.map_label(torch.full_like(t, self.classes, dtype=torch.long) if y is None else y)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(waves))))

    def projection(self, out_channels: int) -> "Output":
        """Norm, SiLU and a convolution."""
        return Output(self.channels, out_channels)

    def block(self) -> "Block":
        """One more residual block at the full resolution."""
        return self._block(self.channels, self.channels)


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
        self.norm0, self.norm1 = _norm(inputs), _norm(outputs)
        self.conv0 = _xavier(Conv(inputs, outputs, 3, resample, taps))
        self.affine = _xavier(nn.Linear(condition, outputs))
        self.conv1 = _xavier(nn.Conv2d(outputs, outputs, 3, padding=1), gain=1e-5)
        self.skip = (
            _xavier(Conv(inputs, outputs, 1, resample, taps)) if resample or inputs != outputs else nn.Identity()
        )
        if attends:
            self.norm2 = _norm(outputs)
            self.qkv = _xavier(nn.Conv2d(outputs, 3 * outputs, 1), gain=math.sqrt(0.2))
            self.proj = _xavier(nn.Conv2d(outputs, outputs, 1), gain=1e-5)

    def forward(self, features: Features) -> Features:
        """(b, inputs, h, w) -> (b, outputs, h', w'); sums are scaled to keep the variance."""
        x, condition = features
        hidden = self.conv0(F.silu(self.norm0(x))) + self.affine(condition)[:, :, None, None]
        hidden = self.dropout(F.silu(self.norm1(hidden)))
        x = (self.conv1(hidden) + self.skip(x)) * math.sqrt(0.5)
        if self.attends:
            x = (self._attend(self.norm2(x)) + x) * math.sqrt(0.5)
        return Features(x, condition)

    def _attend(self, x: Tensor) -> Tensor:
        """One head over the pixels; qkv holds q, k and v one after the other (EDM's own files interleave them)."""
        q, k, v = self.qkv(x).flatten(2).mT[:, None].chunk(3, dim=-1)  # each (b, 1, h w, c)
        return self.proj(F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape))


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


class Output(nn.Module):
    """(b, channels, h, w) -> (b, out_channels, h, w), zero at initialisation."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.aux_norm = _norm(channels)
        self.aux_conv = _xavier(nn.Conv2d(channels, out_channels, 3, padding=1), gain=0.0)

    def forward(self, features: Features) -> Tensor:
        """(b, out_channels, h, w)."""
        return self.aux_conv(F.silu(self.aux_norm(features.hidden)))


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d, Conv)


def _xavier(layer: _Layer, gain: float = 1.0) -> _Layer:
    """The layer with Xavier's uniform weights times `gain` and zero bias."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels: the largest number of groups that divides the channels."""
    groups = max(n for n in range(1, max(2, min(32, channels // 4) + 1)) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _waves(times: Tensor, count: int) -> Tensor:
    """(b, times) -> (b, times 2 count): sines, then cosines of frequencies from 1 down to 1/10000, time by time."""
    times = times.to(torch.promote_types(times.dtype, torch.float32))
    exponents = torch.arange(count, dtype=times.dtype, device=times.device) / max(count - 1, 1)
    angles = times[..., None] * 10000**-exponents
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)
