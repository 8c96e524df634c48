"""A run folder: config.toml, env.json, metrics.jsonl, samples/, checkpoints/, weights. Runs never overwrite another."""

import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from genobj.config.load import leaves, read_toml, write_toml

SETTINGS = "config.json"
"""File with what rebuilds the network, beside every set of weights."""


class Occupied(ValueError):
    """A folder that already holds something else."""


def create(path: Path, tree: Mapping[str, Any]) -> Path:
    """Make a new run folder with its settings. Occupied if the folder holds anything already."""
    path.mkdir(parents=True, exist_ok=True)
    if (path / "config.toml").exists():
        raise Occupied(f"{path} already holds a run; continue it with --resume auto, or choose another --out")
    ours = {"samples", "env.json", SETTINGS}  # a run that was killed while it made its folder
    if any(not entry.name.startswith(".") and entry.name not in ours for entry in path.iterdir()):
        raise Occupied(f"{path} is not empty and holds no run; choose another --out")
    (path / "samples").mkdir(exist_ok=True)
    write(path / "env.json", json.dumps(environment(), indent=1) + "\n")
    write(path / "config.toml", write_toml(tree))  # last: a folder with settings is a whole run folder
    return path


def keep_plugins(path: Path, files: Sequence[str]) -> None:
    """Copy a run's plugin files into its folder, so that it can be sampled without them."""
    for file in files:
        (path / "plugins").mkdir(exist_ok=True)
        shutil.copy(file, path / "plugins")


def free(parent: Path, name: str) -> Path:
    """A new empty folder: parent/name, or -2, -3, ... if that is taken, be it by another process just now."""
    path, number = parent / name, 1
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = parent / f"{name}-{number}"


def differences(path: Path, tree: Mapping[str, Any], ignored: frozenset[str]) -> list[str]:
    """Lines 'optim.lr: 0.001 -> 0.002' for settings of the run in `path` that are not those of `tree`."""
    old, new = dict(leaves(read_toml(path / "config.toml"))), dict(leaves(tree))
    changed = [key for key in [*old, *new.keys() - old.keys()] if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in changed if not {key, key.partition(".")[0]} & ignored]


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def cut_log(path: Path, step: int) -> None:
    """Drop lines of a JSONL log that are torn or later than `step`: they are about to be written again."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        write(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def environment() -> dict[str, Any]:
    """What the run was made with."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a run folder from other runs; ValueError if one writes there. The system lets go when a process ends."""
    with (path / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being written by another process; stop it first, or wait for it") from None
        except OSError:  # a file system without locks
            pass
        yield


def link_latest(path: Path, runs: Path) -> None:
    """Point runs/latest at a run in `runs`, unless something that is no link has that name."""
    path = path.resolve()  # the run itself, also if it was named by this very link
    link = runs / "latest"
    if path.parent == runs.resolve() and (link.is_symlink() or not link.exists()):
        point(link, path.name)


def point(link: Path, target: str) -> None:
    """Make `link` point at its neighbour `target`, at once; nothing happens where the file system has no links."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)


def steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints below a run folder, oldest first."""
    names = [path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*")]
    return sorted(int(name) for name in names if name.isdecimal())


def place(folder: Path, step: int) -> Path:
    """Where a run folder keeps the checkpoint of a step."""
    return folder / "checkpoints" / f"step_{step:08d}"


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint below a run folder."""
    found = steps(folder)
    return place(folder, found[-1]) if found else None
