"""Shards of latents on disk: safetensors files in the layout of LightningDiT and UCGM, read row by row.

A file has `latents` (n, channels, h, w), `latents_flip`, the latents of the mirrored images, and `labels` (n,). Ours
tell in their metadata which autoencoder and which images made them, with a checksum per tensor, and stand beside an
index of the whole set; files of others have neither. Files are read at offsets from their header: nothing is loaded
whole, and a file that shrank is an error, not a crash.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INDEX, STATISTICS = "index.json", "latents_stats"
LATENTS, FLIPPED, LABELS = "latents", "latents_flip", "labels"
TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
JOB = ("format", "sha256", "scale", "shift", "kind", "dtype", "mirrored", "data", "split", "count", "images", "shards")
"""Metadata that all shards of a set share: other values belong to another set. (The autoencoder's hash is among them; a
folder that was moved has another name and the same hash.)"""
LONGEST = 100_000_000
"""Bytes of a header, at most; safetensors has the same limit."""


class Damaged(ValueError):
    """A shard that cannot be read, named with what is wrong."""


@dataclass(frozen=True)
class Span:
    """Where a tensor stands in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    first: int
    """Byte of the file at which it starts."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Shard:
    """The header of a file of latents."""

    file: Path
    tensors: Mapping[str, Span]
    told: Mapping[str, str]
    """Metadata; empty in files of others."""
    crc: str
    """Checksum of the header."""
    size: int
    """Bytes of the file."""

    @property
    def rows(self) -> int:
        """Latents in it."""
        return self.tensors[LATENTS].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one stored row: (channels, h, w), with twice the channels for moments."""
        return self.tensors[LATENTS].shape[1:]

    @property
    def job(self) -> dict[str, str]:
        """What made it."""
        return {key: self.told[key] for key in JOB if key in self.told}

    def read(self, name: str, rows: int | None = None) -> Tensor:
        """A whole tensor, or its first rows. Damaged if the file became shorter."""
        span = self.tensors[name]
        shape = span.shape if rows is None else (min(rows, span.shape[0]), *span.shape[1:])
        data = bytearray(math.prod(shape) * span.dtype.itemsize)
        with self.file.open("rb") as stream:
            stream.seek(span.first)
            if stream.readinto(data) != len(data):
                raise Damaged(f"{self.file} became shorter while it was read")
        return torch.frombuffer(data, dtype=span.dtype).view(shape) if data else torch.empty(shape)

    def check(self, *names: str) -> None:
        """Compare tensors, or all, with their checksums, where there are any. Damaged if one is another."""
        for name in names or self.tensors:
            recorded = self.told.get(f"crc32.{name}")
            if recorded is not None and recorded != checksum(self.read(name)):
                raise Damaged(f"{self.file} is damaged: the checksum of {name!r} is another one")


def checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's bytes."""
    return f"{zlib.crc32(raw(tensor)):08x}"


def raw(tensor: Tensor) -> Any:
    """A tensor's bytes."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy()


def header(file: Path) -> Shard:
    """The header of a file of latents, with everything checked that can be without reading its data. Damaged if not."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST):
                raise Damaged(f"{file} is truncated or no safetensors file: its header does not fit into {size} bytes")
            text = stream.read(length)
        tree = json.loads(text)
        told = {str(key): str(value) for key, value in tree.pop("__metadata__", {}).items()}
        tensors = {str(name): _span(entry, 8 + length) for name, entry in tree.items()}
    except Damaged:
        raise
    except OSError as error:
        raise Damaged(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"{file} is damaged: its header is not that of safetensors ({error or type(error).__name__})"
        ) from None
    _tiles(file, tensors, 8 + length, size)
    _is_of_latents(file, tensors)
    return Shard(file, tensors, told, f"{zlib.crc32(text):08x}", size)


def _span(entry: Mapping[str, Any], start: int) -> Span:
    dtype, shape, (first, last) = TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    numbers = (*shape, first, last)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"sizes {numbers}")
    if last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{last - first} bytes for shape {shape}")
    return Span(dtype, shape, start + first, last - first)


def _tiles(file: Path, tensors: Mapping[str, Span], start: int, size: int) -> None:
    """Damaged unless the tensors fill the file from `start` to its end, each byte once."""
    for span in sorted(tensors.values(), key=lambda span: (span.first, span.size)):
        if span.first != start:
            raise Damaged(f"{file} is damaged: its tensors overlap or leave gaps")
        start += span.size
    if start != size:
        what = "truncated" if size < start else "too long"
        raise Damaged(f"{file} is {what}: it has {size:,} bytes, its header tells of {start:,}")


def _is_of_latents(file: Path, tensors: Mapping[str, Span]) -> None:
    """Damaged unless there are latents and labels that fit together."""
    for name in (LATENTS, LABELS):
        if name not in tensors:
            known = ", ".join(tensors) or "nothing"
            raise Damaged(f"{file} has no tensor {name!r}, only {known}: it is no file of latents")
    latents, labels, flipped = tensors[LATENTS], tensors[LABELS], tensors.get(FLIPPED)
    if len(latents.shape) != 4 or not latents.dtype.is_floating_point or not latents.size:
        raise Damaged(f"{file}: 'latents' is {latents.dtype} {latents.shape}, not (n, channels, height, width) numbers")
    if labels.shape != latents.shape[:1] or labels.dtype.is_floating_point:
        raise Damaged(f"{file}: 'labels' is {labels.dtype} {labels.shape} for {latents.shape[0]} latents")
    if flipped is not None and (flipped.shape, flipped.dtype) != (latents.shape, latents.dtype):
        raise Damaged(f"{file}: 'latents_flip' is {flipped.dtype} {flipped.shape}, 'latents' is {latents.shape}")


def told_by(shards: Sequence[Shard]) -> str:
    """Hash of the headers of shards, which change with every number in ours."""
    return hashlib.sha256(" ".join(f"{s.rows} {s.size} {s.crc}" for s in shards).encode()).hexdigest()


def read_index(folder: Path) -> dict[str, Any] | None:
    """What `write_index` wrote; None where there is no index. ValueError if it is damaged."""
    try:
        tree = json.loads((folder / INDEX).read_text())
        if not tree["files"] or not {"kind", "autoencoder", "shape", "classes"} <= tree.keys():
            raise ValueError("it does not list a set of latents")
        if any({"file", "rows", "bytes", "header"} - entry.keys() for entry in tree["files"]):
            raise ValueError("it does not tell enough of its files")
        return tree
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        advice = "remove it and run the same `genobj encode` again, which writes it anew"
        raise ValueError(f"{folder / INDEX} is damaged ({error or type(error).__name__}); {advice}") from None


def refuse_unfinished(folder: Path) -> None:
    """ValueError if the files of a folder without an index are our own: it is written last."""
    every = names(folder)
    for file in every:
        try:
            told = header(file).told
        except Damaged:
            continue
        if "format" in told:
            there = f"{len(every)} of {told.get('shards')} shards and no {INDEX}"
            raise ValueError(f"{folder} has {there}; run the same `genobj encode` again, to the end")
        return


def names(folder: Path) -> list[Path]:
    """The files of latents in a folder, in order. ValueError if there is no such folder or none in it."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; `genobj encode --to {folder}` makes latents")
    found = sorted(
        path for path in folder.glob("*.safetensors") if not path.name.startswith(".") and path.stem != STATISTICS
    )
    if not found:
        raise ValueError(f"{folder} holds no *.safetensors file of latents; `genobj encode --to {folder}` makes them")
    return found
