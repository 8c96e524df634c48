"""The batches of a process, in order, on its device; read ahead of time, by a thread or by processes, where that pays.

Whoever reads, a batch is a function of its rows and the seed: neither readers nor a resume change what is learnt.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from threading import Thread
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genobj.data.base import Batch, Source

EACH = 2
"""Batches that every worker reads ahead unless told otherwise."""
GRACE = 1.0
"""Seconds that a worker may go on with the batch it reads once nobody waits for it."""
DIE_WITH_PARENT = 1  # Linux: prctl's PR_SET_PDEATHSIG


class Read(NamedTuple):
    """What came of reading a batch: errors travel as values, so that they leave a process with their own words."""

    batch: Batch | None
    complaints: list[str]
    """Sentences about files that were skipped."""
    error: Exception | None = None


Reads = Generator[Read, None, None]


def warned(complaint: str) -> None:
    """A complaint as a warning in the log."""
    logging.getLogger("genobj").warning(complaint)


class Feed:
    """Batches for rows that are known from the start; a context that stops reading at its end.

    ahead: batches that are read before they are asked for. workers: processes that read them, each at least one ahead
    (EACH if `ahead` is 0); without any, a thread reads ahead. complain: told about each skipped file once.
    """

    def __init__(
        self,
        source: Source,
        rows: Iterator[range],
        seed: int,
        device: torch.device,
        ahead: int = 0,
        workers: int = 0,
        complain: Callable[[str], object] = warned,
    ):
        self.device, self.complain = device, complain
        self._told: set[str] = set()
        reader = Reader(source, seed)
        if workers:
            self._reads: Reads = by_workers(reader, rows, workers, ahead, pinned=device.type == "cuda")
        elif ahead:
            self._reads = by_thread(reader, rows, ahead, pinned=device.type == "cuda")
        else:
            self._reads = (reader[each] for each in rows)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __next__(self) -> Batch:
        """The next batch, on the device; raises what reading it raised."""
        read = next(self._reads)
        for complaint in read.complaints:
            if complaint not in self._told:  # each worker meets the file by itself
                self._told.add(complaint)
                self.complain(complaint)
        if read.error is not None:
            raise read.error
        assert read.batch is not None
        return self._moved(read.batch)

    def close(self) -> None:
        """Stop reading."""
        self._reads.close()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Stop reading; ValueError in place of torch's words if a worker was killed, which arrive at any time."""
        self.close()
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise ValueError(
                f"a process that reads data was killed ({str(error).splitlines()[0]}), most often for want of memory "
                "or of room in /dev/shm; type train.workers=1, or a smaller train.prefetch"
            ) from None

    def _moved(self, batch: Batch) -> Batch:
        """The batch on the device: copied to a GPU beside its work, which waits for the copy only where it uses it."""
        if self._copies is None:
            return batch.map(lambda value: moved(value, self.device))
        with torch.cuda.stream(self._copies):
            batch = batch.map(lambda value: moved(value, self.device))
        work = torch.cuda.current_stream(self.device)
        work.wait_stream(self._copies)
        for value in batch:
            if value is not None:
                value.record_stream(work)  # its memory is not given away while this stream may read it
        return batch


class Reader(Dataset[Read]):
    """Rows in, batch out."""

    def __init__(self, source: Source, seed: int):
        self.source, self.seed = source, seed

    def __getitem__(self, rows: range) -> Read:
        """The batch of these rows; ValueError and OSError become values."""
        try:
            batch, error = self.source.train(rows, self.seed), None
        except (ValueError, OSError) as caught:
            batch, error = None, caught
        return Read(batch, self.source.complaints(), error)


def by_thread(reader: Reader, rows: Iterator[range], ahead: int, *, pinned: bool) -> Reads:
    """Batches that a thread reads, `ahead` of them before they are asked for."""

    def read(each: range) -> Read:
        done = reader[each]
        return done._replace(batch=done.batch.map(Tensor.pin_memory)) if pinned and done.batch else done

    pool, waiting = ThreadPoolExecutor(1, "genobj-feed"), deque[Future[Read]]()
    try:
        while True:
            while len(waiting) <= ahead and (each := next(rows, None)) is not None:
                waiting.append(pool.submit(read, each))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def by_workers(reader: Reader, rows: Iterator[range], workers: int, ahead: int, *, pinned: bool) -> Reads:
    """Batches that processes read, in order, as far ahead as asked. At the end they stop, in the middle of a batch."""
    # Linux: data in memory is shared, not copied
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    heard, say = context.Pipe(duplex=False)
    loader = DataLoader(
        reader,
        batch_size=None,  # an item is a batch already
        sampler=rows,  # type: ignore[arg-type]  # anything to iterate over will do
        num_workers=workers,
        prefetch_factor=max(1, -(-ahead // workers)) if ahead else EACH,
        pin_memory=pinned,
        worker_init_fn=partial(_alone, heard),
        multiprocessing_context=context,
        generator=torch.Generator(),  # torch would take its seed from the global one, whose state is the run's
    )
    with warnings.catch_warnings():  # Python 3.12 and later: the other threads hold no lock that a worker takes
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        reads = iter(loader)
    try:
        yield from reads
    finally:
        say.send_bytes(b"end")
        del reads  # torch waits here for the workers
        heard.close()
        say.close()


def _alone(heard: Connection, _: int) -> None:
    """In a worker: what asks the run to stop is the run's to hear, and what ends the run ends the worker.

    So SIGTERM, with which torch would end a worker in the middle of a batch, does nothing: a thread does it instead.
    """
    Thread(target=_end, args=(heard,), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # a worker that outlived a killed run would keep its folder locked
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _end(heard: Connection) -> None:
    """Wait for the end of the feed, which all workers see as nobody takes it, and end this one if it does not."""
    heard.poll(None)
    time.sleep(GRACE)  # one that holds torch's locks lets go of them
    os._exit(0)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for a GPU to take it."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
