"""How many latents a second are read: 8 x 32 x 32 float16 moments, drawn from and scaled, in batches of 256.

    python benchmarks/latents_speed.py [--rows 20000] [--seconds 5] [--folder DIR]

Writes shards of random moments (32 kB an image with the mirrored ones), then times how training reads them, in its own
process (train.workers=0) and by 1 and 2 worker processes, each on one thread: latents a second, and microseconds of CPU
time that a latent costs the training process and the workers, which other work on the machine changes less. The files
are in the page cache, and every batch is summed once, which touches its memory like a copy to a device.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch

from genobj.data import shard_writing, shards
from genobj.data.latents import Latents, LatentSource
from genobj.training.feed import Feed

BATCH, SHARD = 256, 5000


def make(folder: Path, rows: int) -> None:
    """Shards of random moments."""
    job = {"sha256": "0" * 64, "scale": "0.18215", "shift": "0.0", "kind": "moments"}
    for number, first in enumerate(range(0, rows, SHARD)):
        n = min(SHARD, rows - first)
        moments = torch.randn(2, n, 8, 32, 32).abs().half()
        tensors = {"latents": moments[0], "latents_flip": moments[1], "labels": torch.arange(n) % 1000}
        shard_writing.write(folder / f"latents_rank00_shard{number:03d}.safetensors", tensors, job)
    made = [shards.header(file) for file in shards.names(folder)]
    shard_writing.write_index(folder, made, {"autoencoder": "random", "shape": [4, 32, 32], "classes": 1000})


def measure(source: LatentSource, workers: int, seconds: float) -> tuple[float, float, float]:
    """Latents a second; microseconds of CPU time a latent in this process, and in the workers."""
    asked = [0]

    def order() -> Iterator[range]:
        for first in count(0, BATCH):
            asked[0] += BATCH
            yield range(first, first + BATCH)

    before = _of_children()
    with Feed(source, order(), 0, torch.device("cpu"), workers=workers) as feed:
        for _ in range(10 * max(workers, 1)):
            next(feed)
        start, used, n = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            x = next(feed).x
            x.sum()
            n += len(x)
        here, rate = (time.process_time() - used) / n, n / (time.perf_counter() - start)
    return rate, 1e6 * here, 1e6 * (_of_children() - before) / asked[0]  # the few that were read in vain cost as much


def _of_children() -> float:
    """Seconds of CPU time of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob("*.safetensors")):
            make(folder, options.rows)
        for sample in (True, False):
            start = time.perf_counter()
            source = Latents(path=str(folder), sample=sample).open()
            opened = time.perf_counter() - start
            for workers in (0, 1, 2):
                rounds = [measure(source, workers, options.seconds) for _ in range(options.rounds)]
                rates, here, there = zip(*rounds, strict=True)
                told = {
                    "sample": sample,
                    "workers": workers,
                    "latents_per_second": round(statistics.median(rates)),
                    "rounds": [round(rate) for rate in rates],
                    "cpu_us": [round(us, 1) for us in here],
                    "cpu_us_of_workers": [round(us, 1) for us in there],
                    "open_s": round(opened, 3),
                }
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
