"""Images by number: in memory, or decoded from their files whenever they are asked for."""

import abc
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Literal

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

from genobj.data.decode import Fit, Pixels, decode
from genobj.data.files import Files, Unreadable

Pictures = UInt8[Tensor, "batch channels height width"]
Rows = Int[Tensor, " rows"]
OnError = Literal["refuse", "skip"]

THREADED = 64**2
"""Pixels of an image from which on threads decode faster than one: below that they wait for Python's lock."""
CHUNK = 256  # images that are decoded between two looks at the clock
PATIENCE = 5.0
"""Seconds between two lines about the progress of reading everything."""


class Store(abc.ABC):
    """Images of one size with their labels."""

    labels: Int[Tensor, " images"] | None
    """The label of every image, int64; None if there are none."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, rows: Rows) -> tuple[Pictures, Bool[Tensor, " rows"]]:
        """These images, and which of them are sound: others were skipped, and their pixels mean nothing."""

    @abc.abstractmethod
    def signature(self, rows: Rows) -> str:
        """A hash that changes when these images do."""

    def complaints(self) -> list[str]:
        """What was wrong with the files that were skipped since the last call."""
        return []

    def _hash(self, content: bytes, rows: Rows) -> str:
        told = hashlib.sha256(content)
        told.update(b"" if self.labels is None else self.labels[rows].numpy().tobytes())
        return told.hexdigest()


class Decoded(Store):
    """Images in memory; good: which are sound, all if not given."""

    def __init__(self, images: Pictures, labels: Tensor | None, good: Tensor | None = None):
        self.images, self.labels = images, labels
        self.good = torch.ones(len(images), dtype=torch.bool) if good is None else good
        self._told: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Rows) -> tuple[Pictures, Bool[Tensor, " rows"]]:
        """These images."""
        return self.images[rows], self.good[rows]

    def signature(self, rows: Rows) -> str:
        """Of pixels and labels."""
        return self._hash(self.images[rows].numpy().tobytes(), rows)

    def complaints(self) -> list[str]:
        """What was wrong when the files were read."""
        told, self._told = self._told, []
        return told

    @classmethod
    def of(cls, store: "Encoded") -> "Decoded":
        """All images of a store, read now; long reading tells how far it is."""
        images = torch.empty((len(store), *store.shape), dtype=torch.uint8)
        good, start, told = torch.ones(len(store), dtype=torch.bool), monotonic(), monotonic()
        for rows in torch.arange(len(store)).split(CHUNK):
            images[rows], good[rows] = store.read(rows)
            if (now := monotonic()) - told > PATIENCE:
                told, done = now, int(rows[-1]) + 1
                left = (now - start) * (len(store) - done) / done
                log = logging.getLogger("genobj")
                log.warning(f"reading {store.files.where}: {done} of {len(store)} images, {left:.0f} seconds to go")
        memory = cls(images, store.labels, good)
        memory._told = store.complaints()
        return memory


class Encoded(Store):
    """Images in files, decoded anew whenever they are read; on_error says what a file that cannot be read means."""

    def __init__(
        self,
        files: Files,
        names: list[str],
        labels: Tensor | None,
        size: int,
        channels: int,
        fit: Fit,
        on_error: OnError,
    ):
        self.files, self.names, self.labels = files, names, labels
        self.shape, self.on_error = (channels, size, size), on_error
        self.fit: Fit = fit
        self._bad: dict[int, str] = {}
        self._told: set[int] = set()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def signature(self, rows: Rows) -> str:
        """Of names and labels."""
        return self._hash("\0".join(self.names[row] for row in rows.tolist()).encode(), rows)

    def read(self, rows: Rows) -> tuple[Pictures, Bool[Tensor, " rows"]]:
        """These images; ValueError that names the file for one that cannot be read, unless such are skipped."""
        images, good = torch.zeros((len(rows), *self.shape), dtype=torch.uint8), torch.ones(len(rows), dtype=torch.bool)
        pixels = images.numpy()
        for place, decoded in enumerate(self._all(rows.tolist())):
            if decoded is None:
                good[place] = False
            else:
                pixels[place] = decoded
        return images, good

    def complaints(self) -> list[str]:
        """What was wrong with files that were skipped; each is named once."""
        new = sorted(self._bad.keys() - self._told)
        self._told.update(new)
        return [self._bad[row] for row in new]

    def _all(self, rows: Iterable[int]) -> Iterator[Pixels | None]:
        pool = self._threads()
        return pool.map(self._one, rows) if pool else map(self._one, rows)

    def _one(self, row: int) -> Pixels | None:
        if row in self._bad:
            return None
        try:
            channels, size, _ = self.shape
            return decode(self.files.read(self.names[row]), size, channels, self.fit)
        except Unreadable as error:
            what = f"{self.files.where}: {self.names[row]} {error}"
            if self.on_error == "refuse":
                raise ValueError(f"{what}. Or type data.on_error=skip to leave such files out") from None
            self._bad[row] = what
            return None

    def _threads(self) -> ThreadPoolExecutor | None:
        """Threads of this process (a forked one has none of its parent's); none where they do not pay."""
        if self.shape[1] ** 2 < THREADED or get_worker_info() is not None:
            return None
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "genobj-decode")
        return self._pool[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_pool": None}
