"""How many latents a second are read: 8 x 32 x 32 float16 moments, drawn from and scaled, in batches of 256.

    python benchmarks/latents_speed.py [--rows 20000] [--seconds 5] [--folder DIR]

Writes shards of random moments (32 kB an image with the mirrored ones), then times how training reads them, in its own
process (train.workers=0) and by 1 and 2 worker processes, each on one thread. The files are in the page cache.
"""

import argparse
import json
import statistics
import tempfile
import time
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


def rate(source: LatentSource, workers: int, seconds: float) -> float:
    """Latents a second, as training reads them."""
    rows = (range(first, first + BATCH) for first in count(0, BATCH))
    with Feed(source, rows, 0, torch.device("cpu"), workers=workers) as feed:
        for _ in range(10 * max(workers, 1)):
            next(feed)
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            n += len(next(feed).x)
        return n / (time.perf_counter() - start)


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
        if not any(folder.glob("*.safetensors")):
            make(folder, options.rows)
        for sample in (True, False):
            start = time.perf_counter()
            source = Latents(path=str(folder), sample=sample).open()
            opened = time.perf_counter() - start
            for workers in (0, 1, 2):
                rates = [rate(source, workers, options.seconds) for _ in range(options.rounds)]
                told = {"sample": sample, "workers": workers, "latents_per_second": round(statistics.median(rates))}
                print(json.dumps({**told, "rounds": [round(r) for r in rates], "open_s": round(opened, 3)}), flush=True)


if __name__ == "__main__":
    main()
