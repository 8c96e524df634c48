"""Files of tensors: safetensors with a checksum, whole even where the tensors are in shards; never a pickle."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genobj.training.shards import gathered, local, share

Tensors = dict[str, Tensor]
STATE = "state"
"""Folder of the optimiser's state in a checkpoint."""


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, from any device, with a checksum. OSError if the disk refuses."""
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(values, path, {"crc32": _told(values)})
        path.chmod(0o644)  # safetensors lets nobody else read it
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ValueError names a file that is missing or damaged."""
    with opened(path) as file:
        tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    if told.get("crc32") not in (None, _told(tensors)):
        raise ValueError(f"{path} is damaged (its checksum is another one); {advice(path.parent)}")
    return tensors


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file; ValueError names one that is missing or damaged."""
    folder = path.parent.parent if path.parent.name == STATE else path.parent
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {advice(folder)}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); {advice(folder)}") from None


def fill(path: Path, wanted: Tensors) -> None:
    """Copy the tensors of a file into `wanted` (their own parts, where they are shards), strictly.

    ValueError unless every name and shape fits.
    """
    stored = read(path)
    if missing := sorted(wanted.keys() ^ stored.keys()):
        raise ValueError(f"{path} does not fit these settings: tensor {missing[0]!r} is in only one of the two")
    for name, value in wanted.items():
        if value.shape != stored[name].shape:
            shapes = f"{tuple(stored[name].shape)}, the settings want {tuple(value.shape)}"
            raise ValueError(f"{path} does not fit these settings: {name!r} has shape {shapes}")
        with torch.no_grad():
            local(value).copy_(share(stored[name].to(value.device), value))


def whole(tensors: Mapping[str, Tensor], *, keep: bool = True, copy: bool = False) -> Tensors:
    """The tensors on the CPU, gathered one by one where they are shards, which every process has to do.

    keep: whether this process wants them; copy: for when training goes on meanwhile.
    """
    kept: Tensors = {}
    for name, shard in tensors.items():
        value = gathered(shard.detach())
        if keep:
            kept[name] = value.cpu().clone() if copy and not value.is_cuda else value.cpu()
    return kept


def _told(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and every bit of the values: safetensors itself notices damage of its header only."""
    told = ""
    for name, value in sorted(tensors.items()):
        told = checksum(
            f"{told} {name} {value.dtype} {tuple(value.shape)}", value.reshape(-1).view(torch.uint8).numpy()
        )
    return told


def file_checksum(file: Path) -> str:
    """Checksum of a file's bytes."""
    told = 0
    with file.open("rb") as stream:
        while piece := stream.read(1 << 24):
            told = zlib.crc32(piece, told)
    return f"{told:08x}"


def checksum(text: str, values: Any = b"") -> str:
    """Checksum of a text and some bytes after it."""
    return f"{zlib.crc32(values, zlib.crc32(text.encode())):08x}"


def advice(path: Path) -> str:
    """What to do about a damaged folder of weights."""
    if path.name.startswith("step_"):
        return f"remove {path} to go on from the checkpoint before it"
    return "train it again" if (path / "config.toml").is_file() else "get it again from where it came"
