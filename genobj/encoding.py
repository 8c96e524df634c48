"""Images to latents on disk, shard by shard: by several processes, and on after any kill.

Shard s of n holds rows s, s + n, s + 2 n, ... of the data's files, whoever makes it, so that the result does not depend
on the number of processes; process r of w makes shards r, r + w, ... and none needs another. A shard gets its name when
it is whole and on the disk; a run that was killed does the unfinished ones anew.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from genobj.autoencoders import Autoencoder, Codec, PrecisionName
from genobj.config.base import Config
from genobj.data import shard_writing
from genobj.data import shards as files
from genobj.data.base import Batch, Data, Inventory, Source
from genobj.parts import DATA
from genobj.training.ranks import ALONE, Ranks

READ = 64
"""Images read at once, a batch ahead of the autoencoder."""
Told = Callable[[int, int], None]
"""Called with the rows that are done and those there are, of this process."""


class Encoding(Config):
    """How images become latents on disk."""

    autoencoder: Autoencoder
    """The autoencoder."""
    dtype: PrecisionName = "float16"
    """Numbers on disk."""
    precision: PrecisionName = "float32"
    """Numbers in which the autoencoder works."""
    shard: Annotated[int, Field(gt=0)] = 5000
    """Images per file: what a kill can cost."""
    batch: Annotated[int, Field(gt=0)] | None = None
    """Images that the autoencoder takes at once; unset: 1 on a CPU, on a GPU as many as make 8 of 256 x 256."""
    split: Literal["train", "held_out"] = "train"
    """Which of the data set's images."""
    mirrored: bool = True
    """Encode the mirrored images, too: mirrored latents are not the latents of mirrored images."""


@dataclass(frozen=True)
class Outcome:
    """What a process has done."""

    shards: int
    """Files of the whole set."""
    made: int
    """Files that this process made now; the others were there, or are another's."""
    missing: int
    """Files that are still missing: other processes make them, or failed to."""
    rows: int
    """Rows of all files, if none is missing; else 0."""
    complaints: tuple[str, ...]
    """Images that were left out."""


class Encoder:
    """One process's part in encoding a data set into a folder. ValueError for what cannot be read or does not fit."""

    def __init__(
        self, data: Data, settings: Encoding, folder: Path, ranks: Ranks = ALONE, device: torch.device | str = "cpu"
    ):
        self.data, self.settings, self.folder, self.ranks = data, settings, folder, ranks
        self.source: Source = data.open()
        self.inventory: Inventory = self.source.inventory(settings.split)
        if not self.inventory.rows:
            raise ValueError(f"these data have no {settings.split} images")
        self.count = -(-self.inventory.rows // settings.shard)
        self.codec: Codec = settings.autoencoder.open(device, settings.precision)

    @cached_property
    def job(self) -> dict[str, str]:
        """What all shards say of themselves."""
        made, data = self.codec.settings, self.data.model_dump(mode="json", exclude_none=True)
        return {
            "format": "genobj latents 1",
            "autoencoder": made.source,
            "sha256": str(made.sha256),
            "scale": json.dumps(made.scale),
            "shift": json.dumps(made.shift),
            "factor": json.dumps(made.factor),
            "kind": self.codec.gives,
            "dtype": self.settings.dtype,
            "mirrored": json.dumps(self.settings.mirrored),
            "data": json.dumps({"kind": DATA.name_of(type(self.data)), **data}, sort_keys=True),
            "split": self.settings.split,
            "count": str(self.inventory.rows),
            "images": self.inventory.sha256,
            "shards": str(self.count),
        }

    def file(self, number: int) -> Path:
        """Of a shard: named as by LightningDiT's first process, however many there are."""
        return self.folder / f"latents_rank00_shard{number:03d}.safetensors"

    def __call__(self, told: Told | None = None) -> Outcome:
        """Make this process's shards that are not there, and the index once all are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = range(self.ranks.rank, self.count, self.ranks.world)
        total, done, made = sum(map(self._rows, mine)), 0, 0
        for number in mine:
            if self.file(number).exists():
                self._same(self.file(number))
            else:
                self._make(number, (lambda rows, before=done: told(before + rows, total)) if told else None)
                made += 1
            done += self._rows(number)
            if told:
                told(done, total)
        return self._finish(made)

    def _rows(self, number: int) -> int:
        return len(range(number, self.inventory.rows, self.count))

    def _same(self, file: Path) -> files.Shard:
        """A shard that was there. ValueError if it is damaged or of another set."""
        try:
            shard = files.header(file)
        except files.Damaged as error:
            raise ValueError(f"{error}; remove it, and it is made anew") from None
        for key in files.JOB:
            if shard.told.get(key) != self.job[key]:
                was, now = shard.told.get(key), self.job[key]
                what = "the images have changed since" if key in ("count", "images") else f"{key} was {was}, now {now}"
                raise ValueError(f"{file} is of another set: {what}; choose another --to, or remove {self.folder}")
        return shard

    def _make(self, number: int, told: Callable[[int], None] | None) -> None:
        """Encode the images of a shard and write it."""
        parts: dict[str, list[Tensor]] = {files.LATENTS: [], files.FLIPPED: [], files.LABELS: []}
        rows = 0
        for batch in _ahead(self.source.whole(self.settings.split, READ, number, self.count)):
            parts[files.LATENTS].append(self._encoded(batch.x, number))
            if self.settings.mirrored:
                parts[files.FLIPPED].append(self._encoded(batch.x.flip(-1), number))
            parts[files.LABELS].append(_labels(batch))
            rows += len(batch.x)
            if told:
                told(rows)
        if not rows:
            raise ValueError(f"no image of shard {number} could be read, so nothing was encoded")
        tensors = {name: torch.cat(pieces) for name, pieces in parts.items() if pieces}
        here = {
            "shard": str(number),
            "rows": f"{number}, {number + self.count}, ...: every {self.count}th image, in order",
        }
        shard_writing.write(self.file(number), tensors, self.job | here)

    def _encoded(self, images: Tensor, number: int) -> Tensor:
        stored = self.codec.encode(images, self.settings.batch).to(getattr(torch, self.settings.dtype))
        if not stored.isfinite().all():
            raise ValueError(
                f"shard {number}: latents are not finite numbers in {self.settings.dtype}; type --dtype bfloat16, or "
                "--precision float32"
            )
        return stored

    def _finish(self, made: int) -> Outcome:
        """Write the index if every shard is there, and tidy up after processes that were killed."""
        every = [self.file(number) for number in range(self.count)]
        missing, rows = sum(not file.exists() for file in every), 0
        if not missing:
            shards = [self._same(file) for file in every]
            channels, *sides = shards[0].shape
            shape = [channels // 2 if self.codec.gives == "moments" else channels, *sides]
            more = {"autoencoder": self.codec.settings.source, "shape": shape, "classes": self.data.classes}
            shard_writing.write_index(self.folder, shards, more)
            rows = sum(shard.rows for shard in shards)
            for leftover in self.folder.glob(".latents_rank*"):
                leftover.unlink(missing_ok=True)
        return Outcome(self.count, made, missing, rows, tuple(self.source.complaints()))


def _labels(batch: Batch) -> Tensor:
    return torch.zeros(len(batch.x), dtype=torch.int64) if batch.y is None else batch.y.long()


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, the next one read while this one is worked on."""
    with ThreadPoolExecutor(1, "genobj-read") as pool:
        waiting = pool.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, batches, None)
            yield batch


def verify(folder: Path, told: Told | None = None) -> list[str]:
    """Read every byte of a set and compare all checksums: a sentence for each file that is not as it was encoded.

    told: called with the files that are done and those there are. ValueError if there is no set to verify.
    """
    index = files.read_index(folder)
    if index is None:
        raise ValueError(f"{folder} has no {files.INDEX}: run its `genobj encode` to the end first")
    wrong, listed = [], index["files"]
    for number, entry in enumerate(listed):
        file = folder / str(entry["file"])
        try:
            shard = files.header(file)
            if (shard.size, shard.crc) != (entry["bytes"], entry["header"]):
                raise files.Damaged(f"{file} is damaged: its size or header is another one")
            shard.check()
        except files.Damaged as error:
            wrong.append(str(error))
        if told:
            told(number + 1, len(listed))
    more = {file.name for file in files.names(folder)} - {str(entry["file"]) for entry in listed}
    return [*wrong, *(f"{folder / name} is not in the index" for name in sorted(more))]
