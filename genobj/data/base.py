"""Data sets: settings that open into a source of training batches and held-out samples."""

import abc
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from genobj.config.base import Config
from genobj.types import Augment, Labels, Samples

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


class Source(abc.ABC):
    """Opened data. Every batch is a function of (seed, sample index) alone, so that resume is exact."""

    @abc.abstractmethod
    def train(self, rows: range, seed: int) -> Batch:
        """These training samples of the endless order that `seed` gives.

        rows: at least one number; with a step where several devices or micro-batches share a batch.
        """

    @abc.abstractmethod
    def held_out(self, count: int, seed: int) -> Batch:
        """`count` samples that training never sees (fresh draws where the law of the data is known).

        Finite data gives all it has if `count` is larger, and never a row twice.
        """

    def reference(self, count: int, seed: int) -> Batch:
        """What metrics compare generated samples with: held-out samples, unless a data set has its own protocol.

        Endless data draws these independently of `held_out`, so that held-out against reference is a metric's floor;
        digits gives all its real images, as published figures do for small data.
        """
        return self.held_out(count, seed)


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

    @abc.abstractmethod
    def open(self) -> Source:
        """Read or make the data. Raises ValueError that names the file for unreadable data."""
