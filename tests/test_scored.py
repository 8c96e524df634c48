"""What studies need of a run: to stop where it is told to, seconds of training alone, scores on the way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genobj import hub
from genobj.assembly import Assembly
from genobj.config.load import fingerprint, read_toml, write_toml
from genobj.evaluation import Generator, Scorer
from genobj.experiment import Experiment
from genobj.metrics.mmd import MMD
from genobj.run import SCORES, Run, Stopped
from genobj.training import checkpoint, loop
from genobj.training.weights import checksum
from tests.test_resume import experiment, results, steps_logged

SCORED: dict[str, Any] = {"evaluation__every": 20, "evaluation__every_count": 40, "evaluation__batch": 16}


def every(steps: int) -> dict[str, Any]:
    """Scores every so many steps."""
    return SCORED | {"evaluation__every": steps}


def lines(folder: Path, log: str = SCORES) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / log).read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The scores, without what depends on the clock."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(folder)]


def until(folder: Path, settings: Experiment, step: int) -> Run:
    """Train, or go on, to the end of a step that is not the last."""
    run = Run(settings, folder, resume=True)
    with pytest.raises(Stopped, match=rf"after step {step}; go on with: genobj train --resume"):
        run.go(until=step)
    return run


def scored(folder: Path, settings: Experiment, step: int) -> list[dict[str, Any]]:
    """The records of a checkpoint, by hand."""
    own, e = Assembly(settings), settings.evaluation
    network = hub.description(own.settings, settings.ema.decays)
    checkpoint.load(folder, own.state, network, step=step)
    net = own.state.averages.network(own.model.eval())
    few = e.model_copy(update={"count": e.every_count})
    scorer = Scorer(few, settings.data, own.source, config=fingerprint(settings.learns(besides=frozenset())))
    records = scorer(Generator(net, own.settings, own.device, e.batch), f"ema_{settings.ema.decays[0]:g}")
    return [record.as_dict() for record in records]


@pytest.mark.parametrize(("recipe", "stops"), [("dumo-moons", [7, 25, 40]), ("dumo-digits", [3])])
def test_stopped_at_a_step_and_resumed_gives_the_same_bits(recipe: str, stops: list[int], tmp_path: Path) -> None:
    settings = experiment(recipe, evaluation__nfe=[1], evaluation__metrics=["mmd"], pictures__count=4)
    Run(settings, tmp_path / "whole").go()
    for stop in stops:
        run = until(tmp_path / "parts", settings, stop)
        assert run.state.step == stop
        assert (tmp_path / "parts/checkpoints/latest").resolve().name == f"step_{stop:08d}"
        assert (tmp_path / "parts/requeue").exists()
    meta = tmp_path / f"parts/checkpoints/step_{stops[-1]:08d}/meta.json"
    before = meta.stat().st_ino
    assert until(tmp_path / "parts", settings, stops[-1]).state.step == stops[-1], "it is there already"
    assert meta.stat().st_ino == before
    outcome = Run(settings, tmp_path / "parts", resume=True).go(until=settings.train.steps)
    assert outcome.records, "the last step is no reason to stop"
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    assert steps_logged(tmp_path / "parts") == steps_logged(tmp_path / "whole")


def test_steps_to_stop_at_begin_with_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="until=0: there is no such step; the first one is 1"):
        Run(experiment(), tmp_path / "run").go(until=0)


class TestSeconds:
    """A clock that goes on by 1 when a batch is read, and by 100 in every hook that somebody gives."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [5.0]
        monkeypatch.setattr(loop, "perf_counter", lambda: now[0])
        return now

    @staticmethod
    def stretch(clock: list[float], folder: Path, settings: Experiment, step: int | None) -> Run:
        run = Run(settings, folder, resume=True)
        train = run.source.train

        def slow(rows: range, seed: int) -> Any:
            clock[0] += 1
            return train(rows, seed)

        def beat(_: int) -> None:
            clock[0] += 100

        run.source.train = slow  # type: ignore[method-assign]
        if step is None:
            run.go(beat=beat)
        else:
            with pytest.raises(Stopped):
                run.go(beat=beat, until=step)
        return run

    def test_hooks_and_pauses_are_left_out(self, clock: list[float], tmp_path: Path) -> None:
        settings = experiment(train__steps=12, log__every=4, pictures__every=3, **every(4))
        assert self.stretch(clock, tmp_path / "run", settings, 6).state.seconds == 6
        clock[0] += 1000
        assert self.stretch(clock, tmp_path / "run", settings, None).state.seconds == 12
        assert [(line["step"], line["seconds"]) for line in lines(tmp_path / "run", "metrics.jsonl")] == [
            (4, 4),
            (8, 8),
            (12, 12),
        ]
        assert [(line["step"], line["seen"], line["seconds"]) for line in lines(tmp_path / "run")] == [
            (4, 128, 4),
            (8, 256, 8),
        ]

    def test_checkpoints_that_do_not_say_count_from_zero(self, clock: list[float], tmp_path: Path) -> None:
        settings = experiment(train__steps=12)
        self.stretch(clock, tmp_path / "run", settings, 6)
        file = tmp_path / "run/checkpoints/step_00000006/meta.json"
        meta = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("seconds", "crc32")}
        file.write_text(json.dumps(meta | {"crc32": checksum(json.dumps(meta))}))
        assert self.stretch(clock, tmp_path / "run", settings, None).state.seconds == 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with scores and their checkpoints."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    Run(experiment(checkpoint__every=20, checkpoint__keep=3, **SCORED), folder).go()
    return folder


class TestScores:
    def test_they_are_those_of_the_weights_of_the_step(self, finished: Path) -> None:
        assert [(line["step"], line["seen"]) for line in lines(finished)] == [(20, 640), (40, 1280)], (
            "the end has its own"
        )
        settings = Experiment.model_validate(read_toml(finished / "config.toml"))
        for line in lines(finished):
            assert line["records"] == scored(finished, settings, line["step"])
            assert {(record["metric"], record["nfe"], record["n"]) for record in line["records"]} == {
                (metric, nfe, 40) for metric in ("mmd", "sliced_w2") for nfe in (1, 2)
            }
        first, second = ([record["value"] for record in line["records"]] for line in lines(finished))
        assert first != second
        assert 0 < lines(finished)[0]["seconds"] < lines(finished)[1]["seconds"]

    def test_they_change_nothing_else(self, finished: Path, tmp_path: Path) -> None:
        plain = Run(experiment(checkpoint__every=20), tmp_path / "run").go()
        assert results(plain.folder) == results(finished)
        assert not (plain.folder / SCORES).exists()

    @pytest.mark.parametrize("kind", ["dumo-digits", "dumo-moons"])
    def test_mode_and_random_numbers_come_back(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain: dict[str, Any] = {"train__steps": 4, "evaluation__metrics": ["mmd"], "evaluation__nfe": [1]}
        plain["pictures__count"] = 4
        score, drawn = MMD.__call__, list[float]()

        def drawing(self: MMD, *arguments: Any) -> float:
            drawn.append(float(torch.rand(())))
            return score(self, *arguments)

        Run(experiment(kind, **plain), tmp_path / "plain").go()
        monkeypatch.setattr(MMD, "__call__", drawing)
        run = Run(experiment(kind, evaluation__every=2, **plain), tmp_path / "run")
        states, modes = list[torch.Tensor](), list[bool]()

        def beat(_: int) -> None:
            states.append(torch.random.get_rng_state())
            modes.append(run.model.training)

        run.go(beat=beat)
        assert len(drawn) == 4, "a value and a floor, on the way and at the end"
        assert all(modes)
        if kind == "dumo-moons":  # without dropout, training leaves these numbers alone
            assert all(state.equal(states[0]) for state in states)
        assert {k: v for k, v in results(tmp_path / "run").items() if k != "results.json"} == {
            k: v for k, v in results(tmp_path / "plain").items() if k != "results.json"
        }

    def test_cut_on_resume(self, finished: Path, tmp_path: Path) -> None:
        settings = experiment(checkpoint__every=15, **SCORED)
        until(tmp_path / "run", settings, 41)
        assert timeless(tmp_path / "run") == timeless(finished)
        with (tmp_path / "run" / SCORES).open("a") as file:
            file.write('{"step": 45, "records": []}\n{"step": 60, "rec')
        shutil.rmtree(tmp_path / "run/checkpoints/step_00000041")  # as if it had been killed after step 30
        going_on = Run(settings, tmp_path / "run", resume=True)
        assert [line["step"] for line in lines(tmp_path / "run")] == [20]
        going_on.go()
        assert timeless(tmp_path / "run") == timeless(finished)

    def test_the_reference_is_looked_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run, counts = Run(experiment(**every(15)), tmp_path / "run"), list[int]()
        reference = run.source.reference

        def counted(count: int, seed: int) -> Any:
            counts.append(count)
            return reference(count, seed)

        monkeypatch.setattr(run.source, "reference", counted)
        run.go()
        assert len(lines(run.folder)) == 3
        assert len(counts) == 2, "once for all of these, once for the end"

    def test_shards_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"type distributed.strategy=ddp, or leave evaluation.every out"):
            experiment("dumo-digits", evaluation__every=2, distributed__strategy="fsdp2")

    def test_too_few_samples_are_refused_before_the_folder_is_made(self, tmp_path: Path) -> None:
        few: dict[str, Any] = {"evaluation__metrics": ["prdc"], "evaluation__every": 2, "evaluation__every_count": 3}
        with pytest.raises(ValueError, match="metric 'prdc'"):
            Run(experiment("dumo-digits", **few), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_their_number_is_idle_without_them(self) -> None:
        assert experiment().evaluation.idle == {"every_count"}
        assert not experiment(evaluation__every=5).evaluation.idle
        assert experiment(**SCORED).run_name() == experiment().run_name()


def test_a_picture_before_the_first_step(tmp_path: Path) -> None:
    settings = experiment(pictures__start=True, pictures__every=20)
    until(tmp_path / "run", settings, 7)
    (first,) = (tmp_path / "run/samples").iterdir()
    assert first.name == "step_00000000.png"
    assert first.read_bytes().startswith(b"\x89PNG")
    first.unlink()
    until(tmp_path / "run", settings, 20)
    assert [file.name for file in (tmp_path / "run/samples").iterdir()] == ["step_00000020.png"]


PROCESS = """
import os, sys
from pathlib import Path
from genobj.config.load import read_toml
from genobj.experiment import Experiment
from genobj.run import Run, Stopped

settings, folder = Experiment.model_validate(read_toml(Path(sys.argv[1]))), Path(sys.argv[2])
for step in (25, 60):
    try:
        Run(settings, folder, resume=True).go(until=step)
    except Stopped as stopped:
        print(stopped, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_score_and_stop_together(tmp_path: Path) -> None:
    settings = experiment(checkpoint__every=20, checkpoint__keep=9, **SCORED)
    (tmp_path / "settings.toml").write_text(write_toml(settings.tree()))
    (tmp_path / "process.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "process.py", "settings.toml", "run"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stopped and saved after step 25") == 2
    assert [line["step"] for line in lines(tmp_path / "run")] == [20, 40]
    for line in lines(tmp_path / "run"):
        wanted = scored(tmp_path / "run", settings, line["step"])
        for mine, theirs in zip(line["records"], wanted, strict=True):
            assert mine["value"] == pytest.approx(theirs["value"], rel=1e-9)
            assert {**mine, "value": 0, "floor": 0} == {**theirs, "value": 0, "floor": 0}
    assert (tmp_path / "run/results.json").exists()
