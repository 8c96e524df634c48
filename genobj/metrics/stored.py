"""Images in an .npz file, read a few at a time: 50,000 of 256 x 256 pixels are ten gigabytes."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from genobj.data.base import Batch
from genobj.images import Bytes, from_uint8
from genobj.metrics.features import CHUNK

MEMBER = "arr_0.npy"
BROKEN = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, SyntaxError, AttributeError, TypeError),
)
"""What numpy and zipfile raise for damaged files."""


class Stored:
    """The array arr_0 of a file: uint8 (n, height, width, channels), of which the header alone is read at first.

    labels: one for each image, or None. ValueError for an array of another type, shape or order.
    """

    def __init__(self, file: Path, labels: Tensor | None):
        self.file, self.labels = file, labels
        with self._opened() as (_, shape, dtype, by_columns, size):
            self.shape: tuple[int, ...] = shape
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or not size:
            raise ValueError(f"arr_0 has shape {shape} and type {dtype}, not uint8 images (n, height, width, channels)")
        if by_columns:
            raise ValueError("arr_0 is stored column by column; write it anew with numpy.ascontiguousarray")

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Images in [-1, 1] with their labels, CHUNK at a time; of several processes, each takes every world-th chunk.

        ValueError if the file is damaged.
        """
        for number, (first, pixels) in enumerate(self._pieces()):
            if number % world == rank:
                y = None if self.labels is None else self.labels[first : first + len(pixels)]
                yield Batch(from_uint8(pixels.permute(0, 3, 1, 2).contiguous()), y)

    def whole(self) -> Batch:
        """All of them, for metrics that compare images themselves."""
        return Batch(torch.cat([batch.x for batch in self.chunks()]), self.labels)

    def _pieces(self) -> Iterator[tuple[int, Bytes]]:
        """Number of the first image and pixels (n, height, width, channels) of every chunk."""
        count, *shape = self.shape
        row = int(np.prod(shape))
        for first, data in self._read(range(0, count, CHUNK), count, row):
            yield first, torch.frombuffer(data, dtype=torch.uint8).view(-1, *shape)

    def _read(self, starts: range, count: int, row: int) -> Iterator[tuple[int, bytearray]]:
        with self._opened() as (stream, *_):
            for first in starts:
                wanted = min(CHUNK, count - first) * row
                try:
                    data = bytearray(stream.read(wanted))
                except BROKEN as error:
                    raise ValueError(f"{self.file} is damaged: {_first_line(error)}") from None
                if len(data) != wanted:
                    raise ValueError(f"{self.file} is damaged: arr_0 is shorter than it says")
                yield first, data

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], tuple[int, ...], Any, bool, int]]:
        """The array's bytes behind its header, and what the header says: shape, type, order, bytes."""
        with zipfile.ZipFile(self.file) as archive, archive.open(MEMBER) as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("arr_0 has a header that is not numpy's usual one")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
            size = int(np.prod([int(length) for length in shape], dtype=object)) * dtype.itemsize
            if archive.getinfo(MEMBER).file_size != stream.tell() + size and not dtype.hasobject:
                raise ValueError("arr_0 is not as long as it says")
            yield stream, shape, dtype, by_columns, size


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
