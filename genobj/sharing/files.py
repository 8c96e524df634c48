"""Samples on disk: a folder of PNG files as EDM writes it, or one npz file as ADM writes it."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobj.images import to_uint8
from genobj.metrics.export import SampleFile
from genobj.sharing.pretrained import Drawn

FOLDER = 1000
"""Images in a sub-folder."""


def images(x: Tensor) -> NDArray[np.uint8]:
    """(n, C, H, W) in [-1, 1] -> (n, H, W, C), truncated; ValueError unless C is 1 or 3."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"samples of shape {tuple(x.shape[1:])} are no grey or RGB images; type --out FILE.npz --raw")
    return to_uint8(x).permute(0, 2, 3, 1).contiguous().numpy()


def name(row: int, flat: bool) -> str:
    """'003000/003141.png', EDM's name of sample 3141; without its folder where there are few."""
    return f"{row:06d}.png" if flat else f"{row - row % FOLDER:06d}/{row:06d}.png"


def write_folder(folder: Path, rows: range, batches: Iterable[Drawn], *, flat: bool) -> int:
    """Write row r of the samples as a PNG of its number; gives the evaluations per sample. ValueError for no images."""
    from PIL import Image

    done = nfe = 0
    for batch in batches:
        for row, image in zip(rows[done : done + len(batch.x)], images(batch.x), strict=True):
            file = folder / name(row, flat)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)
        done, nfe = done + len(batch.x), batch.nfe
    return nfe


def write_labels(folder: Path, rows: range, labels: Tensor, *, flat: bool) -> None:
    """dataset.json beside the PNG files, as EDM's data sets have it: [[name, label], ...]."""
    pairs = [[name(row, flat), label] for row, label in zip(rows, labels.tolist(), strict=True)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}), encoding="utf-8")


def write_npz(file: Path, count: int, batches: Iterable[Drawn]) -> int:
    """Write `arr_0` (count, H, W, C) uint8 and, of labelled samples, `arr_1` (count,), batch by batch.

    The file appears when it is whole. Gives the evaluations per sample; ValueError for samples that are no images.
    """
    nfe = 0
    with SampleFile(file, count) as whole:
        for batch in batches:
            whole.add(torch.from_numpy(images(batch.x)).permute(0, 3, 1, 2), batch.y)
            nfe = batch.nfe
    return nfe


def write_raw(file: Path, batches: Iterable[Drawn]) -> int:
    """Write `arr_0` float32, shaped as the samples are, and `arr_1`, their labels. Gives the evaluations per sample."""
    every = list(batches)
    arrays = {"arr_0": torch.cat([batch.x for batch in every]).float().numpy()}
    if labels := [batch.y for batch in every if batch.y is not None]:
        arrays["arr_1"] = torch.cat(labels).numpy()
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return every[0].nfe
