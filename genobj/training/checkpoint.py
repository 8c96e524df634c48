"""Checkpoints: safetensors and JSON only, written beside the old ones and renamed into place."""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genobj.config.base import Config
from genobj.training.folder import point
from genobj.training.state import State


class Checkpoint(Config):
    """When the state is saved."""

    every: Annotated[int, Field(gt=0)] = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: Annotated[int, Field(gt=0)] = 2
    """Newest checkpoints that are kept."""


def save(folder: Path, state: State, keep: int) -> Path:
    """Write checkpoints/step_00001000 below a run folder; a kill at any moment leaves whole checkpoints only."""
    parent = folder / "checkpoints"
    parent.mkdir(exist_ok=True)
    final = place(folder, state.step)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    for leftover in parent.glob(".step_*"):  # of a run that was killed here
        shutil.rmtree(leftover)
    temporary.mkdir()
    for file, tensors in state.weights().items():
        write(temporary / f"{file}.safetensors", tensors)
    write(temporary / "optimizer.safetensors", _optimizer_tensors(state))
    (temporary / "meta.json").write_text(json.dumps(_meta(state), indent=1))
    for file in [*temporary.iterdir(), temporary]:
        _flush(file)
    if final.exists():  # a run resumed from an older checkpoint passes here again with the same numbers
        _discard(final)
    temporary.rename(final)
    _flush(parent)
    point(parent / "latest", final.name)
    for old in steps(folder)[:-keep]:
        _discard(place(folder, old))
    return final


def load(folder: Path, state: State) -> None:
    """Put the newest checkpoint of a run folder into `state`; ValueError names a file that does not fit."""
    path = newest(folder)
    if path is None:
        raise ValueError(f"{folder} holds no checkpoint to resume from")
    try:
        meta = json.loads((path / "meta.json").read_text())
        if meta.pop("crc32") != _crc(json.dumps(meta)):
            raise ValueError("its checksum is another one")
        state.step, state.seen = int(meta["step"]), int(meta["seen"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / 'meta.json'} is damaged ({error}); {_advice(path)}") from None
    for file, tensors in state.weights().items():
        fill(path / f"{file}.safetensors", tensors)
    _fill_optimizer(path / "optimizer.safetensors", state)


def steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints below a run folder, oldest first."""
    names = [path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*")]
    return sorted(int(name) for name in names if name.isdecimal())


def place(folder: Path, step: int) -> Path:
    """Where a run folder keeps the checkpoint of a step."""
    return folder / "checkpoints" / f"step_{step:08d}"


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint below a run folder."""
    found = steps(folder)
    return place(folder, found[-1]) if found else None


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, from any device, with a checksum. OSError if the disk refuses."""
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(values, path, {"crc32": _checksum(values)})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ValueError names a file that is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {_advice(path.parent)}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_advice(path.parent)}") from None
    if told.get("crc32") not in (None, _checksum(tensors)):
        raise ValueError(f"{path} is damaged (its checksum is another one); {_advice(path.parent)}")
    return tensors


def fill(path: Path, wanted: dict[str, Tensor]) -> None:
    """Copy the tensors of a file into `wanted`, strictly: every name and shape has to fit."""
    stored = read(path)
    if missing := sorted(wanted.keys() ^ stored.keys()):
        raise ValueError(f"{path} does not fit these settings: tensor {missing[0]!r} is in only one of the two")
    for name, value in wanted.items():
        if value.shape != stored[name].shape:
            shapes = f"{tuple(stored[name].shape)}, the settings want {tuple(value.shape)}"
            raise ValueError(f"{path} does not fit these settings: {name!r} has shape {shapes}")
        with torch.no_grad():
            value.copy_(stored[name])


def _optimizer_tensors(state: State) -> dict[str, Tensor]:
    names = {id(p): name for name, p in state.model.named_parameters()}
    return {f"{key}/{names[id(p)]}": value for p, slot in state.optimizer.state.items() for key, value in slot.items()}


def _fill_optimizer(path: Path, state: State) -> None:
    parameters = dict(state.model.named_parameters())
    for key, value in read(path).items():
        slot, _, name = key.partition("/")
        if name not in parameters:
            raise ValueError(f"{path} does not fit these settings: it holds {name!r}, the model does not")
        target = torch.device("cpu") if slot == "step" and not parameters[name].is_cuda else parameters[name].device
        state.optimizer.state[parameters[name]][slot] = value.to(target)


def _meta(state: State) -> dict[str, Any]:
    meta = {"step": state.step, "seen": state.seen, "torch": torch.__version__, "format": 1}
    return meta | {"crc32": _crc(json.dumps(meta))}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and every bit of the values: safetensors itself notices damage of its header only."""
    crc = ""
    for name, value in sorted(tensors.items()):
        crc = _crc(f"{crc} {name} {value.dtype} {tuple(value.shape)}", value.reshape(-1).view(torch.uint8).numpy())
    return crc


def _crc(text: str, values: Any = b"") -> str:
    return f"{zlib.crc32(values, zlib.crc32(text.encode())):08x}"


def _discard(path: Path) -> None:
    """Remove a checkpoint; a kill in between leaves no half of it under its name."""
    hidden = path.with_name(f".{path.name}.old")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _advice(path: Path) -> str:
    return (
        f"remove {path} to go on from the checkpoint before it" if path.name.startswith("step_") else "train it again"
    )
