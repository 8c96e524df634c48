"""U-Nets of EDM's code and its copies (arXiv 2206.00364, 2505.13447): our U-Net has their names."""

import math
import re
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from genobj.backbones.unet import UNet
from genobj.foreign.files import Tensors
from genobj.foreign.network import Foreign, Renamed, one_head, shape_of
from genobj.model import ModelSettings
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear

_FIRST = re.compile(r"enc\.(\d+)x\1_conv\.weight")
_OUTPUT = re.compile(r"dec\.\d+x\d+_(aux_(?:norm|conv)\..*)")


def unet(kind: Literal["edm-unet", "meanflow-torch"], tensors: Tensors, where: str) -> Foreign:
    """The network in a state dict."""
    first = next((found for name in tensors if (found := _FIRST.fullmatch(name))), None)
    if first is None:
        raise ValueError(f"{where} has no first layer enc.NxN_conv, so it is no U-Net of the DDPM++ or NCSN++ family")
    two_times, side = kind == "meanflow-torch", int(first[1])
    settings = _backbone(tensors, side, two_times, where)
    channels = shape_of(tensors, first[0], where, 4)[1]
    classes = shape_of(tensors, "map_label.weight", where, 2)[1] if "map_label.weight" in tensors else 0
    labels = shape_of(tensors, "map_augment.weight", where, 2)[1] if "map_augment.weight" in tensors else 0
    head, projections, horizons = one_head("interval" if two_times else "instant")
    model = ModelSettings(
        backbone=settings,
        heads=dict(projections),
        horizons=horizons,
        shape=(channels, side, side),
        classes=classes,
        augmentation=labels,
        path=Linear() if two_times else EDM(),
        reading=None if two_times else "edm",
    )
    converted = [] if two_times else ["the preconditioned network is read as a velocity (reading 'edm')"]
    if classes:
        tensors = _with_label_table(tensors)
        converted.append("the linear map of one-hot labels is a table with a row per class and one for no label")
    if not two_times:
        tensors = {name: _in_turn(value) if ".qkv." in name else value for name, value in tensors.items()}
        converted.append("queries, keys and values, which alternate by channel, are put one after the other")
    renamed = {name: Renamed(_renamed(name, head), value) for name, value in tensors.items()}
    return Foreign(model, renamed, tuple(converted))


def _backbone(tensors: Tensors, side: int, two_times: bool, where: str) -> UNet:
    """Settings read from the shapes."""
    channels = shape_of(tensors, f"enc.{side}x{side}_conv.weight", where, 4)[0]
    width, waves = shape_of(tensors, "map_layer0.weight", where, 2)
    sides = [side]
    while any(name.startswith(f"enc.{sides[-1] // 2}x{sides[-1] // 2}_") for name in tensors):
        sides.append(sides[-1] // 2)
    blocks, multipliers, attention = list[int](), list[int](), list[int]()
    for s in sides:
        blocks.append(len({name.split(".")[1] for name in tensors if name.startswith(f"enc.{s}x{s}_block")}))
        multipliers.append(shape_of(tensors, f"dec.{s}x{s}_block0.conv1.weight", where, 4)[0] // channels)
        attention.extend([s] if f"dec.{s}x{s}_block{blocks[-1]}.qkv.weight" in tensors else [])
    while len(blocks) > 1 and blocks[-1] == blocks[-2]:
        blocks.pop()  # the last number holds for further levels, and so stands in our presets
    read: dict[str, Any] = {"blocks": blocks, "multipliers": multipliers, "attention": attention}
    if filters := [value for name, value in tensors.items() if name.endswith(".resample_filter")]:
        read["filter"] = _taps(filters[0])
    if any("_aux_residual." in name for name in tensors):
        read["encoder"] = "residual"
    if "map_noise.freqs" in tensors:
        read["waves"] = "fourier"
    read |= {
        "channels": channels,
        "embedding": width // channels,
        "time_features": waves // channels // (1 + two_times),
    }
    return UNet.model_validate(read)


def _taps(kernel: Tensor) -> list[int]:
    """The whole numbers whose outer product, divided by its sum, is this kernel (1, 1, n, n)."""
    row = kernel.double().flatten(0, -2).sum(dim=0)
    return [max(1, round(tap)) for tap in (row / row.min()).nan_to_num(1.0, 1.0, 1.0).tolist()]


def _with_label_table(tensors: Tensors) -> Tensors:
    """EDM maps one-hot labels of length sqrt(classes), and zeros for no label: a table of classes + 1 rows."""
    weight = tensors["map_label.weight"].double()
    rows = torch.cat([math.sqrt(weight.shape[1]) * weight.T, weight.new_zeros(1, len(weight))])
    bias = tensors.get("map_label.bias")
    kept = {name: value for name, value in tensors.items() if name != "map_label.bias"}
    return kept | {"map_label.weight": (rows if bias is None else rows + bias.double()).float()}


def _in_turn(value: Tensor) -> Tensor:
    """EDM's rows of qkv alternate q, k, v from channel to channel."""
    return rearrange(value, "(c three) ... -> (three c) ...", three=3) if len(value) % 3 == 0 else value


def _renamed(name: str, head: str) -> str:
    found = _OUTPUT.fullmatch(name)
    return f"heads.{head}.projection.{found[1]}" if found else f"trunk.{name}"
