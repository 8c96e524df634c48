"""U-Nets DDPM++ and NCSN++, arXiv 2011.13456 (score SDE) in the form of 2206.00364 (EDM).

Parameter names and shapes are those of EDM's SongUNet (encoder "standard" or "residual", decoder "standard") and of its
copies in MeanFlow's and SoFlow's CIFAR-10 code; the output layer is the projection. With a second time the features of
t and t - r are concatenated. Times are fed unscaled. Shapes: b batch, c channels, h x w pixels, e embedding width.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor, nn

from genobj.backbones.base import Backbone, Features, Trunk
from genobj.backbones.unet_layers import Block, FourierWaves, Output, Shortcut, Waves, xavier
from genobj.registry import UnknownName
from genobj.types import Augment, Labels, Samples, TimeTensor

_CIFAR: dict[str, Any] = {"channels": 128, "multipliers": (2, 2, 2), "blocks": (4,), "attention": (16,)}

_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"channels": 32, "multipliers": (1, 1), "blocks": (0, 2)},  # 300 thousand parameters
    # parameters without classes, output layer included:
    "cifar10": {**_CIFAR, "dropout": 0.2, "filter": (1, 3, 3, 1)},  # with r 55,929,347, and 6 labels 55,932,419
    "edm": {**_CIFAR, "dropout": 0.13, "time_features": 1},  # EDM's DDPM++: 55,732,739
    "ncsnpp": {  # EDM's NCSN++: 56,395,523
        **_CIFAR,
        "dropout": 0.13,
        "filter": (1, 3, 3, 1),
        "encoder": "residual",
        "waves": "fourier",
    },
}


@final
class UNet(Backbone):
    """Convolutional U-Net (DDPM++, NCSN++) for images; sizes unet-tiny, unet-cifar10, unet-edm and unet-ncsnpp."""

    citations: ClassVar[tuple[str, ...]] = ("song2021sde", "karras2022edm")
    augments: ClassVar[bool] = True

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
    encoder: Literal["standard", "residual"] = "standard"
    """Residual: a path of halved images runs beside the encoder and joins it at every level (NCSN++)."""
    waves: Literal["positional", "fourier"] = "positional"
    """Frequencies of the time features: from 1 down to 1/10000, or random ones (Fourier features, NCSN++)."""
    bandwidth: float = Field(16.0, gt=0)
    """Standard deviation of the random frequencies, in cycles per unit of time. EDM's 16 is for times ln(sigma) / 4;
    derivatives along t are large with it, so that flow-map objectives want less."""

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings of 'tiny' (8 x 8 digits on a laptop), 'cifar10' (py-meanflow's), 'edm' or 'ncsnpp' (EDM's two)."""
        if name.lower() not in _PRESETS:
            known = ", ".join(f"unet-{name}" for name in _PRESETS)
            raise UnknownName(f"unknown size {name!r} of backbone unet; type {known}.")
        return dict(_PRESETS[name.lower()])

    @property
    def idle(self) -> frozenset[str]:
        """The bandwidth, where no frequency is random."""
        return frozenset() if self.waves == "fourier" else frozenset({"bandwidth"})

    @field_validator("filter")
    @classmethod
    def _even(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(value) % 2:
            raise ValueError("a filter has an even number of taps, such as [1, 1] or [1, 3, 3, 1].")
        return value

    def build(self, shape: tuple[int, ...], classes: int, *, sees_r: bool, augmentation: int = 0) -> "UNetTrunk":
        """The trunk for images (channels, height, width) that can be halved once per level.

        augmentation: numbers in an augmentation label, 0 for none.
        """
        if len(shape) != 3:
            raise ValueError(f"backbone unet takes images (channels, height, width), not {shape}; type backbone=mlp.")
        side, levels = math.gcd(*shape[1:]), len(self.multipliers)
        if side % 2 ** (levels - 1):
            fit = [*self.multipliers[: (side & -side).bit_length()]]
            sizes = f"{shape[1]}x{shape[2]}"
            raise ValueError(f"size {sizes} cannot be halved {levels - 1} times; type backbone.multipliers={fit}.")
        return UNetTrunk(self, shape, classes, sees_r, augmentation)


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

    def __init__(self, settings: UNet, shape: tuple[int, ...], classes: int, sees_r: bool, augmentation: int):
        super().__init__()
        self.settings, self.classes, self.sees_r = settings, classes, sees_r
        self.channels = settings.channels * settings.multipliers[0]
        count, width = settings.time_features * settings.channels // 2, settings.embedding * settings.channels
        fourier, waves = settings.waves == "fourier", 2 * count * (1 + sees_r)
        self.map_noise = FourierWaves(count, settings.bandwidth) if fourier else Waves(count)
        self.map_label = nn.Embedding(classes + 1, waves) if classes else None
        self.map_augment = xavier(nn.Linear(augmentation, waves, bias=False)) if augmentation else None
        self.map_layer0 = xavier(nn.Linear(waves, width))
        self.map_layer1 = xavier(nn.Linear(width, width))
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
                yield f"{name}_conv", xavier(nn.Conv2d(inputs, width, 3, padding=1))
            else:
                yield f"{name}_down", self._block(width, width, resample="down")
            if level and self.settings.encoder == "residual":
                yield f"{name}_aux_residual", xavier(Shortcut(inputs, width, self.settings.filter))
                inputs = width
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

    def forward(
        self,
        x_t: Samples,
        t: TimeTensor,
        *,
        r: TimeTensor | None = None,
        y: Labels | None = None,
        a: Augment | None = None,
    ) -> Features:
        """Features of x_t; y = None stands for the null label, a = None for samples that were not augmented."""
        features, skips = self._encoded(x_t, self._condition(t, r, y, a))
        for name, block in self.dec.items():
            if "_block" in name:
                features = features._replace(hidden=torch.cat((features.hidden, skips.pop()), dim=1))
            features = block(features)
        return features

    def _encoded(self, x_t: Tensor, condition: Tensor) -> tuple[Features, list[Tensor]]:
        """The encoder's last features, and the hidden ones after every layer."""
        skips: list[Tensor] = []
        features, image = Features(x_t, condition), x_t
        for layer in self.enc.values():
            if isinstance(layer, Shortcut):  # joins the features that the level starts with
                image = (features.hidden + layer(image)) * math.sqrt(0.5)
                features, skips[-1] = features._replace(hidden=image), image
                continue
            features = layer(features) if isinstance(layer, Block) else features._replace(hidden=layer(x_t))
            skips.append(features.hidden)
        return features, skips

    def _condition(self, t: Tensor, r: Tensor | None, y: Tensor | None, a: Tensor | None) -> Tensor:
        assert (r is not None) == self.sees_r, "r is given if and only if the trunk was built to see it"
        assert y is None or self.map_label is not None, "labels were given to a trunk that was built without classes"
        assert a is None or self.map_augment is not None, "the trunk was built without augmentation labels"
        times = t[:, None] if r is None else torch.stack((t, t - r), dim=1)
        waves = self.map_noise(times).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            waves = waves + self.map_label(torch.full_like(t, self.classes, dtype=torch.long) if y is None else y)
        if self.map_augment is not None and a is not None:
            waves = waves + self.map_augment(a.to(waves.dtype))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(waves))))

    def projection(self, out_channels: int) -> "Output":
        """Norm, SiLU and a convolution."""
        return Output(self.channels, out_channels)

    def block(self) -> "Block":
        """One more residual block at the full resolution."""
        return self._block(self.channels, self.channels)
