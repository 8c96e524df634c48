"""What every kind of foreign network becomes: settings of ours, and its tensors by our names."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from genobj.heads.projection import Projection
from genobj.model import Model, ModelSettings
from genobj.types import Horizon


class Renamed(NamedTuple):
    """A tensor by the name that it has in our model."""

    name: str
    value: Tensor


class Foreign(NamedTuple):
    """A foreign network as one of ours, not yet checked."""

    settings: ModelSettings
    tensors: Mapping[str, Renamed]
    """By their foreign names; two may not have the same name of ours."""
    converted: tuple[str, ...] = ()
    """What is not simply copied, in words."""
    left_out: tuple[str, ...] = ()
    """What of the file is not used, in words."""

    def empty(self) -> Model:
        """Our model without memory."""
        with torch.device("meta"):
            return self.settings.build()


def one_head(horizon: Horizon) -> tuple[str, dict[str, Projection], dict[str, Horizon]]:
    """Name, settings and horizon of the only head: v for a velocity, u for an average one."""
    name = "v" if horizon == "instant" else "u"
    return name, {name: Projection()}, {name: horizon}


def fitted(foreign: Foreign, where: str) -> dict[str, Tensor]:
    """All tensors of our model, in float32. ValueError names one that is missing, left over, misshapen or not finite.

    where: the file, for messages.
    """
    wanted = foreign.empty().state_dict()
    given = {new.name: (old, new.value) for old, new in foreign.tensors.items()}
    if left := sorted(old for old, new in foreign.tensors.items() if new.name not in wanted):
        raise ValueError(f"{where} has tensor {left[0]!r}, which no network of this kind has; nothing was imported")
    if missing := sorted(wanted.keys() - given.keys()):
        raise ValueError(f"{where} lacks a tensor for our {missing[0]!r}, so it is damaged or of another kind")
    for name, (old, value) in given.items():
        if value.shape != wanted[name].shape:
            shapes = f"{tuple(value.shape)} where the others ask for {tuple(wanted[name].shape)}"
            raise ValueError(f"{where}: tensor {old!r} has shape {shapes}; nothing was imported")
        if not value.isfinite().all():
            raise ValueError(f"{where}: tensor {old!r} holds numbers that are not finite; nothing was imported")
    return {name: _own(value.to(torch.float32)) for name, (_, value) in given.items()}


def _own(value: Tensor) -> Tensor:
    """A tensor that shares its memory with no other, as files of tensors want them."""
    return value if value.untyped_storage().nbytes() == value.numel() * value.element_size() else value.clone()


def shape_of(tensors: Mapping[str, Tensor], name: str, where: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor from which sizes are read; ValueError if it is not there or has other dimensions."""
    if name not in tensors:
        raise ValueError(f"{where} has no tensor {name!r}, so it is damaged or of another kind")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{where}: tensor {name!r} has shape {shape} instead of {dimensions} dimensions")
    return shape
