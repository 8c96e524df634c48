"""Layers of the transformer. Names are those of DiT and SiT, and where these have none, of LightningDiT and iMF.

Shapes: b batch, n tokens, w width, c channels of an attention head.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from genobj.backbones.base import Features

_WAVES = 256
"""Features of a time before its MLP."""


class Style(NamedTuple):
    """What the blocks of one transformer have in common."""

    width: int
    heads: int
    inner: int
    """Width of the MLP's middle."""
    norm: Literal["layer", "rms"]
    mlp: Literal["gelu", "swiglu"]
    qk_norm: bool
    bias: bool
    adaptive: bool
    """Whether the condition scales, shifts and gates (adaLN-Zero); else a gate is a learned vector."""

    def normalise(self) -> nn.Module:
        """A new normalisation of tokens."""
        if self.norm == "rms":
            return RMSNorm(self.width, eps=1e-6)
        return nn.LayerNorm(self.width, eps=1e-6, elementwise_affine=False)


class RMSNorm(nn.RMSNorm):
    """x / root mean square(x) times a weight per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """In the precision of x, so that under autocast one kernel does it."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


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


class GuideEmbedder(nn.Module):
    """(b, 3) -> three times (b, w): the guidance scale w, fed as 1 - 1/w, and the ends of its interval (iMF)."""

    def __init__(self, width: int):
        super().__init__()
        self.scale, self.low, self.high = TimeEmbedder(width), TimeEmbedder(width), TimeEmbedder(width)

    def forward(self, g: Tensor) -> dict[str, Tensor]:
        """Embeddings by name."""
        w, low, high = g.unbind(1)
        return {"scale": self.scale(1 - 1 / w), "low": self.low(low), "high": self.high(high)}


class Block(nn.Module):
    """Attention and an MLP on the residual stream, each normalised before and gated after; the identity at first."""

    def __init__(self, style: Style):
        super().__init__()
        width = style.width
        self.norm1, self.norm2 = style.normalise(), style.normalise()
        self.attn, self.mlp = Attention(style), FeedForward(style) if style.mlp == "gelu" else SwiGLU(style)
        self.adaLN_modulation = None
        if style.adaptive:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(width, 6 * width, std=0.0))
        else:
            self.attn_scale, self.mlp_scale = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, features: Features) -> Features:
        """The same shapes; condition and context pass through."""
        x, condition, rotation = features
        if self.adaLN_modulation is None:
            x = x + self.attn_scale * self.attn(self.norm1(x), rotation)
            return features._replace(hidden=x + self.mlp_scale * self.mlp(self.norm2(x)))
        parts = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate_attn * self.attn(_modulate(self.norm1(x), shift_attn, scale_attn), rotation)
        x = x + gate_mlp * self.mlp(_modulate(self.norm2(x), shift_mlp, scale_mlp))
        return features._replace(hidden=x)


class Attention(nn.Module):
    """Self-attention (b, n, w) -> (b, n, w)."""

    def __init__(self, style: Style):
        super().__init__()
        width, self.heads = style.width, style.heads
        self.qkv, self.proj = _linear(width, 3 * width, bias=style.bias), _linear(width, width, bias=style.bias)
        norms = [RMSNorm(width // self.heads, eps=1e-6) if style.qk_norm else nn.Identity() for _ in range(2)]
        self.q_norm, self.k_norm = norms

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """The kernel is the caller's choice (torch.nn.attention.sdpa_kernel). rotation: see `rotate`."""
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation).to(v.dtype), rotate(k, rotation).to(v.dtype)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)"))


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, style: Style):
        super().__init__()
        self.fc1 = _linear(style.width, style.inner, bias=style.bias)
        self.fc2 = _linear(style.inner, style.width, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, w) -> (b, n, w)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """w3(SiLU(a) b) with (a, b) = w12(x)."""

    def __init__(self, style: Style):
        super().__init__()
        self.w12 = _linear(style.width, 2 * style.inner, bias=style.bias)
        self.w3 = _linear(style.inner, style.width, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, w) -> (b, n, w)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class FinalLayer(nn.Module):
    """Tokens (b, registers + n, w) -> images (b, out_channels, height, width), zero at initialisation."""

    def __init__(self, style: Style, out_channels: int, patch: int, grid: tuple[int, int], registers: int):
        super().__init__()
        self.patch, self.grid, self.registers = patch, grid, registers
        self.norm_final = style.normalise()
        self.linear = _linear(style.width, patch * patch * out_channels, std=0.0)
        self.adaLN_modulation = None
        if style.adaptive:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(style.width, 2 * style.width, std=0.0))

    def forward(self, features: Features) -> Tensor:
        """Registers are left out. Pixels of a token are ordered (row, column, channel), the channel fastest."""
        x = self.norm_final(features.hidden[:, self.registers :] if self.registers else features.hidden)
        if self.adaLN_modulation is not None:
            x = _modulate(x, *self.adaLN_modulation(features.condition)[:, None].chunk(2, dim=-1))
        sizes = {"h": self.grid[0], "p": self.patch, "q": self.patch}
        return rearrange(self.linear(x), "b (h w) (p q c) -> b c (h p) (w q)", **sizes)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """(..., n, c): neighbouring channels (a, b) are turned by their angle (RoPE, arXiv 2104.09864).

    rotation: cosines and sines (2, n, c / 2).
    """
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), rotation.unbind(0)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def rotations(places: Tensor, channels: int) -> Tensor:
    """Cosines and sines (2, n, channels / 2) for places (n, axes); every axis turns its share of the channels."""
    axes = places.shape[1]
    angles = (places[..., None] * _frequencies(channels // 2 // axes, places)).flatten(1)
    return torch.stack((angles.cos(), angles.sin()))


def grid_places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(rows columns, 2): row and column of every patch, row by row."""
    return torch.cartesian_prod(*(torch.arange(n, dtype=like.dtype, device=like.device) for n in (rows, columns)))


def positions(rows: int, columns: int, width: int) -> Tensor:
    """(1, rows columns, width): sines and cosines of the column in the first half, of the row in the second."""
    at = torch.cartesian_prod(torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64))
    angles = at.flip(1)[..., None] * _frequencies(width // 4, at)  # (n, 2, width / 4)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)[None].to(torch.get_default_dtype())


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _linear(inputs: int, outputs: int, std: float | None = None, *, bias: bool = True) -> nn.Linear:
    """A linear layer with zero bias and weights from N(0, std^2), or Xavier's uniform law without std."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=std) if std else nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _frequencies(count: int, like: Tensor) -> Tensor:
    """10000^(-i / count) for i = 0 .. count - 1."""
    return torch.exp(torch.arange(count, dtype=like.dtype, device=like.device) * (-math.log(10000) / count))
