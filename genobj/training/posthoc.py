"""Averages of any width after the run, from snapshots of a few (post-hoc EMA: EDM2, arXiv 2312.02696, Sec. 3.2).

A run with `ema.widths` and `ema.snapshot_every` leaves averages/ema_width_0.05_00001000.safetensors and so on.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genobj.training import weights as files
from genobj.training.folder import newest
from genobj.training.profiles import Profile, combine
from genobj.training.ranks import ALONE, Ranks
from genobj.training.state import State

FOLDER = "averages"
NAME = re.compile(r"ema_width_([\d.e-]+)_(\d+)\.safetensors")
TYPES = {"float32": torch.float32, "float16": torch.float16}


class Reconstruction(NamedTuple):
    """An average that nobody kept."""

    weights: dict[str, Tensor]
    """Every parameter (float32) and buffer of the network."""
    step: int
    """Steps it has seen."""
    widths: tuple[float, ...]
    """Widths of the snapshots."""
    snapshots: int
    """How many of them it is made of."""
    error: float
    """How far the weight of the past in it is from the wanted one, as a share (L2 norm)."""


def save(folder: Path, state: State, kind: Literal["float32", "float16"] = "float32", ranks: Ranks = ALONE) -> None:
    """Write a snapshot of every width below a run folder, each whole or not at all. OSError if the disk refuses.

    Every process calls it: shards are gathered, the first process writes.
    """
    for width, values in state.averages.profiles.items():
        path = folder / FOLDER / f"ema_width_{width:g}_{state.step:08d}.safetensors"
        tensors = files.whole({k: v.to(TYPES[kind]) for k, v in values.items()}, keep=ranks.first)
        ranks.once(partial(_write, path, tensors))


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    files.write(temporary, tensors)
    temporary.replace(path)


def cut(folder: Path, step: int) -> None:
    """Remove snapshots that are later than `step`, which will be taken again, and those that are not whole."""
    later = [path for profile, path in stored(folder).items() if profile.end > step]
    for path in [*later, *(folder / FOLDER).glob(".ema_width_*")]:
        path.unlink()


def stored(folder: Path) -> dict[Profile, Path]:
    """The snapshots below a run folder, by the average they hold, in the order of steps."""
    found = {path: NAME.fullmatch(path.name) for path in (folder / FOLDER).glob("ema_width_*.safetensors")}
    profiles = {Profile(int(match[2]), float(match[1])): path for path, match in found.items() if match}
    return dict(sorted(profiles.items()))


def reconstruct(folder: Path, width: float, step: int | None = None) -> Reconstruction:
    """The average of a width after `step` steps (None: at the last snapshot), from all snapshots that tell of it.

    Snapshots up to the first one at `step` or later are used. ValueError if there are none, or if one is damaged.
    """
    snapshots = stored(folder)
    if not snapshots:
        raise ValueError(
            f"{folder} has no snapshots of averages; train with ema.widths=[0.05,0.1] ema.snapshot_every=N"
        )
    last = max(profile.end for profile in snapshots)
    at = last if step is None else step
    if not 0 < at <= last:
        raise ValueError(f"--at {at}: the snapshots of {folder} reach from step {min(snapshots).end} to {last}")
    reach = min(profile.end for profile in snapshots if profile.end >= at)
    used = {profile: path for profile, path in snapshots.items() if profile.end <= reach}
    found = combine([*used], Profile(at, width))
    weights = _network(folder) | _sum(dict(zip(used.values(), found.coefficients.tolist(), strict=True)))
    widths = tuple(sorted({profile.width for profile in used}))
    return Reconstruction(weights, at, widths, len(used), found.error)


def _sum(coefficients: Mapping[Path, float]) -> dict[str, Tensor]:
    """Sum of the files' tensors times their coefficients, one file in memory at a time, in float64 (they cancel)."""
    total: dict[str, Tensor] = {}
    for path, coefficient in coefficients.items():
        for name, value in files.read(path).items():
            if name in total:
                total[name].add_(value.double(), alpha=coefficient)
            else:
                total[name] = value.double() * coefficient
    return {name: value.float() for name, value in total.items()}


def _network(folder: Path) -> dict[str, Tensor]:
    """The live weights with their buffers: of the finished run, else of its newest checkpoint."""
    where = folder if (folder / "model.safetensors").exists() else newest(folder)
    if where is None:
        raise ValueError(f"{folder} has no weights yet: no checkpoint was written before the run stopped")
    return files.read(where / "model.safetensors")
