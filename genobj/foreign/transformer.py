"""DiT, SiT and MeanFlow's SiT (arXiv 2212.09748, 2401.08740, 2505.13447): our DiT has their names."""

import math
import re
from typing import Literal

from torch import Tensor

from genobj.backbones.dit import DiT
from genobj.foreign.files import Tensors
from genobj.foreign.network import Foreign, Renamed, one_head, shape_of
from genobj.model import ModelSettings
from genobj.paths.linear import Linear
from genobj.reading import ReadingName

_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads by width, for the published sizes; the weights do not tell."""
_READINGS: dict[str, ReadingName | None] = {"dit": "ddpm", "sit": "sit", "meanflow-torch": None}
_MEANING = {
    "dit": "the noise prediction is read as a velocity (reading 'ddpm')",
    "sit": "time and sign are reversed (reading 'sit')",
}


def transformer(
    kind: Literal["dit", "sit", "meanflow-torch"], tensors: Tensors, where: str, heads: int | None = None
) -> Foreign:
    """The network in a state dict. heads: attention heads, needed for widths of no published size."""
    two_times = "r_embedder.mlp.0.weight" in tensors
    if two_times != (kind == "meanflow-torch"):
        what, instead = ("a", "meanflow-torch") if two_times else ("no", "sit or dit")
        raise ValueError(f"{where} has {what} second time embedder (r_embedder); type genobj import {instead}")
    width, channels, patch, _ = shape_of(tensors, "x_embedder.proj.weight", where, 4)
    tokens = shape_of(tensors, "pos_embed", where, 3)[1]
    labels = shape_of(tensors, "y_embedder.embedding_table.weight", where, 2)[0]
    side = math.isqrt(tokens) * patch
    backbone = DiT.model_validate(
        {
            "depth": 1 + max((int(i[1]) for name in tensors if (i := re.match(r"blocks\.(\d+)\.", name))), default=0),
            "width": width,
            "heads": _attention_heads(width, heads, where),
            "patch": patch,
            "mlp_ratio": shape_of(tensors, "blocks.0.mlp.fc1.weight", where, 2)[0] / width,
        }
    )
    head, projections, horizons = one_head("interval" if two_times else "instant")
    settings = ModelSettings(
        backbone=backbone,
        heads=dict(projections),
        horizons=horizons,
        shape=(channels, side, side),
        classes=labels - 1,
        path=Linear(),
        reading=_READINGS[kind],
    )
    kept, left_out = _without_variance(tensors, channels, patch, where)
    renamed = {name: Renamed(_renamed(name, head), value) for name, value in kept.items()}
    return Foreign(settings, renamed, tuple(filter(None, [_MEANING.get(kind)])), left_out)


def _attention_heads(width: int, heads: int | None, where: str) -> int:
    heads = heads or _HEADS.get(width)
    if heads is None:
        raise ValueError(f"{where}: width {width} is no published size, so type --heads N, its attention heads")
    return heads


def _renamed(name: str, head: str) -> str:
    layer, dot, rest = name.partition(".")
    return f"heads.{head}.projection.{rest}" if layer == "final_layer" else f"trunk.{layer}{dot}{rest}"


def _without_variance(tensors: Tensors, channels: int, patch: int, where: str) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors with the rows of the output that predict the mean; learn_sigma has as many for the variance.

    Rows are ordered (row, column, channel) with the channel fastest.
    """
    outputs = shape_of(tensors, "final_layer.linear.weight", where, 2)[0]
    if outputs != 2 * channels * patch**2:
        return tensors, ()

    def mean(value: Tensor) -> Tensor:
        return value.unflatten(0, (patch**2, 2, channels))[:, 0].flatten(0, 1)

    names = [name for name in ("final_layer.linear.weight", "final_layer.linear.bias") if name in tensors]
    if any(len(tensors[name]) != outputs for name in names):
        raise ValueError(f"{where}: weight and bias of final_layer.linear differ in their rows; nothing was imported")
    rows = f"{outputs // 2} of {outputs} rows of final_layer.linear: the learned variance"
    return tensors | {name: mean(tensors[name]) for name in names}, (rows,)
