"""Whole runs that meet a fault: a stretch that diverges, a loader that gives nothing, a disk that refuses."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genobj.cli.main import run
from genobj.composer import Composer, Loss
from genobj.experiment import Experiment
from genobj.run import Run
from genobj.training import folder as folders
from genobj.training import rollback
from genobj.training.health import Diverged
from genobj.training.weights import read

SMALL = (
    "backbone.width=16 backbone.depth=2 train.batch=16 evaluation.count=32 evaluation.reference=32 evaluation.nfe=[1]"
)
TIMES = "train.steps=40 checkpoint.every=4 log.every=2 pictures.every=1000 pictures.count=16 train.patience=6"
WORDS = ["train", *SMALL.split(), *TIMES.split()]


def experiment(**health: int) -> Experiment:
    tree: dict[str, Any] = {
        "backbone": {"width": 16, "depth": 2},
        "objectives": {"fm": {}, "cm": {}},
        "train": {"steps": 40, "batch": 16, "patience": 6},
        "checkpoint": {"every": 4},
        "log": {"every": 2},
        "pictures": {"every": 1000, "count": 16},
        "evaluation": {"nfe": [1], "count": 32, "reference": 32},
        "health": health,
    }
    return Experiment.model_validate(tree)


def bad_stretch(monkeypatch: pytest.MonkeyPatch, *stretches: range) -> None:
    """The loss is not finite in these steps of 40, counted from 0."""
    whole, bad = Composer.loss, {step for stretch in stretches for step in stretch}

    def loss(composer: Composer, networks: Any, draw: Any) -> Loss:
        made = whole(composer, networks, draw)
        return made._replace(total=made.total * math.nan) if round(draw.progress * 40) in bad else made

    monkeypatch.setattr(Composer, "loss", loss)


def bits(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.safetensors"), folder / "results.json", folder / rollback.LOG]
    return {path.name: path.read_bytes() for path in files}


class TestDivergence:
    def test_no_checkpoint_is_saved_while_steps_are_skipped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad_stretch(monkeypatch, range(15, 40))
        with pytest.raises(Diverged, match="step 22: gradient not finite for 7 steps in a row"):
            Run(experiment(), tmp_path / "run").go()
        assert folders.steps(tmp_path / "run") == [8, 12]

    def test_it_goes_back_and_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bad_stretch(monkeypatch, range(15, 22), range(26, 35))
        run = Run(experiment(rollback=2), tmp_path / "run")
        run.go()
        notes = [json.loads(line) for line in (run.folder / rollback.LOG).read_text().splitlines()]
        assert [(note["step"], note["seen"], note["to"]) for note in notes] == [(22, 352, 12), (32, 512, 24)]
        assert (run.state.step, run.state.seen) == (40, 640)
        with pytest.raises(Diverged, match="1 rollbacks did not help"):
            Run(experiment(rollback=1), tmp_path / "again").go()

    @pytest.mark.parametrize("moment", [13, 19, 22, 23, 25, 31])
    def test_resumed_after_or_before_a_rollback_it_ends_with_the_same_bits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
    ) -> None:
        bad_stretch(monkeypatch, range(15, 22))
        Run(experiment(rollback=1), tmp_path / "whole").go()
        stopped = Run(experiment(rollback=1), tmp_path / "parts")
        update = stopped.state.averages.update

        def stopping(step: int, progress: float) -> None:
            if step >= moment:
                raise KeyboardInterrupt
            update(step, progress)

        monkeypatch.setattr(stopped.state.averages, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            stopped.go()
        Run(experiment(rollback=1), tmp_path / "parts", resume=True).go()
        assert bits(tmp_path / "parts") == bits(tmp_path / "whole")

    @pytest.mark.parametrize("place", ["note", "save"])
    def test_killed_in_the_middle_of_going_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        bad_stretch(monkeypatch, range(15, 22))
        Run(experiment(rollback=1), tmp_path / "whole").go()
        with monkeypatch.context() as patch:

            def killed(*_: Any) -> None:
                raise KeyboardInterrupt

            if place == "note":
                patch.setattr(rollback, "_note", killed)
            else:
                patch.setattr(rollback, "place", killed)  # after the note, before the checkpoint
            with pytest.raises(KeyboardInterrupt):
                Run(experiment(rollback=1), tmp_path / "parts").go()
        Run(experiment(rollback=1), tmp_path / "parts", resume=True).go()
        assert bits(tmp_path / "parts") == bits(tmp_path / "whole")

    def test_a_run_that_diverged_is_resumed_with_a_rollback(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bad_stretch(monkeypatch, range(15, 22))
        assert run([*WORDS, "--out", str(tmp_path / "run")]) == 1
        assert "or resume with health.rollback=1" in capfd.readouterr().err
        assert run(["train", "--resume", str(tmp_path / "run"), "health.rollback=1"]) == 0
        assert rollback.count(tmp_path / "run") == 1


def genobj(*words: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, after some lines of Python."""
    program = f"import sys\n{before}\nfrom genobj.cli.main import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", program, *WORDS, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def told(process: "subprocess.CompletedProcess[str]") -> str:
    """The one error of a command that failed; not a traceback."""
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return line


def goes_on(folder: Path) -> None:
    """The newest checkpoint is whole, and the run ends as one that met no fault."""
    assert run(["train", "--resume", str(folder)]) == 0
    assert folders.steps(folder)[-1] == 40
    assert not list((folder / "checkpoints").glob(".*"))
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 41, 2))


FULL = """
import errno, os
from genobj.training import weights
real, calls = weights.save_file, []
def full(tensors, path, metadata):
    calls.append(path)
    if len(calls) > 5:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    real(tensors, path, metadata)
weights.save_file = full
"""
PICTURE = """
import errno, os
import matplotlib.figure
def refused(self, path):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
matplotlib.figure.Figure.savefig = refused
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


class TestDisk:
    def test_full_while_a_checkpoint_is_written(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        line = told(genobj("--heads", "v,u", "--objectives", "fm,cm", "--out", str(folder), before=FULL))
        last = folder / "checkpoints/step_00000008"
        assert ".safetensors: No space left on device; " in line
        assert f"the checkpoint {last} is whole. Free some space and go on with: genobj train --resume {folder}" in line
        assert folders.newest(folder) == last
        assert not list((folder / "checkpoints").glob(".*"))
        goes_on(folder)

    def test_a_picture_on_a_disk_that_became_read_only(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        words = ["--heads", "v,u", "--objectives", "fm,cm", "pictures.every=10", "--out", str(folder)]
        line = told(genobj(*words, before=PICTURE))
        assert f"{folder}/samples/step_00000010.png: Read-only file system; the checkpoint" in line
        assert "step_00000008 is whole. Make the disk writable and go on with" in line

    def test_a_limit_on_the_size_of_a_file(self, tmp_path: Path) -> None:
        """The log is the first file that grows beyond it, long after checkpoints that were smaller."""
        folder = tmp_path / "run"
        words = [
            "--heads",
            "v,u",
            "--objectives",
            "fm,cm",
            "log.every=1",
            "train.steps=4000",
            "checkpoint.every=50",
            "--out",
            str(folder),
        ]
        line = told(genobj(*words, before=LIMIT.format(60_000)))
        assert f"{folder}/metrics.jsonl: File too large; the checkpoint" in line
        assert "Raise the limit on the size of a file (ulimit -f) and go on with" in line
        assert folders.steps(folder)[-1] > 0
        assert (folder / "metrics.jsonl").stat().st_size == 60_000

    def test_a_checkpoint_beyond_the_limit(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        line = told(genobj("backbone.width=128", "--out", str(folder), before=LIMIT.format(60_000)))
        assert "no checkpoint was saved yet. Raise the limit on the size of a file (ulimit -f)" in line
        assert not list((folder / "checkpoints").glob("*step*"))

    @pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root")
    def test_a_disk_that_is_really_full(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
        if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        try:
            folder = small / "run"
            words = ["backbone.width=96", "checkpoint.keep=100", "--out", str(folder)]
            line = told(genobj(*words))
            assert "No space left on device" in line
            assert "Free some space and go on with: genobj train --resume" in line
            assert not list((folder / "checkpoints").glob(".*"))
            whole = folders.newest(folder)
            assert ("no checkpoint was saved yet" in line) == (whole is None)
            if whole is not None:
                assert all(read(path) for path in whole.glob("*.safetensors"))
            subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
            process = genobj(*words, "--resume", "auto")
            assert process.returncode == 0, process.stderr
        finally:
            subprocess.run(["umount", str(small)], check=True)


SLEEPS = """
import time
from genobj.training import feed
real, calls = feed.Feed.__next__, []
def slow(self):
    calls.append(1)
    time.sleep(3 if len(calls) == 7 else 0)
    return real(self)
feed.Feed.__next__ = slow
"""


class TestHang:
    def test_a_loader_that_sleeps_is_told_and_the_run_goes_on(self, tmp_path: Path) -> None:
        process = genobj("health.watch=1", "--out", str(tmp_path / "run"), before=SLEEPS)
        assert process.returncode == 0, process.stderr
        assert "the run has been waiting for the data of step 7 for" in process.stderr
        assert "in slow" in (tmp_path / "run/stacks-rank0.txt").read_text()

    def test_it_is_ended_if_asked(self, tmp_path: Path) -> None:
        process = genobj("health.watch=1", "health.abort=1", "--out", str(tmp_path / "run"), before=SLEEPS)
        assert process.returncode == 1
        assert f"(health.abort); go on with: genobj train --resume {tmp_path / 'run'}" in process.stderr
        goes_on_words = ["train", "--resume", str(tmp_path / "run")]
        assert run(goes_on_words) == 0
