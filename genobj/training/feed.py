"""The batches of a process, in order, on its device; read ahead of time where that pays."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from genobj.data.base import Batch, Source


class Feed:
    """Batches for rows that are known from the start.

    ahead: batches that a thread of its own reads before they are asked for; 0 reads them when they are.
    """

    def __init__(self, source: Source, rows: Iterator[range], seed: int, device: torch.device, ahead: int = 0):
        self.source, self.rows, self.seed, self.device, self.ahead = source, rows, seed, device, ahead
        self._pool = ThreadPoolExecutor(1, "genobj-feed") if ahead else None
        self._waiting: deque[Future[Batch]] = deque()

    def __next__(self) -> Batch:
        """The next batch, on the device; raises what reading it raised."""
        if self._pool is None:
            return self._moved(self._read(next(self.rows)))
        while len(self._waiting) <= self.ahead and (rows := next(self.rows, None)) is not None:
            self._waiting.append(self._pool.submit(self._read, rows))
        return self._moved(self._waiting.popleft().result())

    def close(self) -> None:
        """Stop reading."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, rows: range) -> Batch:
        batch = self.source.train(rows, self.seed)
        return batch.map(Tensor.pin_memory) if self.device.type == "cuda" else batch

    def _moved(self, batch: Batch) -> Batch:
        return batch.map(lambda value: moved(value, self.device))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for a GPU to take it."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
