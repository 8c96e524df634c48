"""SIGKILL at random moments, of one process and of two: no run is lost, and resume is exact.

A hundred of them with GENOBJ_ALL_KILLS=1.
"""

import json
import multiprocessing
import os
import random
import socket
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genobj.training.folder import steps
from tests.test_distributed import ends
from tests.test_resume import MOONS, results, steps_logged, typed

KILLED = MOONS | {"train.steps": 200, "checkpoint.every": 5, "pictures.every": 100, "backbone.width": 32}
KILLED |= {"optim.eps": 1e-4}
ALONE, TOGETHER = (70, 30) if os.environ.get("GENOBJ_ALL_KILLS") else (20, 8)


def nursery() -> Any:
    """Children of a process that has imported everything: a run starts in a tenth of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["genobj.cli.main", "genobj.run", "torch.distributed.run"])
    return context


def run_here(folder: Path, output: Path, environment: dict[str, str]) -> None:
    """What a process of the run does: the command line, with everything it says in a file."""
    from genobj.cli.main import run

    os.environ.update(environment | {"OMP_NUM_THREADS": "1"})
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    os._exit(run(["train", "--resume", "auto", "--out", str(folder), *typed(KILLED)]))


def started(folder: Path, processes: int) -> list[ForkServerProcess]:
    """A run in so many processes."""
    context, environments = nursery(), [dict[str, str]()]
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        environments = [common | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)]
    children = []
    for number, environment in enumerate(environments):
        output = folder.with_name(f"{folder.name}.{number}.txt")
        children.append(context.Process(target=run_here, args=(folder, output, environment)))
        children[-1].start()
    return children


def files(folder: Path) -> set[str]:
    """Everything below a folder; what goes while it is looked through is left out."""
    return {os.path.join(place, name) for place, _, names in os.walk(folder) for name in names}


def killed(children: list[ForkServerProcess], folder: Path, draw: random.Random) -> bool:
    """Kill at a random moment: now and then during start-up, else some time after a change in the folder.

    Of two processes one is killed a moment before the other. Whether it was in time.
    """
    before, early = files(folder), draw.random() < 1 / 8
    while not early and any(child.is_alive() for child in children) and files(folder) == before:
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 1) if early else draw.choice([0, 0.002, 0.01, 0.1, 1, 2]) * draw.random())
    if draw.random() < 0.5:
        children.reverse()
    for child in children:
        child.kill()
        time.sleep(draw.choice([0, 0.005]))
    for child in children:
        child.join(60)
    return any(child.exitcode == -9 for child in children)


def finished(children: list[ForkServerProcess], folder: Path) -> None:
    for number, child in enumerate(children):
        child.join(120)
        assert child.exitcode == 0, folder.with_name(f"{folder.name}.{number}.txt").read_text()


def survivors(parent: Path, processes: int, kills: int, draw: random.Random) -> tuple[list[Path], int]:
    """Runs that ended after so many kills in all, and how many kills hit one that had something to lose.

    Where a busy machine starts slowly, there are more kills, until a quarter of them did.
    """
    done, late, folders = 0, 0, list[Path]()
    while done < kills or (late <= kills / 4 and done < 4 * kills):
        folder = parent / f"run{len(folders)}"
        folders.append(folder)
        for _ in range(draw.randint(3, 12)):
            saved = bool(steps(folder))
            if not killed(started(folder, processes), folder, draw):
                break
            done += 1
            late += saved
            assert not (folder / "checkpoints").exists() or all(
                {"meta.json", "state", "model.safetensors"} <= {path.name for path in whole.iterdir()}
                for whole in (folder / "checkpoints").glob("step_*")
            ), "a checkpoint that has its name is whole"
        finished(started(folder, processes), folder)
    return folders, late


@pytest.mark.slow
def test_one_process_killed_at_many_moments(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finished(started(whole, 1), whole)
    folders, late = survivors(tmp_path, 1, ALONE, random.Random(0))
    for folder in folders:
        assert results(folder) == results(whole)
        assert steps_logged(folder) == steps_logged(whole)
    assert late > ALONE / 4  # many kills hit a run that has something to lose


@pytest.mark.slow
def test_two_processes_killed_at_many_moments(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finished(started(whole, 2), whole)
    wanted = ends(whole)
    folders, late = survivors(tmp_path, 2, TOGETHER, random.Random(1))
    for folder in folders:
        found = ends(folder)
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[key], value, rtol=1e-4, atol=1e-6) for key, value in wanted.items())
        assert steps_logged(folder) == steps_logged(whole)
        assert json.loads((folder / "results.json").read_text())
        assert load_file(folder / "model.safetensors")
    assert late > TOGETHER / 4


def test_a_process_that_is_killed_once_goes_on(tmp_path: Path) -> None:
    """The faster sibling of the two above."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finished(started(whole, 1), whole)
    children = started(parts, 1)
    while not steps(parts):
        assert children[0].is_alive()
        time.sleep(0.005)
    children[0].kill()
    children[0].join()
    assert children[0].exitcode == -9
    finished(started(parts, 1), parts)
    assert results(parts) == results(whole)
