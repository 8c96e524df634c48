"""Data sets: settings that open into a source of training batches and held-out samples."""

import abc
import hashlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from torch import Tensor

from genobj.autoencoders import Autoencoder
from genobj.config.base import Config
from genobj.types import Augment, Labels, Samples

Split = Literal["train", "held_out"]
"""Which rows of finite data."""

TRAIN, HELD_OUT, REFERENCE = 0xDA7A0, 0xDA7A1, 0xDA7A2
"""Streams of `seeds` that data draws from: far from the small numbers of other rooms, so that data and noise of the
same seed never share a generator."""


class Batch(NamedTuple):
    """Samples and, for labelled data, their labels; for augmented data what was done to each sample."""

    x: Samples
    y: Labels | None
    a: Augment | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed."""
        return Batch(*(None if value is None else change(value) for value in self))  # type: ignore[arg-type]


class Inventory(NamedTuple):
    """What a split of finite data is made of."""

    rows: int
    sha256: str


class Source(abc.ABC):
    """Opened data. Every batch is a function of (seed, sample index) alone, so that resume is exact."""

    @property
    def unseen(self) -> bool:
        """Whether training never sees the held-out samples.

        False for data without a test set of which nothing is held out: `held_out` gives training samples there.
        """
        return True

    @abc.abstractmethod
    def train(self, rows: range, seed: int) -> Batch:
        """These training samples of the endless order that `seed` gives.

        rows: at least one number; with a step where several devices or micro-batches share a batch.
        """

    @abc.abstractmethod
    def held_out(self, count: int, seed: int) -> Batch:
        """`count` samples that training never sees, if `unseen` (fresh draws where the law of the data is known).

        Finite data gives all it has if `count` is larger, and never a row twice.
        """

    def reference(self, count: int, seed: int) -> Batch:
        """What metrics compare generated samples with: held-out samples, unless a data set has its own protocol.

        Endless data draws these independently of `held_out`, so that held-out against reference is a metric's floor;
        digits gives all its real images, as published figures do for small data.
        """
        return self.held_out(count, seed)

    def whole(self, split: Split, chunk: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Every row of finite data once, `chunk` at a time, in the order of the file, as the file has it.

        No flips, no augmentation, whatever training does. rank, world: rows rank, rank + world, ... for this process of
        several. Raises ValueError for data that have no end.
        """
        raise ValueError(f"{type(self).__name__} draws fresh samples without end; use data that are read from files")

    def inventory(self, split: Split) -> "Inventory":
        """How many rows a split has and a hash that changes when they do, for `genobj encode`.

        Here: of every number that `whole` gives. Data in files hash names and sizes instead, which takes no decoding.
        """
        rows, told = 0, hashlib.sha256()
        for batch in self.whole(split, 1024):
            rows += len(batch.x)
            for value in (batch.x, batch.y):
                told.update(b"" if value is None else value.contiguous().numpy().tobytes())
        return Inventory(rows, told.hexdigest())

    def complaints(self) -> list[str]:
        """What was wrong with files that were skipped since the last call: a sentence for each, told once."""
        return []


class Data(Config, abc.ABC):
    """Settings of a data set."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, (2,) or (channels, height, width)."""

    @property
    def classes(self) -> int:
        """Number of labels; 0 if there are none."""
        return 0

    @property
    def augmentation(self) -> int:
        """Numbers in the augmentation label of a training sample (Batch.a); 0 if there are none."""
        return 0

    @property
    def level(self) -> float | None:
        """Distance between neighbouring values, where samples have whole numbers of levels; None: any value occurs."""
        return None

    @property
    def autoencoder(self) -> Autoencoder | None:
        """What made the samples, where they are latents: models remember it to decode theirs."""
        return None

    @property
    def missing(self) -> str | None:
        """What has to be put where before the data can be opened, in a sentence; None if everything seems there."""
        return None

    @abc.abstractmethod
    def open(self) -> Source:
        """Read or make the data. Raises ValueError that names the file for unreadable data."""
