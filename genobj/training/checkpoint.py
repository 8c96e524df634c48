"""Checkpoints: safetensors and JSON only, written beside the old ones and renamed into place."""

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genobj.config.base import Config
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
    name = f"step_{state.step:08d}"
    temporary, final = parent / f".{name}.{os.getpid()}", parent / name
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for file, tensors in state.weights().items():
        save_file(on_cpu(tensors), temporary / f"{file}.safetensors")
    save_file(on_cpu(_optimizer_tensors(state)), temporary / "optimizer.safetensors")
    (temporary / "meta.json").write_text(json.dumps(_meta(state), indent=1))
    for file in [*temporary.iterdir(), temporary]:
        _flush(file)
    if final.exists():  # a run resumed from an older checkpoint passes here again with the same numbers
        shutil.rmtree(final)
    temporary.rename(final)
    _flush(parent)
    _link(parent / "latest", name)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(parent / f"step_{old:08d}")
    return final


def load(folder: Path, state: State) -> None:
    """Put the newest checkpoint of a run folder into `state`; ValueError names a file that does not fit."""
    found = steps(folder)
    if not found:
        raise ValueError(f"{folder} holds no checkpoint to resume from")
    path = folder / "checkpoints" / f"step_{found[-1]:08d}"
    try:
        meta = json.loads((path / "meta.json").read_text())
        state.step, state.seen = int(meta["step"]), int(meta["seen"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / 'meta.json'} is damaged ({error}); {_advice(path)}") from None
    for file, tensors in state.weights().items():
        fill(path / f"{file}.safetensors", tensors)
    _fill_optimizer(path / "optimizer.safetensors", state)


def steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints below a run folder, oldest first."""
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ValueError names a file that is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {_advice(path.parent)}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_advice(path.parent)}") from None


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
    return {"step": state.step, "seen": state.seen, "torch": torch.__version__, "format": 1}


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors wants them."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".latest.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _advice(path: Path) -> str:
    return f"remove {path} to go on from the checkpoint before it"
