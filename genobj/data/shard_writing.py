"""Writing shards of latents and their index: whole or not at all, and the same bytes for the same latents."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from genobj.data.shards import INDEX, TYPES, Shard, checksum, raw


def write(file: Path, tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """Write a shard with checksums, whole or not at all: it has its name only once it is safe on the disk.

    OSError if the disk refuses; ValueError if another process is writing the same shard.
    """
    temporary = file.with_name(f".{file.name}")
    sums = {f"crc32.{name}": checksum(value) for name, value in tensors.items()}
    with _alone(temporary.with_name(f"{temporary.name}.lock"), file):
        save(temporary, tensors, {**told, **sums})
        safe(temporary)
        temporary.replace(file)
        safe(file.parent)


def save(file: Path, tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """Write a safetensors file, the same bytes for the same tensors and metadata.

    The library's own writer puts metadata in another order each time.
    """
    spelled = {dtype: name for name, dtype in TYPES.items()}
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # wide numbers first: aligned
    entries: dict[str, Any] = {"__metadata__": dict(sorted(told.items()))}
    place = 0
    for name in names:
        value, start = tensors[name], place
        place += value.numel() * value.element_size()
        entries[name] = {"dtype": spelled[value.dtype], "shape": list(value.shape), "data_offsets": [start, place]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            stream.write(raw(tensors[name]))


@contextmanager
def _alone(lock: Path, file: Path) -> Iterator[None]:
    """Keep a shard from other processes; the system lets go when a process ends."""
    with _locked(lock, file):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path, file: Path) -> IO[str]:
    """The open lock. ValueError if another process has it."""
    while True:
        stream = lock.open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise ValueError(f"{file} is being written by another process; wait for it, or stop it") from None
        except OSError:  # a file system without locks
            return stream
        if _is(lock, stream):
            return stream
        stream.close()  # its last owner removed it between the two calls above


def _is(lock: Path, stream: IO[str]) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def safe(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_index(folder: Path, shards: Sequence[Shard], more: Mapping[str, Any]) -> None:
    """Write the list of a set's shards, with what all of them share."""
    listed = [{"file": s.file.name, "rows": s.rows, "bytes": s.size, "header": s.crc} for s in shards]
    tree = {**shards[0].job, **more, "rows": sum(s.rows for s in shards), "files": listed}
    temporary = folder / f".{INDEX}.{os.getpid()}"
    temporary.write_text(json.dumps(tree, indent=1) + "\n")
    safe(temporary)
    temporary.replace(folder / INDEX)
    safe(folder)
