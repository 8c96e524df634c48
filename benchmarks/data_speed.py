"""How many images a second image data give: decoded or in memory, read by the run or by workers, plain or augmented.

    python benchmarks/data_speed.py [--zip ../shared/data/cifar10-32x32-train.zip] [--seconds 4]

Images a second are by the clock, since workers use more than one core: they mean something only on a machine that does
nothing else. The last column is CPU time of the training process itself, which other processes disturb little: what
reading takes from training. Photographs are random ones of ImageNet's usual size, cropped to 256 x 256.
"""

import argparse
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from genobj.data.archives import Zip
from genobj.data.augment import Augmentation
from genobj.data.base import Source
from genobj.data.folders import FolderImages
from genobj.data.images import Images
from genobj.training.feed import Feed

ZIP = Path(__file__).parents[2] / "shared" / "data" / "cifar10-32x32-train.zip"
MANY = 48
"""Photographs in the folder."""


class Cost(NamedTuple):
    """What reading costs."""

    rate: float
    """Images a second, by the clock."""
    own: float
    """CPU microseconds an image in this process."""


def cost(source: Source, workers: int, batch: int, seconds: float) -> Cost:
    """The cost of a feed, after its first batches."""
    rows = (range(start, start + batch) for start in count(0, batch))
    with Feed(source, rows, 0, torch.device("cpu"), 0, workers) as feed:
        for _ in range(2 * workers + 1):
            next(feed)
        start, used, images = time.perf_counter(), time.process_time(), 0
        while (passed := time.perf_counter() - start) < seconds:
            images += len(next(feed).x)
        return Cost(images / passed, (time.process_time() - used) / images * 1e6)


def photographs(folder: Path) -> FolderImages:
    """JPEGs of 500 x 375 pixels with some detail."""
    rng = np.random.default_rng(0)
    for number in range(MANY):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        coarse.save(folder / f"{number}.jpg", quality=90)
    return FolderImages(path=str(folder), resolution=256, cache="none")


def opened(data: Images) -> tuple[Source, float]:
    """The source, and how many CPU seconds it took to open it."""
    start = time.process_time()
    return data.open(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zip", type=Path, default=ZIP, help="a zip of 32 x 32 images in EDM's layout")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a figure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cifar = Zip(path=str(args.zip), labels=10, flip=True)
    augmented = {"augment": Augmentation(p=0.12)}
    with TemporaryDirectory() as folder:
        cases: list[tuple[str, Images, int, tuple[int, ...]]] = [
            ("CIFAR-10 in memory", cifar, 256, (0, 1, 2)),
            ("CIFAR-10 in memory, augmented", cifar.model_copy(update=augmented), 256, (0, 1, 2)),
            ("CIFAR-10 decoded", cifar.model_copy(update={"cache": "none"}), 256, (0, 1, 2)),
            ("CIFAR-10 decoded, augmented", cifar.model_copy(update={"cache": "none", **augmented}), 256, (0, 1, 2)),
            ("500 x 375 JPEG to 256 x 256", photographs(Path(folder)), 32, (0, 1, 2)),
        ]
        print(f"{'data':32} {'opened in':>12} {'workers':>8} {'images/s':>10} {'own CPU':>12}")
        for name, data, batch, workers in cases:
            source, seconds = opened(data)
            for number in workers:
                read = cost(source, number, batch, args.seconds)
                print(f"{name:32} {seconds:8.1f} CPU s {number:8} {read.rate:10,.0f} {read.own:9.0f} us", flush=True)


if __name__ == "__main__":
    main()
