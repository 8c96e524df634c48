"""Studies: equal budgets that are equal, runs that are kept, resumed, shared, and told when they fail."""

import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from genobj.cli.main import run as genobj
from genobj.cli.resolve import resolve
from genobj.composer import Loss
from genobj.run import Stopped
from genobj.studies import conduct, worker
from genobj.studies.claims import Claim, judge
from genobj.studies.conduct import Conductor
from genobj.studies.crew import Board, Crew
from genobj.studies.plan import rows
from genobj.studies.plan import steps as planned
from genobj.studies.results import Results, read
from genobj.studies.study import UnknownStudy, find, load, scales
from genobj.studies.worker import Task
from genobj.training.folder import steps
from genobj.training.step import StepModule

BASE = """
name = "tiny"
recipe = "dumo-moons"
seeds = [0, 1]
nfe = [1]
metrics = ["sliced_w2"]
settings.backbone = { kind = "mlp", width = 16, depth = 2 }
settings.train.batch = 32
settings.evaluation = { count = 64, reference = 64 }
settings.checkpoint.every = 5
"""
TWO = """
[variants.dumo]
[variants.meanflow]
recipe = "meanflow-moons"
settings.train.batch = 64
"""


class Watch:
    """Remembers what it was told; stops the study at a step if asked to."""

    def __init__(self, stop: tuple[str, int, int] | None = None):
        self.began: list[tuple[str, int, int | None]] = []
        self.errors: dict[str, str] = {}
        self.stop = stop

    def begun(self, task: Task) -> None:
        self.began.append((task.job.variant, task.job.seed, task.until))

    def beat(self, task: Task, step: int) -> None:
        if self.stop == (task.job.variant, task.job.seed, step):
            os.kill(os.getpid(), signal.SIGINT)

    def ended(self, task: Task, error: str) -> None:
        if error:
            self.errors[task.job.variant] = error


def conductor(tmp_path: Path, text: str, *overrides: str, **options) -> Conductor:
    file = tmp_path / "study.toml"
    file.write_text(text)
    return Conductor(load(file, None, [*overrides]), tmp_path / "study", tmp_path / "cells", **options)


def same(one: Results, other: Results) -> bool:
    """Whether the scores are equal to the last bit."""
    return [c.records for c in one.cells] == [c.records for c in other.cells]


@pytest.mark.parametrize(("kind", "amount"), [("steps", 6), ("seen", 768), ("passes", 2304)])
def test_a_budget_is_spent_equally(tmp_path, monkeypatch, kind, amount):
    """What is compared is counted as the runs go, not planned."""
    spent: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(("steps", "seen", "passes"), 0.0))
    watch, forward = Watch(), StepModule.forward

    def counting(self, x, *rest) -> Loss:
        loss = forward(self, x, *rest)
        mine = spent[watch.began[-1][0]]
        mine["steps"] += 1
        mine["seen"] += len(x)
        mine["passes"] += len(x) * (loss.passes.with_gradient + loss.passes.without_gradient)
        return loss

    monkeypatch.setattr(StepModule, "forward", counting)
    text = f"{BASE}\nbudget = {{ kind = '{kind}', amount = {amount} }}\n{TWO}"
    found = conductor(tmp_path, text, "seeds=[0]").run(watch)
    assert [mine[kind] for mine in spent.values()] == [amount, amount]
    others = {"steps", "seen", "passes"} - {kind}
    assert any(spent["dumo"][other] != spent["meanflow"][other] for other in others), "the variants differ in the rest"
    for cell in found.cells:  # and what the results say is what was counted
        assert {"steps": cell.steps, "seen": cell.seen, "passes": cell.passes} == spent[cell.variant]


def test_samples_that_are_no_whole_steps_are_refused(tmp_path):
    text = f"{BASE}\nbudget = {{ kind = 'seen', amount = 96 }}\n{TWO}"
    with pytest.raises(ValueError, match=r"variant meanflow: 96 samples are no whole.*budget.amount=128"):
        conductor(tmp_path, text).jobs()


def test_equal_seconds_are_trained_in_turn_and_change_nothing_but_the_order(tmp_path, monkeypatch):
    text = f"{BASE}\nbudget = {{ kind = 'seconds', amount = 8, slices = 2 }}\n{TWO}"
    monkeypatch.setattr(Conductor, "_seconds", lambda self: {"dumo": 1.0, "meanflow": 0.5})
    study, watch = conductor(tmp_path, text), Watch()
    found = study.run(watch)
    assert {cell.variant: cell.steps for cell in found.cells} == {"dumo": 8, "meanflow": 16}
    turns = [("dumo", 4), ("meanflow", 8), ("dumo", None), ("meanflow", None)]
    assert watch.began == [(name, seed, until) for seed in (0, 1) for name, until in turns]
    whole = f"{BASE}\nbudget.amount = 8\n{TWO}\nshare = 2.0"  # meanflow's table is the last
    again = Conductor(load_text(tmp_path, whole), tmp_path / "b", tmp_path / "other").run(Watch())
    assert same(found, again)


def load_text(tmp_path: Path, text: str):
    file = tmp_path / "other.toml"
    file.write_text(text)
    return load(file)


def test_speeds_are_measured_in_turn_and_once(tmp_path, monkeypatch):
    text = f"{BASE}\nbudget = {{ kind = 'seconds', amount = 0.05, slices = 1 }}\n{TWO}"
    seen: list[str] = []
    first = conductor(tmp_path, text, show=seen.append)
    counts = {job.variant: job.experiment.train.steps for job in first.jobs()}
    turns = [line.split(":")[0] for line in seen if "round" in line]
    assert turns == ["dumo", "meanflow"] * conduct.ROUNDS
    monkeypatch.setattr(conduct.bench, "measure", None)
    assert {job.variant: job.experiment.train.steps for job in conductor(tmp_path, text).jobs()} == counts


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    text = f"{BASE}\nbudget.amount = 6\n{TWO}\n[variants.twin]\nrecipe = 'dumo-moons'"
    watch = Watch()
    first = conductor(tmp_path, text).run(watch)
    assert [(name, seed) for name, seed, _ in watch.began] == [(n, s) for s in (0, 1) for n in ("dumo", "meanflow")]
    by_name = {(c.variant, c.seed): c for c in first.cells}
    assert by_name["twin", 1].records == by_name["dumo", 1].records  # equal settings are one run
    with monkeypatch.context() as patched:
        patched.setattr("genobj.studies.worker.Run", None)
        assert same(conductor(tmp_path, text).run(Watch()), first)
        assert same(read(tmp_path / "study" / "results.json"), first)
    trained: list[int] = []
    beaten = Watch()
    beaten.beat = lambda task, step: trained.append(step)  # type: ignore[method-assign]
    more = conductor(tmp_path, text, "nfe=[1,2]").run(beaten)  # another evaluation of the same runs
    assert not trained
    assert more.measures() == [("sliced_w2", 1), ("sliced_w2", 2)]
    assert more.values("dumo", "sliced_w2", 1) == first.values("dumo", "sliced_w2", 1)


def test_a_study_that_was_stopped_goes_on_where_it_was(tmp_path):
    text = f"{BASE}\nbudget.amount = 12\n{TWO}"
    with pytest.raises(Stopped):
        conductor(tmp_path, text).run(Watch(stop=("dumo", 1, 8)))
    partly = read(tmp_path / "study" / "results.json")
    assert [cell.state for cell in partly.cells] == ["done", "done", "missing", "missing"]
    steps_again: list[int] = []
    watch = Watch()
    watch.beat = lambda task, step: steps_again.append(step)  # type: ignore[method-assign]
    found = conductor(tmp_path, text).run(watch)
    assert [name for name, _, _ in watch.began] == ["dumo", "meanflow"]
    assert steps_again[0] == 9  # nothing of the stopped run was lost
    whole = Conductor(load(tmp_path / "study.toml"), tmp_path / "b", tmp_path / "elsewhere").run(Watch())
    assert same(found, whole)


def test_failures_are_told_and_kept_apart(tmp_path):
    text = f"{BASE}\nbudget.amount = 12\n{TWO}\n[variants.wild]\nsettings.optim.lr = 1e30\nsettings.train.patience = 2"
    watch = Watch()
    found = conductor(tmp_path, text, "seeds=[0]").run(watch)
    assert [(cell.variant, cell.state) for cell in found.cells if cell.state != "done"] == [("wild", "failed")]
    assert "not finite" in found.failed()[0].error
    assert watch.errors == {"wild": found.failed()[0].error}
    again, second = conductor(tmp_path, text, "seeds=[0]"), Watch()
    assert again.run(second).failed()[0].error == watch.errors["wild"]  # it would fail again: nothing is trained
    assert again.again() == 1
    assert not any(job.failure.exists() for job in again.jobs())


def test_a_run_that_starts_from_another_waits_for_it(tmp_path):
    text = f"{BASE}\nbudget.amount = 6\n[variants.dumo]\nstart = 'fm'\n[variants.fm]\nrecipe = 'fm-moons'"
    watch = Watch()
    found = conductor(tmp_path, text).run(watch)
    assert [name for name, _, _ in watch.began] == ["fm", "dumo"] * 2
    assert {cell.state for cell in found.cells} == {"done"}
    starts = {c.seed: json.loads(json.dumps(found.variant("dumo").settings))["init"]["from"] for c in found.cells[:1]}
    assert starts == {0: next(c.folder for c in found.cells if (c.variant, c.seed) == ("fm", 0))}


def test_what_needs_a_failed_task_fails_with_it(tmp_path):
    text = f"{BASE}\nbudget.amount = 6\n[variants.dumo]\nstart = 'fm'\n[variants.fm]\nrecipe = 'fm-moons'"
    tasks = conductor(tmp_path, text, "seeds=[0]").tasks()
    board = Board(tasks)
    first = board.take()
    assert first == 0
    assert board.take() is None
    assert board.end(0, "it broke") == [0, 1]
    assert board.errors == {0: "it broke", 1: "what it starts from: it broke"}


def test_curves_and_pictures_during_training(tmp_path):
    found = conductor(tmp_path, f"{BASE}\nbudget.amount = 8\nlooks = 4\npictures = 2", "seeds=[0]").run(Watch())
    (cell,) = found.cells
    assert [look.step for look in cell.curve][:3] == [2, 4, 6]
    assert all(look.records[0].metric == "sliced_w2" for look in cell.curve)
    pictures = sorted(path.name for path in (Path(cell.folder) / "samples").iterdir())
    assert pictures == [f"step_{step:08d}.png" for step in (0, 4, 8)]


def test_processes_give_the_same_and_one_that_dies_takes_one_run_with_it(tmp_path):
    """Two processes; a plugin's objective reaches them; then one is killed from outside."""
    plugin = tmp_path / "walk.py"
    plugin.write_text(
        "from typing import final\n"
        "from genobj.objectives.consistency import Consistency\n"
        "from genobj.objectives.base import Regression\n"
        "from genobj.parts import OBJECTIVES\n"
        '@OBJECTIVES.register("still")\n'
        "class Still(Regression):\n"
        '    """Still: the velocity of the draw."""\n'
        '    horizon = "instant"\n'
        '    head: str = "v"\n'
        '    """Head."""\n'
        "    def target(self, draw, passes):\n"
        "        return draw.v_t\n"
    )
    plugged = f"[variants.plugged]\nreplace=['objectives','heads']\nsettings.plugins=['{plugin}']\n"
    plugged += "settings.objectives.still.head = 'v'\n"
    text = f"{BASE}\nbudget.amount = 12\n{TWO}\n{plugged}"
    alone = conductor(tmp_path, text, "seeds=[0]").run(Watch())
    together = Conductor(load(tmp_path / "study.toml", None, ["seeds=[0]"]), tmp_path / "b", tmp_path / "other")
    tasks, watch = together.tasks(), Watch()

    class Killer(Watch):
        def begun(self, task: Task) -> None:
            super().begun(task)
            if task.job.variant == "dumo":
                hand = next(h for h in team.hands if h.number == 0)
                os.kill(hand.process.pid or 0, signal.SIGKILL)

    team, watch = Crew([None, None], tmp_path / "logs"), Killer()
    errors = team(tasks, watch)
    assert list(errors) == [0]
    assert "signal 9" in errors[0]
    assert not any(hand.process.is_alive() for hand in team.hands)
    assert same(together.run(Watch()), alone)  # the other two were done by the processes, the third one here


def test_one_run_may_be_scored_in_several_ways(tmp_path):
    variants = "[variants.few]\n[variants.many]\nsettings.evaluation.count = 128\n"
    watch = Watch()
    found = conductor(tmp_path, f"{BASE}\nbudget.amount = 6\n{variants}", "seeds=[0]").run(watch)
    few, many = found.cells
    assert (few.state, many.state) == ("done", "done")
    assert few.folder == many.folder
    assert (few.records[0].n, many.records[0].n) == (64, 128)
    claim = {"kind": "better", "says": "more", "metric": "sliced_w2", "left": "few", "right": "many"}
    (judged,) = judge(TypeAdapter(tuple[Claim, ...]).validate_python([claim]), found)
    assert judged.verdict == "inconclusive"
    assert "samples is 64 in one and 128 in the other" in judged.measured


def test_a_changed_plugin_is_another_run(tmp_path):
    plugin = tmp_path / "p.py"
    plugin.write_text("# one\n")
    study = f"{BASE}\nbudget.amount = 6\nsettings.plugins = ['{plugin}']"
    (one,) = conductor(tmp_path, study, "seeds=[0]").jobs()
    plugin.write_text("# two\n")
    (two,) = conductor(tmp_path, study, "seeds=[0]").jobs()
    assert one.folder != two.folder


def test_two_studies_that_need_the_same_run_train_it_once(tmp_path, monkeypatch):
    """The second one waits for the first, then finds what was done."""
    monkeypatch.setattr(worker, "PATIENCE", 0.01)
    (job,) = conductor(tmp_path, f"{BASE}\nbudget.amount = 6", "seeds=[0]").jobs()
    inside, counted = threading.Event(), list[int]()

    def first(step: int) -> None:
        counted.append(step)
        inside.set()

    threads = [threading.Thread(target=worker.ensure, args=(Task(job), None, first)) for _ in range(2)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert counted == [1, 2, 3, 4, 5, 6]
    assert job.scores.exists()


def test_a_parent_that_is_gone_does_not_keep_a_run_from_being_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "TOLD", 0.0)
    (job,) = conductor(tmp_path, f"{BASE}\nbudget.amount = 6", "seeds=[0]").jobs()
    here, there = multiprocessing.Pipe()
    here.close()
    assert worker._done(Task(job), None, there).kind == "done"


def test_devices_are_checked_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "s.toml").write_text(BASE)
    asked = ["compare", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o"), "--runs", str(tmp_path / "r")]
    assert genobj([*asked, "--devices", "gpu0"]) == 2
    assert "there is no device 'gpu0' here; there is cpu" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_recipes_are_compared_without_a_file(tmp_path, capsys):
    asked = ["compare", "dumo-moons", "meanflow-moons", "fm-moons", "--out", str(tmp_path / "o"), "--dry-run"]
    assert genobj([*asked, "budget.kind=passes", "budget.amount=768000"]) == 0
    told = capsys.readouterr().out
    assert "equal passes: 768,000" in told
    assert [line.split()[1] for line in told.splitlines()[1:4]] == ["1,000", "2,000", "3,000"]
    assert genobj(["compare", "dumo-moons", "dumo-moons"]) == 2
    assert "stands there twice" in capsys.readouterr().err
    assert genobj(["compare", "seeds=[0]"]) == 2
    assert "name a study's file, or recipes" in capsys.readouterr().err


def test_a_study_whose_runs_all_fail_ends_with_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("genobj.cli.studying._devices", lambda *_: [])
    wild = "settings.optim.lr = 1e30\nsettings.train.patience = 2\nbudget.amount = 12"
    (tmp_path / "s.toml").write_text(f"{BASE}\n{wild}")
    asked = ["compare", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o"), "--runs", str(tmp_path / "r")]
    assert genobj([*asked, "seeds=[0]"]) == 1
    assert "not finite" in " ".join(capsys.readouterr().out.split())


def test_every_row_tells_a_command_that_trains_it(tmp_path):
    alone = "[variants.cm]\nreplace=['objectives','heads']\nsettings.objectives.cm.head='u'"
    found = conductor(tmp_path, f"{BASE}\nbudget.amount = 6\n{TWO}\n{alone}").run(Watch())
    for variant in found.variants:
        words = shlex.split(variant.command)
        assert words[:3] == ["genobj", "train", "-r"]
        overrides = words[4:-2] if "--seed" in words else []
        experiment, _ = resolve(words[3], seed=0, overrides=overrides)
        made = next(cell for cell in found.cells if (cell.variant, cell.seed) == (variant.name, 0))
        assert Path(made.folder).name.endswith(experiment.run_name().rpartition("-")[2])
    assert "-r meanflow-moons" in found.variant("meanflow").command


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_stopped_loses_nothing_but_steps_since_the_last_checkpoint(tmp_path, number):
    """The command with two processes is stopped while both train; its processes save and end by themselves."""
    text = BASE.replace("checkpoint.every = 5", "checkpoint.every = 100").replace("[0, 1]", "[0]")
    (tmp_path / "s.toml").write_text(f"{text}\nbudget.amount = 3000\nsettings.log.every = 10\n{TWO}")
    command = [sys.executable, "-m", "genobj", "compare", "s.toml", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    cells = tmp_path / "runs" / "cells"
    while not (len(list(cells.glob("*/metrics.jsonl"))) == 2 and all(map(_lines, cells.glob("*/metrics.jsonl")))):
        assert process.poll() is None
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 75}[number]
    deadline = time.monotonic() + 60
    while not all(folder.joinpath("requeue").exists() for folder in cells.glob("*-moons-*")):
        assert time.monotonic() < deadline, "a process did not save"
        time.sleep(0.2)
    reached = {folder.name: steps(folder)[-1] for folder in cells.glob("*-moons-*")}
    assert all(0 < step < 3000 for step in reached.values())
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    whole = load(tmp_path / "s.toml")
    fresh = Conductor(whole, tmp_path / "b", tmp_path / "fresh").run(Watch())
    assert same(read(tmp_path / "runs" / "studies" / "tiny" / "results.json"), fresh)


def _lines(file: Path) -> bool:
    return bool(file.read_text())


def test_a_study_of_speed_is_timed_once(tmp_path, monkeypatch):
    text = f"{BASE}\nmeasure = 'speed'\nrounds = 3\n{TWO}"
    found = conductor(tmp_path, text).run(Watch())
    assert found.measures() == [("speed", 0)]
    assert set(found.values("dumo", "speed", 0)) == {0, 1, 2}
    assert min(found.values("dumo", "speed", 0).values()) > 0
    monkeypatch.setattr(conduct.bench, "measure", None)
    assert same(conductor(tmp_path, text).run(Watch()), found)


def test_scales_lie_over_the_file(tmp_path):
    file = tmp_path / "s.toml"
    sizes = "[scales.small]\nbudget.amount = 5\nvariants.dumo.settings.optim.lr = 1e-3\n[scales.large]\nseeds = [7]"
    file.write_text(f"{BASE}\nbudget.amount = 9\n{TWO}\n{sizes}")
    assert scales(file) == ["small", "large"]
    small, large = load(file), load(file, "large", ["budget.amount=11"])
    assert (small.budget and small.budget.amount, small.seeds) == (5, (0, 1))
    assert rows(small)[0].experiment.optim.lr == 1e-3
    assert (large.budget and large.budget.amount, large.seeds) == (11, (7,))
    with pytest.raises(UnknownStudy, match=r"no scale 'smal'. Did you mean 'small'"):
        load(file, "smal")
    with pytest.raises(UnknownStudy, match="Did you mean 'fig3'"):
        find("fig33")


def test_axes_are_crossed_and_named(tmp_path):
    axes = (
        "[variants.dumo.axes.beta]\nvalues=[0.25,1.0]\nsettings=['objectives.fm.weight']\n"
        "complement=['objectives.cm.weight']\n[variants.dumo.axes.lr]\nvalues=[1e-3]\nsettings=['optim.lr']"
    )
    found = rows(load_text(tmp_path, f"{BASE}\n{axes}"))
    assert [row.name for row in found] == ["dumo[beta=0.25,lr=0.001]", "dumo[beta=1.0,lr=0.001]"]
    weights = [[o["weight"] for o in row.experiment.tree()["objectives"].values()] for row in found]
    assert weights == [[0.25, 0.75], [1.0, 0.0]]
    assert planned(load_text(tmp_path, f"{BASE}\n{axes}"), found[0], {}) == 4000


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("[variants.a]\nsettings.optim.lrr = 1", r"variant a: optim: unknown key 'lrr'. Did you mean 'lr'"),
        ("[variants.a]\nrecipe = 'dumo-moon'", r"variant a: unknown recipe 'dumo-moon'. Did you mean 'dumo-moons'"),
        ("[variants.a]\nstart = 'b'", r"variants.a.start: there is no variant 'b'"),
        ("[variants.a]\nstart = 'a'", r"'a' has axes or starts from another"),
        ("[variants.a]\n[variants.b]\nstart='a'\n[variants.c]\nstart='b'", r"variants.c.start: 'b' has axes or starts"),
        ("[variants.a]\n[variants.b]\nsettings.train.compile=true", r"a and b differ in train.compile only"),
        ("baseline = 'fm'\n[variants.a]", r"baseline: there is no variant 'fm'"),
        ("[variants.a.axes.x]\nvalues = ['q']\ncomplement = ['optim.lr']", r"takes 1 - value, and 'q' is no number"),
        ("[variants.a.axes.x]\nvalues = []", r"values"),
        ("budget = { kind = 'hours' }", r"budget.kind"),
        ("varants = 1", r"unknown key 'varants'. Did you mean 'variants'"),
        ("scales = 3", r"scales holds tables"),
        ("rounds = 0", r"rounds"),
        ("[[claims]]\nkind = 'beter'", r"claim 1: unknown kind 'beter'. Did you mean 'better'"),
        ("budget = { kind = 'steps' }", r"budget.amount"),
        ("optim.lr = 1", r"optim is a setting of the runs; type settings.optim"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, capsys, wrong, told):
    file = tmp_path / "s.toml"
    file.write_text(f"{BASE}\n{wrong}")
    assert genobj(["compare", str(file), "--out", str(tmp_path / "o"), "--runs", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) <= 3
    assert re.search(told, " ".join(error.split()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.toml"]


def test_the_command_from_file_to_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim = "[[claims]]\nkind='better'\nsays='DuMo is better'\nsource='us'\nmetric='sliced_w2'\nnfe=1\n"
    claim += "left='dumo'\nright='meanflow'\n"
    (tmp_path / "s.toml").write_text(f"{BASE}\nbudget.amount = 6\nbaseline = 'dumo'\n{claim}{TWO}")
    assert genobj(["compare", "s.toml", "--dry-run"]) == 0
    assert "equal steps: 6" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr("genobj.cli.studying._devices", lambda *_: [])
    assert genobj(["compare", "s.toml"]) == 0
    told = capsys.readouterr().out
    assert "DuMo is better (us)" in told
    folder = tmp_path / "runs" / "studies" / "tiny"
    assert {"report.html", "results.json", "table.md", "study.toml"} <= {path.name for path in folder.iterdir()}
    assert len(list((tmp_path / "runs" / "cells").glob("*-moons-*"))) == 4
    monkeypatch.setattr("genobj.studies.worker.Run", None)
    assert genobj(["compare", "s.toml"]) == 0
    assert "4 of them done before" in capsys.readouterr().out
