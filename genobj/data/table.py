"""Data that fits into tensors: rows in a new seeded order every epoch."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from genobj import seeds
from genobj.data.base import HELD_OUT, REFERENCE, TRAIN, Batch, Source, Split

Rows = Int[Tensor, " rows"]


class Table(Source):
    """Training and held-out rows, and the rows metrics compare with (the held-out ones unless given).

    Training sample i is row `order[i % size]` of the permutation that (seed, i // size) gives: every row once per
    epoch, whatever the batch size, and a batch may cross the end of an epoch.
    """

    def __init__(self, train: Batch, held_out: Batch, reference: Batch | None = None):
        self.rows, self.rest, self.compared = train, held_out, reference

    def train(self, rows: range, seed: int) -> Batch:
        """These training samples."""
        return take(self.rows, ordered(rows, len(self.rows.x), seed))

    def held_out(self, count: int, seed: int) -> Batch:
        """A seeded choice of `count` held-out rows, all of them if there are no more; no row twice."""
        return choose(self.rest, count, seed, HELD_OUT)

    def reference(self, count: int, seed: int) -> Batch:
        """The reference rows if some were given (always all of them, a fixed protocol), else held-out rows."""
        return choose(self.rest, count, seed, REFERENCE) if self.compared is None else self.compared

    def whole(self, split: Split, chunk: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The rows of a split, chunk by chunk."""
        every = self.rows if split == "train" else self.rest
        for rows in torch.arange(rank, len(every.x), world).split(chunk):
            yield take(every, rows)


def ordered(rows: range, size: int, seed: int) -> Rows:
    """Which of `size` rows these training samples are: every one once per epoch, in an order of its own."""
    first, last = rows[0], rows[-1] + 1
    pieces = []
    for epoch in range(first // size, (last - 1) // size + 1):
        start = epoch * size
        pieces.append(permutation(size, seed, TRAIN, epoch)[max(first - start, 0) : last - start])
    return torch.cat(pieces)[:: rows.step]


def take(batch: Batch, rows: Rows) -> Batch:
    """These rows of a batch."""
    return batch.map(lambda value: value[rows])


def choose(batch: Batch, count: int, seed: int, *stream: int) -> Batch:
    """`count` different rows, chosen by the seed; the whole batch as it is if it has no more."""
    size = len(batch.x)
    return batch if count >= size else take(batch, permutation(size, seed, *stream)[:count])


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, *position: int) -> Rows:
    """The order of `size` rows at this position."""
    return torch.randperm(size, generator=seeds.generator(seed, *position))
