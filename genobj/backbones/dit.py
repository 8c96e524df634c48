"""Diffusion transformer, arXiv 2212.09748 (DiT) and 2401.08740 (SiT).

Parameter names, shapes and initialisation are those of the official DiT and SiT, so that their state dicts load: the
trunk is the official network without `final_layer`, a projection is one `final_layer`. MeanFlow's second time enters
as `r_embedder`, fed t - r. Times are fed unscaled. Shapes: b batch, n tokens, w width.
"""

import math
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from genobj.backbones.base import Backbone, Features, Trunk
from genobj.registry import UnknownName
from genobj.types import Labels, Samples, TimeTensor

_SIZES = {
    "tiny": {"depth": 4, "width": 64, "heads": 4},  # 8 x 8 digits: 330 thousand parameters
    "s": {"depth": 12, "width": 384, "heads": 6},  # 33 million at patch 2, 4 channels, 1000 classes
    "b": {"depth": 12, "width": 768, "heads": 12},  # 131 million
    "m": {"depth": 16, "width": 1024, "heads": 16},  # 307 million; MeanFlow's own, arXiv 2505.13447
    "l": {"depth": 24, "width": 1024, "heads": 16},  # 458 million
    "xl": {"depth": 28, "width": 1152, "heads": 16},  # 675 million
}
_WAVES = 256
"""Features of a time before its MLP."""


@final
class DiT(Backbone):
    """Diffusion transformer (DiT, SiT) for images and latents; sizes dit-tiny, dit-s/2 to dit-xl/2."""

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

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings of 'tiny', 's/2', ..., 'xl/2': a size, and a patch after the slash (2 without one)."""
        size, slash, patch = name.lower().partition("/")
        if size not in _SIZES or (slash and not (patch.isdecimal() and int(patch))):
            known = ", ".join(f"dit-{size}" if size == "tiny" else f"dit-{size}/2" for size in _SIZES)
            raise UnknownName(f"unknown size {name!r} of backbone dit; type {known} (any patch after the slash).")
        return {**_SIZES[size], "patch": int(patch or 2)}

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "DiT":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} attention heads; change either.")
        return self

    def build(self, shape: tuple[int, ...], classes: int, *, sees_r: bool) -> "DiTTrunk":
        """The trunk for images (channels, height, width) whose sides are divisible by the patch."""
        if len(shape) != 3:
            raise ValueError(f"backbone dit takes images (channels, height, width), not {shape}; type backbone=mlp.")
        side = math.gcd(*shape[1:])
        if side % self.patch:
            fits = min((p for p in range(1, side + 1) if side % p == 0), key=lambda p: abs(p - self.patch))
            sizes = f"{shape[1]}x{shape[2]}"
            raise ValueError(f"size {sizes} is not divisible by patch {self.patch}; type backbone.patch={fits}.")
        return DiTTrunk(self, shape, classes, sees_r)


class DiTTrunk(Trunk):
    """(b, c, height, width) -> hidden (b, n, w), condition (b, w)."""

    def __init__(self, settings: DiT, shape: tuple[int, ...], classes: int, sees_r: bool):
        super().__init__()
        self.settings, self.classes, self.channels = settings, classes, settings.width
        self.grid = (shape[1] // settings.patch, shape[2] // settings.patch)
        self.x_embedder = PatchEmbedder(shape[0], settings.width, settings.patch)
        self.t_embedder = TimeEmbedder(settings.width)
        self.sees_r = sees_r
        self.r_embedder = TimeEmbedder(settings.width) if sees_r or settings.two_times else None
        self.y_embedder = LabelEmbedder(classes, settings.width) if classes else None
        self.pos_embed = nn.Parameter(_positions(*self.grid, settings.width), requires_grad=False)
        self.blocks = nn.ModuleList(self.block() for _ in range(settings.depth))

    def forward(self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None) -> Features:
        """Features of x_t; y = None stands for the null label."""
        features = Features(self.x_embedder(x_t) + self.pos_embed, self._condition(t, r, y))
        for block in self.blocks:
            features = block(features)
        return features

    def _condition(self, t: Tensor, r: Tensor | None, y: Tensor | None) -> Tensor:
        assert (r is not None) == self.sees_r, "r is given iff the trunk was built to see it"
        assert y is None or self.y_embedder is not None, "labels were given to a trunk that was built without classes"
        condition = self.t_embedder(t)
        if self.r_embedder is not None:
            condition = condition + self.r_embedder(t if r is None else t - r)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(
                torch.full_like(t, self.classes, dtype=torch.long) if y is None else y
            )
        return condition

    def projection(self, out_channels: int) -> "FinalLayer":
        """The official final layer with its own modulation."""
        return FinalLayer(self.channels, out_channels, self.settings.patch, self.grid)

    def block(self) -> "Block":
        """One more transformer block, the identity at initialisation."""
        return Block(self.settings.width, self.settings.heads, self.settings.mlp_ratio)


class PatchEmbedder(nn.Module):
    """(b, c, height, width) -> (b, n, w): a linear map of every patch, written as a convolution."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, row by row; in one piece, since sums downstream take over their layout."""
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


class TimeEmbedder(nn.Module):
    """(b,) -> (b, w): cosines and sines with periods up to 2 pi 10000, then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(_linear(_WAVES, width, std=0.02), nn.SiLU(), _linear(width, width, std=0.02))

    def forward(self, t: Tensor) -> Tensor:
        """Waves are computed in float32 at least, whatever the weights are."""
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        angles = t[:, None] * _frequencies(_WAVES // 2, t)
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=1).to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """(b,) -> (b, w): a row per class and a last one for the null label."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y: Tensor) -> Tensor:
        """Rows of the table."""
        return self.embedding_table(y)


class Block(nn.Module):
    """Attention and an MLP, each scaled, shifted and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(width, 6 * width, std=0.0))

    def forward(self, features: Features) -> Features:
        """The same shapes; the condition passes through."""
        x, condition = features
        parts = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate_attn * self.attn(_modulate(x, shift_attn, scale_attn))
        x = x + gate_mlp * self.mlp(_modulate(x, shift_mlp, scale_mlp))
        return Features(x, condition)


class Attention(nn.Module):
    """Self-attention (b, n, w) -> (b, n, w)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = _linear(width, 3 * width), _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The kernel is the caller's choice (torch.nn.attention.sdpa_kernel)."""
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)"))


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = _linear(width, inner), _linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, w) -> (b, n, w)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class FinalLayer(nn.Module):
    """Tokens (b, n, w) -> images (b, out_channels, height, width), zero at initialisation."""

    def __init__(self, width: int, out_channels: int, patch: int, grid: tuple[int, int]):
        super().__init__()
        self.patch, self.grid = patch, grid
        self.linear = _linear(width, patch * patch * out_channels, std=0.0)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(width, 2 * width, std=0.0))

    def forward(self, features: Features) -> Tensor:
        """Pixels of a token are ordered (row, column, channel), the channel fastest."""
        shift, scale = self.adaLN_modulation(features.condition)[:, None].chunk(2, dim=-1)
        tokens = self.linear(_modulate(features.hidden, shift, scale))
        sizes = {"h": self.grid[0], "p": self.patch, "q": self.patch}
        return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", **sizes)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _linear(inputs: int, outputs: int, std: float | None = None) -> nn.Linear:
    """A linear layer with zero bias and weights from N(0, std^2), or Xavier's uniform law without std."""
    layer = nn.Linear(inputs, outputs)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=std) if std else nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _frequencies(count: int, like: Tensor) -> Tensor:
    """10000^(-i / count) for i = 0 .. count - 1."""
    return torch.exp(torch.arange(count, dtype=like.dtype, device=like.device) * (-math.log(10000) / count))


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """(1, rows columns, width): sines and cosines of the column in the first half, of the row in the second."""
    at = torch.cartesian_prod(torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64))
    angles = at.flip(1)[..., None] * _frequencies(width // 4, at)  # (n, 2, width / 4)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)[None].to(torch.get_default_dtype())
