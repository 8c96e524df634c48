"""Checkpoints: safetensors and JSON only, written beside the old ones and renamed into place.

The optimiser's state goes through torch.distributed.checkpoint, in its safetensors form: any number of processes reads
what any other number wrote, and no file is ever unpickled.
"""

import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from genobj.config.base import Config
from genobj.training.folder import SETTINGS, newest, place, point, steps
from genobj.training.ranks import ALONE, Ranks, hosts
from genobj.training.state import State
from genobj.training.weights import STATE, Tensors, advice, checksum, file_checksum, fill, opened, whole, write

FORMAT = 2
"""Of checkpoints: 1 had the optimiser in one file."""


class Checkpoint(Config):
    """When the state is saved."""

    every: Annotated[int, Field(gt=0)] = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: Annotated[int, Field(gt=0)] = 2
    """Newest checkpoints that are kept."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Checkpoints of steps that are multiples of this are kept for good; 0: none."""
    background: bool | None = None
    """Write while training goes on, after copying the state; unset: on GPUs, where copying is all it costs."""


class Saver:
    """Writes checkpoints/step_00001000 below a run folder; a kill at any moment leaves whole checkpoints only.

    A checkpoint is made under a hidden name and renamed when everything in it is on the disk: the weights and averages
    whole, by the first process, and what the optimiser remembers in state/, a file per process that owns a part of it.
    network: text of the config.json that goes with the weights.
    """

    def __init__(self, folder: Path, settings: Checkpoint, network: str, ranks: Ranks, device: torch.device):
        self.folder, self.settings, self.network, self.ranks = folder, settings, network, ranks
        background = device.type == "cuda" if settings.background is None else settings.background
        self._pool = ThreadPoolExecutor(1, "genobj-save") if background else None
        if background and ranks.world == 1:  # torch says so in a thread of its own
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
        self._group = hosts(ranks) if background else None
        self._job: Future[None] | None = None

    def __call__(self, state: State) -> None:
        """Save; in the background, this returns as soon as the state has been copied. OSError if the disk refuses."""
        self.finish()
        final = place(self.folder, state.step)
        temporary = Path(self.ranks.once(lambda: self._begin(final)))
        first, copy = self.ranks.first, self._pool is not None
        weights = {file: whole(tensors, keep=first, copy=copy) for file, tensors in state.weights().items()}
        writer = HuggingFaceStorageWriter(str(temporary / STATE), save_distributed=True)
        alone, stored = self.ranks.world == 1, cast("Future[None] | None", None)
        optimizer, meta = _optimizer_tensors(state), _meta(state)
        with _storage(temporary), _quietly(), self._removed(temporary):
            if self._pool is None:
                save_shards(optimizer, storage_writer=writer, no_dist=alone)
            else:
                group = self._group
                stored = cast(
                    "Future[None]", async_save(optimizer, storage_writer=writer, process_group=group, no_dist=alone)
                )

        def complete() -> None:
            with self._removed(temporary):
                if stored is not None:
                    with _storage(temporary):
                        stored.result()
                if self.ranks.first:
                    self._complete(temporary, final, weights, meta)

        if self._pool is None:
            self.ranks.once(complete)
        else:
            self._job = self._pool.submit(complete)

    def finish(self) -> None:
        """Wait for a checkpoint that is still being written; raises what went wrong with it."""
        job, self._job = self._job, None
        if job is not None:
            wait([job])
            self.ranks.once(job.result)

    @contextmanager
    def _removed(self, temporary: Path) -> Iterator[None]:
        """Half a checkpoint is removed where it cannot be finished: it would hold the space that is missing."""
        try:
            yield
        except BaseException:
            if self.ranks.first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _begin(self, final: Path) -> str:
        for leftover in final.parent.glob(".step_*"):  # of a run that was killed here
            shutil.rmtree(leftover)
        temporary = final.with_name(f".{final.name}.{os.getpid()}")
        (temporary / STATE).mkdir(parents=True)
        return str(temporary)

    def _complete(self, temporary: Path, final: Path, weights: Mapping[str, Tensors], meta: dict[str, Any]) -> None:
        for file, tensors in weights.items():
            write(temporary / f"{file}.safetensors", tensors)
        (temporary / SETTINGS).write_text(self.network)
        meta |= {"files": {file.name: file_checksum(file) for file in sorted((temporary / STATE).iterdir())}}
        (temporary / "meta.json").write_text(json.dumps(meta | {"crc32": checksum(json.dumps(meta))}, indent=1))
        for file in [*temporary.rglob("*"), temporary]:
            _flush(file)
        if final.exists():  # a run resumed from an older checkpoint passes here again with the same numbers
            _discard(final)
        temporary.rename(final)
        _flush(final.parent)
        point(final.parent / "latest", final.name)
        for old in steps(self.folder)[: -self.settings.keep]:
            if not self.settings.keep_every or old % self.settings.keep_every:
                _discard(place(self.folder, old))


def load(folder: Path, state: State, network: str, ranks: Ranks = ALONE, step: int | None = None) -> None:
    """Put the newest checkpoint of a run folder, or that of a step, into `state`, however many processes wrote it.

    network: text of the config.json that it must have. ValueError names a file that does not fit, is damaged, or comes
    from another genobj.
    """
    path = newest(folder) if step is None else place(folder, step)
    if path is None:
        raise ValueError(f"{folder} holds no checkpoint to resume from")
    meta = ranks.once(lambda: _checked(path, network))
    for file, tensors in state.weights().items():
        fill(path / f"{file}.safetensors", tensors)
    _fill_optimizer(path / STATE, state, ranks)
    state.step, state.seen = int(meta["step"]), int(meta["seen"])
    state.seconds = float(meta.get("seconds", 0.0))  # older checkpoints do not say


def _checked(path: Path, network: str) -> dict[str, Any]:
    """What meta.json says, after everything has been found to be as it was written."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        if meta.pop("crc32") != checksum(json.dumps(meta)):
            raise ValueError("its checksum is another one")
        written, files = int(meta["format"]), dict(meta["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / 'meta.json'} is damaged ({error}); {advice(path)}") from None
    if written != FORMAT:
        raise ValueError(
            f"{path} was written by another genobj (format {written}, with torch {meta.get('torch')} and Python "
            f"{meta.get('python')}; this one reads format {FORMAT}); go on with that version"
        )
    for name, crc in files.items():
        file = path / STATE / Path(name).name
        with opened(file):
            if file_checksum(file) != crc:
                raise ValueError(f"{file} is damaged (its checksum is another one); {advice(path)}")
    try:
        same = json.loads((path / SETTINGS).read_text()) == json.loads(network)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / SETTINGS} is damaged ({error}); {advice(path)}") from None
    if not same:
        raise ValueError(f"{path} holds another network than this run's; {advice(path)}")
    return meta


def _optimizer_tensors(state: State) -> Tensors:
    names = {id(p): name for name, p in state.model.named_parameters()}
    return {f"{key}/{names[id(p)]}": value for p, slot in state.optimizer.state.items() for key, value in slot.items()}


def _fill_optimizer(path: Path, state: State, ranks: Ranks) -> None:
    """Read into tensors like the parameters, or of the stored shape where it is another one (counters)."""
    parameters, reader = dict(state.model.named_parameters()), HuggingFaceStorageReader(str(path))
    slots: Tensors = {}
    for key, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata), "safetensors hold tensors only"
        name = key.partition("/")[2]
        if name not in parameters:
            raise ValueError(f"{path} does not fit these settings: it holds {name!r}, the model does not")
        p, kind = parameters[name].detach(), stored.properties.dtype
        slots[key] = torch.zeros_like(p, dtype=kind) if stored.size == p.shape else torch.zeros(stored.size, dtype=kind)
    with _storage(path), _quietly():
        load_shards(slots, storage_reader=reader, no_dist=ranks.world == 1)
    for key, value in slots.items():
        slot, _, name = key.partition("/")
        p = parameters[name]
        state.optimizer.state[p][slot] = value if value.shape == p.shape or not p.is_cuda else value.to(p.device)


def _meta(state: State) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"step": state.step, "seen": state.seen, "seconds": state.seconds, "format": FORMAT} | versions


@contextmanager
def _quietly() -> Iterator[None]:
    """One process alone is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """What storage raises on any process, as an OSError."""
    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise first if isinstance(first, OSError) else OSError(f"{path}: {first}") from None
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None


def _discard(path: Path) -> None:
    """Remove a checkpoint; a kill in between leaves no half of it under its name."""
    hidden = path.with_name(f".{path.name}.old")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
