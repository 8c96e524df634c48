"""Rows of several shards of latents, read from where they stand in their files."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genobj.data.shards import FLIPPED, LATENTS, Shard

OPEN = 256
"""Files that stay open at once."""


class Rows:
    """Rows of several shards, by their number over all of them.

    Reads go straight to the file, row by row in the order of the disk: as fast as a memory map, and a file that shrank
    is an error. Every process opens the files itself; what is open is not pickled.
    """

    def __init__(self, shards: Sequence[Shard]):
        self._open: dict[int, int] = {}
        self.shards = tuple(shards)
        self._starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        span = self.shards[0].tensors[LATENTS]
        self._bytes = span.size // span.shape[0]
        plain = [shard.tensors[LATENTS].first for shard in self.shards]
        other = [shard.tensors.get(FLIPPED, shard.tensors[LATENTS]).first for shard in self.shards]
        self._offsets = np.array([plain, other])  # of either kind's first row in every file

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def gather(self, rows: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Stored rows (n, *shape) of these numbers (n,); of the mirrored images where `mirrored` (n,) says so.

        ValueError names a file that became shorter or cannot be read.
        """
        first = self.shards[0]
        out = np.empty((len(rows), self._bytes), np.uint8)
        wanted = rows.numpy()
        order = np.argsort(wanted, kind="stable")
        shards = np.searchsorted(self._starts, wanted, "right") - 1
        kinds = 0 if mirrored is None else mirrored.numpy().astype(np.int64)
        places = self._offsets[kinds, shards] + (wanted - self._starts[shards]) * self._bytes
        for to, shard, place in zip(order.tolist(), shards[order].tolist(), places[order].tolist(), strict=True):
            self._read(shard, out[to], place)
        return torch.from_numpy(out).view(-1).view(first.tensors[LATENTS].dtype).view(len(rows), *first.shape)

    def _read(self, number: int, row: Any, first: int) -> None:
        """Fill a row from a shard's file. The first files stay open: there may be more than a process may open."""
        file = self.shards[number].file
        try:
            if number < OPEN:
                read = os.preadv(self._handle(number), [row], first)
            else:
                with file.open("rb", buffering=0) as stream:
                    read = os.preadv(stream.fileno(), [row], first)
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror or error}") from None
        if read != row.size:
            raise ValueError(f"{file} became shorter while it was read; encode it again")

    def _handle(self, number: int) -> int:
        """The open file of a shard; two threads may ask at once."""
        if number not in self._open:
            opened = os.open(self.shards[number].file, os.O_RDONLY)
            if self._open.setdefault(number, opened) != opened:
                os.close(opened)
        return self._open[number]
