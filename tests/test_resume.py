"""A run that is stopped at any moment and resumed ends with the same bits as one that was never stopped."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from genobj.cli.main import run
from genobj.cli.resolve import resolve
from genobj.experiment import Experiment
from genobj.run import Run
from genobj.training import checkpoint
from genobj.training import folder as folders
from genobj.training.folder import Occupied, create, free, link_latest
from genobj.training.log import Logger
from genobj.training.state import State

MOONS = {
    "train.steps": 60,
    "train.batch": 32,
    "backbone.width": 16,
    "checkpoint.every": 7,
    "log.every": 5,
    "pictures.every": 1000,
    "pictures.count": 16,
    "evaluation.count": 32,
    "evaluation.reference": 32,
    "evaluation.nfe": [1, 2],
    "optim.warmup": 320,
    "ema.decays": [0.999, 0.9],
}
DIGITS = MOONS | {"train.steps": 6, "train.batch": 8, "train.micro_batch": 4, "checkpoint.every": 2, "log.every": 1}
DIGITS |= {"guidance.kind": "self", "backbone.dropout": 0.1}
DIGITS.pop("backbone.width")


def typed(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def experiment(recipe: str = "dumo-moons", **changes: Any) -> Experiment:
    settings = (MOONS if recipe == "dumo-moons" else DIGITS) | {k.replace("__", "."): v for k, v in changes.items()}
    return resolve(recipe, overrides=typed(settings))[0]


def results(folder: Path) -> dict[str, bytes]:
    """Every file whose bits must not depend on interruptions."""
    newest = (folder / "checkpoints/latest").resolve()
    files = [*folder.glob("*.safetensors"), folder / "results.json", *newest.glob("*.safetensors")]
    found = {str(path.relative_to(folder.resolve())): path.read_bytes() for path in files}
    shard = safetensors.torch.load_file(newest / "state" / SHARD)  # the order of its header is nobody's
    return found | {name: value.numpy().tobytes() for name, value in shard.items()}


def steps_logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


SHARD = "shard-00001-model-00001-of-00001.safetensors"


class Stopped(Exception):
    """What a kill is in these tests, where everything runs in one process."""


def stop_at(run: Run, step: int) -> None:
    """Train until the state has counted `step`, then stop without saving anything."""
    averages = run.state.averages
    update = averages.update

    def stopping(done: int, progress: float) -> None:
        if done >= step:
            raise Stopped
        update(done, progress)

    averages.update = stopping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run.go()


@pytest.mark.parametrize("recipe", ["dumo-moons", "dumo-digits"])
def test_stopped_and_resumed_gives_the_same_bits(recipe: str, tmp_path: Path) -> None:
    settings = experiment(recipe)
    Run(settings, tmp_path / "whole").go()
    last = settings.train.steps
    moments = sorted(random.Random(0).sample(range(last), 4 if last < 10 else 10))
    for moment in moments:
        stop_at(Run(settings, tmp_path / "parts", resume=True), moment)
        assert all(step <= moment for step in steps_logged(tmp_path / "parts"))
    Run(settings, tmp_path / "parts", resume=True).go()
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    assert {"model.safetensors", "results.json", f"checkpoints/step_{last:08d}/model.safetensors"} <= results(
        tmp_path / "whole"
    ).keys()
    assert steps_logged(tmp_path / "parts") == steps_logged(tmp_path / "whole")


def test_a_finished_run_is_evaluated_again_and_stays_the_same(tmp_path: Path) -> None:
    Run(experiment(), tmp_path / "run").go()
    before = results(tmp_path / "run")
    Run(experiment(evaluation__seed=5), tmp_path / "run", resume=True).go()
    after = results(tmp_path / "run")
    assert [name for name in before if before[name] != after[name]] == ["results.json"]


SAVING = ["rename", "_flush", "write", "point", "_discard"]


@pytest.mark.parametrize("place", SAVING)
def test_stopped_while_a_checkpoint_is_written(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment()
    Run(settings, tmp_path / "whole").go()
    with monkeypatch.context() as patch:
        owner: Any = Path if place == "rename" else checkpoint
        original, calls = getattr(owner, place), []

        def stopping(*arguments: Any) -> Any:
            calls.append(place)
            if len(calls) == 9:
                raise Stopped
            return original(*arguments)

        started = Run(settings, tmp_path / "parts", resume=True)
        patch.setattr(owner, place, stopping)
        if place == "_discard" or place == "point":
            calls.extend([place] * 5)
        with pytest.raises(Stopped):
            started.go()
    Run(settings, tmp_path / "parts", resume=True).go()
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "parts/checkpoints").iterdir()}
    assert left == {"step_00000056", "step_00000060", "latest"}


class TestCheckpoints:
    @pytest.fixture
    def stopped(self, tmp_path: Path) -> Path:
        stop_at(Run(experiment(), tmp_path / "run"), 30)
        return tmp_path / "run"

    def test_the_newest_are_kept_and_linked(self, stopped: Path) -> None:
        assert folders.steps(stopped) == [21, 28]
        assert (stopped / "checkpoints/latest").readlink() == Path("step_00000028")

    def test_keep(self, tmp_path: Path) -> None:
        stop_at(Run(experiment(checkpoint__keep=3), tmp_path / "run"), 30)
        assert folders.steps(tmp_path / "run") == [14, 21, 28]

    def test_half_written_folders_are_ignored_and_removed(self, stopped: Path) -> None:
        half = stopped / "checkpoints/.step_00000029.12345"
        half.mkdir()
        (half / "model.safetensors").write_bytes(b"half")
        again = Run(experiment(), stopped, resume=True)
        assert again.state.step == 28
        again.go()
        assert not half.exists()

    def test_a_damaged_newest_one_is_refused_and_the_advice_helps(self, stopped: Path) -> None:
        file = stopped / "checkpoints/step_00000028/model.safetensors"
        data = bytearray(file.read_bytes())
        data[-5] ^= 4
        file.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"damaged .*checksum.*; remove .*step_00000028 to go on from the"
        ) as caught:
            Run(experiment(), stopped, resume=True)
        shutil.rmtree(str(caught.value).partition("remove ")[2].partition(" to go on")[0])
        again = Run(experiment(), stopped, resume=True)
        assert again.state.step == 21
        again.go()
        Run(experiment(), stopped.parent / "whole").go()
        assert results(stopped) == results(stopped.parent / "whole")

    def test_torn_and_later_lines_of_the_log_are_dropped(self, stopped: Path) -> None:
        log = stopped / "metrics.jsonl"
        log.write_text(log.read_text() + '{"step": 35, "loss": 1}\n{"step": 40, "lo')
        Run(experiment(), stopped, resume=True).go()
        assert steps_logged(stopped) == list(range(5, 61, 5))

    def test_samples_come_from_the_newest_checkpoint(self, stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["sample", str(stopped), "--count", "4", "--out", str(stopped.parent / "x.npz")]) == 0
        assert "4 samples (1 NFE, weights ema_0.999)" in capsys.readouterr().out

    def test_a_fault_leaves_one_in_the_background_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write, log = checkpoint.write, Logger.__call__

        def slowly(*arguments: Any) -> None:
            time.sleep(0.2)
            write(*arguments)

        def failing(self: Logger, state: State, means: Any) -> None:
            if state.step == 10:
                raise OSError(28, "No space left on device")
            log(self, state, means)

        monkeypatch.setattr(checkpoint, "write", slowly)
        monkeypatch.setattr(Logger, "__call__", failing)
        run = Run(experiment(checkpoint__background=True), tmp_path / "run")
        with pytest.raises(OSError, match="No space left"):
            run.go()
        for _ in range(100):
            if folders.steps(run.folder):
                break
            time.sleep(0.1)
        assert folders.steps(run.folder) == [7]
        again = Run(experiment(), run.folder, resume=True)
        assert again.state.step == 7


class TestFolders:
    def test_two_runs_never_write_into_one(self, tmp_path: Path) -> None:
        folder = Run(experiment(train__steps=1), tmp_path / "run").go().folder
        with folders.held(folder), pytest.raises(ValueError, match="is being written by another process; stop it"):
            Run(experiment(train__steps=1), folder, resume=True)
        Run(experiment(train__steps=1), folder, resume=True).go()

    def test_weights_can_be_read_by_others(self, tmp_path: Path) -> None:
        folder = Run(experiment(train__steps=1), tmp_path / "run").go().folder
        assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.safetensors")} >= {0o644}

    def test_a_checkpoint_can_be_sampled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Run(experiment(train__steps=1), tmp_path / "run").go().folder
        assert run(["sample", str(folder / "checkpoints/latest"), "--count", "4"]) == 0

    def test_a_run_never_overwrites_another(self, tmp_path: Path) -> None:
        Run(experiment(train__steps=1), tmp_path / "run").go()
        before = results(tmp_path / "run")
        with pytest.raises(Occupied, match="already holds a run"):
            Run(experiment(train__steps=1), tmp_path / "run")
        with pytest.raises(ValueError, match=r"other settings \(train\.steps: 1 -> 2\)"):
            Run(experiment(train__steps=2), tmp_path / "run", resume=True)
        assert results(tmp_path / "run") == before

    def test_what_is_not_learnt_may_change(self, tmp_path: Path) -> None:
        Run(experiment(train__steps=1), tmp_path / "run").go()
        Run(experiment(train__steps=1, log__every=1, checkpoint__keep=1), tmp_path / "run", resume=True)

    def test_a_folder_that_was_begun_is_finished(self, tmp_path: Path) -> None:
        (tmp_path / "run/samples").mkdir(parents=True)
        (tmp_path / "run/env.json").write_text("{}")
        (tmp_path / "run/.config.toml.77").write_text("half")
        Run(experiment(train__steps=1), tmp_path / "run", resume=True).go()
        assert (tmp_path / "run/results.json").exists()

    def test_default_names_never_collide(self, tmp_path: Path) -> None:
        assert [free(tmp_path, "run").name for _ in range(3)] == ["run", "run-2", "run-3"]

    def test_a_folder_with_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("x")
        with pytest.raises(Occupied, match="is not empty and holds no run"):
            create(tmp_path, {})

    def test_latest_is_a_link_to_the_run_itself(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            link_latest(tmp_path / name, tmp_path)
        assert (tmp_path / "latest").readlink() == Path("two")
        link_latest(tmp_path / "latest", tmp_path)  # resumed by the name of the link
        assert (tmp_path / "latest").resolve() == tmp_path / "two"

    def test_latest_that_is_a_folder_stays(self, tmp_path: Path) -> None:
        (tmp_path / "latest").mkdir()
        (tmp_path / "one").mkdir()
        link_latest(tmp_path / "one", tmp_path)
        assert not (tmp_path / "latest").is_symlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    words = "train train.steps=100000 checkpoint.every=100000 pictures.every=100000 log.every=1 backbone.width=16"
    command = [sys.executable, "-m", "genobj", *words.split(), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run/metrics.jsonl"
    for _ in range(600):
        if log.exists() and log.stat().st_size:
            break
        time.sleep(0.1)
    for _ in range(3):  # a scheduler and torchrun both deliver it
        process.send_signal(number)
        time.sleep(0.02)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "go on with: genobj train --resume" in told
    (saved,) = (tmp_path / "run/checkpoints").glob("step_*")
    lines = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert int(saved.name.removeprefix("step_")) == lines[-1]
