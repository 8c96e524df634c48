"""Diffusion transformer, arXiv 2212.09748 (DiT) and 2401.08740 (SiT), with the variants that followed.

By default parameter names, shapes and initialisation are those of the official DiT and SiT, so that their state dicts
load: the trunk is the official network without `final_layer`, a projection is one `final_layer`. MeanFlow's second time
enters as `r_embedder`, fed t - r. Options: RMSNorm, rotary positions, SwiGLU and normalised queries and keys as in
LightningDiT (arXiv 2501.01423), and conditioning tokens beside or instead of adaLN as in improved MeanFlow
(arXiv 2512.02012). Times are fed unscaled. Shapes: b batch, n tokens, w width.
"""

import math
from functools import reduce
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from genobj.backbones.base import Backbone, Features, Trunk
from genobj.backbones.dit_layers import (
    Block,
    FinalLayer,
    GuideEmbedder,
    LabelEmbedder,
    PatchEmbedder,
    Style,
    TimeEmbedder,
    grid_places,
    positions,
    rotations,
)
from genobj.config.base import Config
from genobj.registry import UnknownName
from genobj.types import Guide, Labels, Samples, TimeTensor

_IMF = {  # conditioned on t - r, not on t; trained with heads of depth 8
    "norm": "rms",
    "position": "rope-1d",
    "mlp": "swiglu",
    "mlp_ratio": 8 / 3,
    "qk_norm": True,
    "bias": False,
    "condition": "tokens",
    "tokens": {"time": 0},
}
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"depth": 4, "width": 64, "heads": 4},  # 8 x 8 digits: 330 thousand parameters
    "s": {"depth": 12, "width": 384, "heads": 6},  # 33 million at patch 2, 4 channels, 1000 classes
    "b": {"depth": 12, "width": 768, "heads": 12},  # 131 million
    "m": {"depth": 16, "width": 1024, "heads": 16},  # 307 million; MeanFlow's own, arXiv 2505.13447
    "l": {"depth": 24, "width": 1024, "heads": 16},  # 458 million
    "xl": {"depth": 28, "width": 1152, "heads": 16},  # 675 million
    "imf-b": {"depth": 4, "width": 768, "heads": 12, **_IMF},  # 89 million with one head of depth 8, 146 with two
    "imf-m": {"depth": 16, "width": 768, "heads": 12, **_IMF},  # 174, 231
    "imf-l": {"depth": 24, "width": 1024, "heads": 16, **_IMF},  # 409, 510
    "imf-xl": {"depth": 40, "width": 1024, "heads": 16, **_IMF},  # 610, 711
}


@final
class Tokens(Config):
    """How many conditioning tokens join the sequence for each input (defaults: improved MeanFlow's)."""

    label: NonNegativeInt = 8
    """For the label, where there are labels."""
    scale: NonNegativeInt = 4
    """For the guidance scale, where guidance is fed."""
    interval: NonNegativeInt = 2
    """For each end of the guidance interval, where guidance is fed."""
    time: NonNegativeInt = 4
    """For t; 0 together with condition=tokens: the network is told t - r only (improved MeanFlow)."""
    target: NonNegativeInt = 4
    """For t - r, where the trunk is told r."""

    @model_validator(mode="after")
    def _guidance_is_whole(self) -> "Tokens":
        if (self.scale > 0) != (self.interval > 0):
            raise ValueError(
                "guidance is a scale and an interval: set both tokens.scale and tokens.interval, or 0 twice."
            )
        return self


@final
class DiT(Backbone):
    """Diffusion transformer (DiT, SiT) for images and latents; sizes dit-tiny, dit-s/2 to dit-xl/2, dit-imf-b/2 ..."""

    citations: ClassVar[tuple[str, ...]] = ("peebles2023dit", "ma2024sit")

    depth: PositiveInt = 4
    """Number of transformer blocks."""
    width: int = Field(64, ge=4, multiple_of=4)
    """Channels of a token."""
    heads: PositiveInt = 4
    """Attention heads per block; they divide the width."""
    patch: PositiveInt = 2
    """Side of the square of pixels that becomes one token."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of a block's MLP in units of the width."""
    two_times: bool = False
    """A second time embedder, fed t - r, also where the trunk is told no r (then r = 0): the 679M of DuMo's tables
    have one besides the second head, which alone makes 678M."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation of tokens: without weights, or root mean square with a weight per channel."""
    position: Literal["sincos", "rope", "sincos+rope", "rope-1d"] = "sincos"
    """Where a token lies: added to it, or by turning queries and keys, by row and column, or along the sequence."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """A block's MLP: two layers around a GELU, or a gated one (its equal in size has mlp_ratio 8/3)."""
    qk_norm: bool = False
    """Whether queries and keys are normalised (root mean square)."""
    bias: bool = True
    """Whether the linear layers of attention and MLP have biases."""
    condition: Literal["adaln", "tokens", "both"] = "adaln"
    """How times, label and fed guidance enter: by scales, shifts and gates of every block, as tokens of the sequence,
    or both ways. With tokens alone, gates are learned vectors."""
    tokens: Tokens = Tokens()
    """Numbers of conditioning tokens, where there are any."""

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings of 'tiny', 's/2', ..., 'xl/2', 'imf-b/2', ...: a size, and after the slash a patch (else 2)."""
        size, slash, patch = name.lower().partition("/")
        if size not in _SIZES or (slash and not (patch.isdecimal() and int(patch))):
            known = ", ".join(f"dit-{size}" if size == "tiny" else f"dit-{size}/2" for size in _SIZES)
            raise UnknownName(f"unknown size {name!r} of backbone dit; type {known} (any patch after the slash).")
        return {**_SIZES[size], "patch": int(patch or 2)}

    @property
    def idle(self) -> frozenset[str]:
        """The numbers of tokens, where there are none."""
        return frozenset({"tokens"}) if self.condition == "adaln" else frozenset()

    @property
    def guided(self) -> bool:
        """See Backbone.guided: fed guidance enters by tokens, if they have places for it."""
        return self.condition != "adaln" and self.tokens.scale > 0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "DiT":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} attention heads; change either.")
        pairs = {"sincos": 1, "rope-1d": 2}.get(self.position, 4)
        if self.width // self.heads % pairs:
            each = f"an attention head has {self.width // self.heads} channels"
            raise ValueError(f"position={self.position} turns channels by {pairs}, and {each}; change width or heads.")
        return self

    def build(self, shape: tuple[int, ...], classes: int, *, sees_r: bool, guided: bool = False) -> "DiTTrunk":
        """The trunk for images (channels, height, width) whose sides are divisible by the patch.

        guided: whether it is told fed guidance (where `self.guided`).
        """
        if len(shape) != 3:
            raise ValueError(f"backbone dit takes images (channels, height, width), not {shape}; type backbone=mlp.")
        side = math.gcd(*shape[1:])
        if side % self.patch:
            fits = min((p for p in range(1, side + 1) if side % p == 0), key=lambda p: abs(p - self.patch))
            sizes = f"{shape[1]}x{shape[2]}"
            raise ValueError(f"size {sizes} is not divisible by patch {self.patch}; type backbone.patch={fits}.")
        if self.condition == "tokens":
            self._check_tokens(classes, sees_r or self.two_times)
        return DiTTrunk(self, shape, classes, sees_r, guided)

    def _check_tokens(self, classes: int, two_times: bool) -> None:
        """Nothing that the trunk is told may be without a way in."""
        lacks = [("target", "t - r", two_times), ("label", "the labels", classes)]
        for name, what, told in lacks:
            if told and not getattr(self.tokens, name):
                raise ValueError(f"no tokens tell the backbone {what}; type backbone.tokens.{name}=4.")
        if not (self.tokens.time or two_times):
            raise ValueError("no tokens tell the backbone a time; type heads.u.r_in=trunk or backbone.tokens.time=4.")


class DiTTrunk(Trunk):
    """(b, c, height, width) -> hidden (b, registers + n, w), condition (b, w), context: rotations or None.

    Registers are the conditioning tokens; they lie before the patches, and the output layer leaves them out.
    """

    def __init__(self, settings: DiT, shape: tuple[int, ...], classes: int, sees_r: bool, guided: bool):
        super().__init__()
        self.settings, self.classes, self.channels, self.sees_r = settings, classes, settings.width, sees_r
        self.grid = (shape[1] // settings.patch, shape[2] // settings.patch)
        width, adaptive, tokens = settings.width, settings.condition != "tokens", settings.tokens
        self.x_embedder = PatchEmbedder(shape[0], width, settings.patch)
        self.t_embedder = TimeEmbedder(width) if adaptive or tokens.time else None
        self.r_embedder = TimeEmbedder(width) if sees_r or settings.two_times else None
        self.y_embedder = LabelEmbedder(classes, width) if classes else None
        self.g_embedder = GuideEmbedder(width) if guided else None
        self.registers = nn.ParameterDict(self._registers().items() if settings.condition != "adaln" else ())
        self.pos_embed = None
        if "sincos" in settings.position:
            self.pos_embed = nn.Parameter(positions(*self.grid, width), requires_grad=False)
        inner = int(width * settings.mlp_ratio)
        kinds = settings.norm, settings.mlp, settings.qk_norm, settings.bias
        self.style = Style(width, settings.heads, inner, *kinds, adaptive)
        self.blocks = nn.ModuleList(self.block() for _ in range(settings.depth))

    def _registers(self) -> dict[str, nn.Parameter]:
        """Learned tokens (count, w), of every kind that something is told by, from N(0, 1 / w)."""
        tokens, counts = self.settings.tokens, dict[str, int]()
        if self.y_embedder is not None:
            counts["label"] = tokens.label
        if self.g_embedder is not None:
            counts |= {"scale": tokens.scale, "low": tokens.interval, "high": tokens.interval}
        if self.t_embedder is not None:
            counts["time"] = tokens.time
        if self.r_embedder is not None:
            counts["target"] = tokens.target
        width = self.settings.width
        return {name: nn.Parameter(torch.randn(n, width) / math.sqrt(width)) for name, n in counts.items() if n}

    @property
    def units(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def forward(
        self,
        x_t: Samples,
        t: TimeTensor,
        *,
        r: TimeTensor | None = None,
        y: Labels | None = None,
        g: Guide | None = None,
    ) -> Features:
        """Features of x_t; y = None stands for the null label; g is given iff the trunk was built to be guided."""
        told = self._told(t, r, y, g)
        hidden = self.x_embedder(x_t)
        hidden = hidden.to(self.x_embedder.proj.weight.dtype)  # autocast lowers it; sums are kept as weights are
        if self.pos_embed is not None:
            hidden = hidden + self.pos_embed
        if self.registers:
            tokens = [register + told[name][:, None] for name, register in self.registers.items()]
            hidden = torch.cat([*tokens, hidden], dim=1)
        features = Features(hidden, reduce(torch.add, told.values()), self._rotations(hidden))
        for block in self.blocks:
            features = block(features)
        return features

    def _told(self, t: Tensor, r: Tensor | None, y: Tensor | None, g: Tensor | None) -> dict[str, Tensor]:
        """Embeddings (b, w) of everything that the network is told."""
        assert (r is not None) == self.sees_r, "r is given iff the trunk was built to see it"
        assert y is None or self.y_embedder is not None, "labels were given to a trunk that was built without classes"
        assert (g is not None) == (self.g_embedder is not None), "g is given iff the trunk was built to be guided"
        told: dict[str, Tensor] = {}
        if self.t_embedder is not None:
            told["time"] = self.t_embedder(t)
        if self.r_embedder is not None:
            told["target"] = self.r_embedder(t if r is None else t - r)
        if self.y_embedder is not None:
            told["label"] = self.y_embedder(torch.full_like(t, self.classes, dtype=torch.long) if y is None else y)
        return told if self.g_embedder is None or g is None else told | self.g_embedder(g)

    def _rotations(self, hidden: Tensor) -> Tensor | None:
        """Cosines and sines for queries and keys; by row and column registers are not turned."""
        if "rope" not in self.settings.position:
            return None
        channels, count = self.settings.width // self.settings.heads, hidden.shape[1]
        like = hidden.new_empty(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
        if self.settings.position == "rope-1d":
            return rotations(torch.arange(count, dtype=like.dtype, device=like.device)[:, None], channels)
        places = grid_places(*self.grid, like)
        return rotations(torch.cat([places.new_zeros(count - len(places), 2), places]), channels)

    def projection(self, out_channels: int) -> FinalLayer:
        """The official final layer, with its own modulation where there is any."""
        registers = sum(len(register) for register in self.registers.values())
        return FinalLayer(self.style, out_channels, self.settings.patch, self.grid, registers)

    def block(self) -> Block:
        """One more transformer block, the identity at initialisation."""
        return Block(self.style)
