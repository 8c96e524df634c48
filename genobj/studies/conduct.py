"""A study from its settings to its results: what is missing is run, the rest is read, claims are judged."""

import json
import platform
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import genobj
from genobj import bench
from genobj.config.load import Layers, find_recipe, fingerprint, leaves, parse_override, read_toml, write_toml
from genobj.experiment import FREE, Experiment
from genobj.metrics.records import Record, read_records
from genobj.run import RUNS, SCORES, Stopped
from genobj.studies.claims import judge
from genobj.studies.collect import curve, lines, seconds
from genobj.studies.crew import Crew, Watcher, alone
from genobj.studies.plan import Job, Row, jobs, on, rows
from genobj.studies.results import Cell, CellState, Results, Variant
from genobj.studies.study import Study
from genobj.studies.words import flat
from genobj.studies.worker import Task
from genobj.training.folder import environment, write

UNSAID = frozenset({"seed", "name", "expected"})
"""Settings that a variant's command says otherwise, or not at all."""
CELLS = RUNS / "cells"
"""Where the runs of all studies are kept: equal settings are run once."""
STUDIES = RUNS / "studies"
"""Where studies are kept."""
ROUNDS = 5
"""Interleaved rounds in which speeds are measured for budgets of seconds."""
Show = Callable[[str], object]
"""Told in a line what is prepared."""


class Conductor:
    """A study in a folder of its own.

    folder: where results go. runs: where runs are kept. devices: one process for each (None: as the recipe says); none
    at all: everything is done in this process. Raises ValueError for settings that do not fit.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        runs: Path = CELLS,
        *,
        scale: str = "",
        devices: Sequence[str | None] = (),
        show: Show = lambda line: None,
    ):
        self.study, self.scale, self.folder, self.devices, self.show = study, scale, folder, devices, show
        self.runs, self.rows = runs, rows(study)
        self._jobs: list[Job] | None = None

    def jobs(self) -> list[Job]:
        """Every run of the study. Budgets of seconds measure speeds first, once."""
        if self._jobs is None:
            timed = self.study.budget is not None and self.study.budget.kind == "seconds"
            self._jobs = jobs(self.study, self.rows, self.runs, self._seconds() if timed else {})
        return self._jobs

    def tasks(self) -> list[Task]:
        """What is left to do: runs without scores, in slices where time is shared."""
        budget, tasks = self.study.budget, list[Task]()
        slices = budget.slices if budget is not None and budget.kind == "seconds" else 1
        last: dict[Path | None, int] = {}  # number of the last task of every folder
        for seed in self.study.seeds:
            left = [job for job in self.left() if job.seed == seed]
            for starts in (False, True):  # runs that start from others come after all their slices
                wave = [job for job in left if (job.after is not None) == starts]
                runs = firsts(wave, lambda job: job.folder)  # one run may be scored in several ways
                for part in range(1, slices + 1):
                    for job in wave if part == slices else runs:
                        until = max(1, job.experiment.train.steps * part // slices) if part < slices else None
                        needs = frozenset(last[f] for f in (job.folder, job.after) if f in last)
                        last[job.folder] = len(tasks)
                        tasks.append(Task(job, until, needs))
        return tasks

    def left(self) -> list[Job]:
        """What has no scores yet, and did not diverge; equal settings under two names are one."""
        unscored = [job for job in self.jobs() if not job.scores.exists() and not job.failure.exists()]
        return firsts(unscored, lambda job: job.scores)

    def again(self) -> int:
        """Forget which runs failed, so that they are tried again; how many."""
        failed = [job for job in self.jobs() if job.failure.exists()]
        for job in failed:
            job.failure.unlink()
        return len(failed)

    def run(self, watcher: Watcher) -> Results:
        """Do what is left, then judge and save. Raises Stopped if a signal asks for it: the same call goes on then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / "study.toml", write_toml(self.study.model_dump(mode="json", exclude_none=True)))
        if self.study.measure == "speed":
            return self._saved(self._speeds())
        tasks = self.tasks()
        try:
            do = Crew(self.devices, self.folder / "logs") if self.devices and tasks else alone
            errors = do(tasks, watcher)
        except Stopped:
            self._saved(self.collect())
            raise
        return self._saved(self.collect({tasks[number].job.folder: error for number, error in errors.items()}))

    def collect(self, errors: Mapping[Path, str] | None = None) -> Results:
        """What the runs' folders say, whole or not; errors: by folder, of runs that went wrong just now."""
        cells = tuple(self._cell(job, (errors or {}).get(job.folder, "")) for job in self.jobs())
        return self._results(cells)

    def _saved(self, results: Results) -> Results:
        judged = replace(results, verdicts=judge(self.study.claims, results))
        judged.save(self.folder / "results.json")
        return judged

    def _results(self, cells: tuple[Cell, ...]) -> Results:
        study = self.study.model_dump(mode="json", exclude_none=True)
        made = environment() | {"genobj": genobj.__version__, "folder": str(Path.cwd())}
        first = {} if self.study.measure == "speed" else {job.variant: job for job in reversed(self.jobs())}
        variants = tuple(self._variant(row, first.get(row.name)) for row in self.rows)
        return Results(study, self.scale, variants, cells, made, (), genobj.__version__)

    def _variant(self, row: Row, job: Job | None) -> Variant:
        experiment = job.experiment if job else row.experiment
        command = command_of(row.change.recipe or self.study.recipe, experiment) or self._kept(row, experiment)
        size = sum(row.counted.parameters.values())
        return Variant(row.name, row.group, row.title, row.point, command, experiment.tree(), row.passes, size)

    def _kept(self, row: Row, experiment: Experiment) -> str:
        """Its settings in a file beside the results, for what no command line can say."""
        file = self.folder / "variants" / f"{row.name}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, write_toml(experiment.tree()))
        return f"genobj train -r {shlex.quote(str(file))}"

    def _cell(self, job: Job, error: str) -> Cell:
        e = job.experiment
        diverged = job.failure.exists()
        if diverged:
            error = json.loads(job.failure.read_text(encoding="utf-8"))["error"]
        looks = tuple(curve(job.folder / SCORES))
        if not job.scores.exists():
            state: CellState = "failed" if error else "missing"
            return Cell(job.variant, job.seed, state, str(job.folder), error, curve=looks, diverged=diverged)
        row = next(row for row in self.rows if row.name == job.variant)
        seen = e.train.steps * e.train.batch
        return Cell(
            job.variant,
            job.seed,
            "done",
            str(job.folder),
            steps=e.train.steps,
            seen=seen,
            passes=seen * row.passes,
            seconds=seconds(lines(job.folder / "metrics.jsonl")),
            records=tuple(read_records(job.scores)),
            curve=looks,
        )

    def _seconds(self) -> dict[str, float]:
        """Seconds a step of every variant on the first device, measured in turn, once for a study's folder."""
        file, device = self.folder / "speeds.json", _device(self.devices)
        keys = {row.name: f"{fingerprint(_without_length(row))} {device}" for row in self.rows}
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if not known.keys() >= set(keys.values()):
            reports = self._timed(ROUNDS)
            known = {keys[report.name]: report.step.median for report in reports}
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps(known, indent=1) + "\n")
        return {name: known[key] for name, key in keys.items()}

    def _timed(self, rounds: int) -> list[bench.Report]:
        """Every variant's step, timed in interleaved rounds."""
        device = self.devices[0] if self.devices else None
        experiments = {row.name: on(row.experiment, device) for row in self.rows}
        reports = bench.measure(experiments, rounds=rounds, limit=float("inf"), show=self.show)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return reports

    def _speeds(self) -> Results:
        """A cell for every variant and round; measured once, until the settings or the machine change."""
        trees = [_without_length(row) for row in self.rows]
        key = fingerprint({"trees": trees, "device": _device(self.devices), "rounds": self.study.rounds})
        file = self.folder / f"speed-{key}.json"
        if not file.exists():
            reports = self._timed(self.study.rounds)
            table = [{**report.as_dict(), "wall": report.wall, "busy": report.busy} for report in reports]
            write(file, json.dumps(table, indent=1) + "\n")
        table = json.loads(file.read_text(encoding="utf-8"))
        cells = [
            Cell(told["name"], number, "done", steps=told["steps_per_round"], seconds=second * told["steps_per_round"])
            for told in table
            for number, second in enumerate(told["busy"])
        ]
        speeds = {told["name"]: told for told in table}
        return self._results(tuple(replace(c, records=(_speed(c, speeds[c.variant]),)) for c in cells))


def _speed(cell: Cell, told: Mapping[str, Any]) -> Record:
    """Steps a second in one round."""
    return Record(
        metric="speed",
        kind="speed",
        value=cell.steps / cell.seconds,
        floor=None,
        floor_n=0,
        nfe=0,
        sampler="",
        head="",
        settings={},
        weights="",
        n=cell.steps,
        reference=None,
        seed=cell.seed,
        higher_is_better=True,
        title="steps a second",
        protocol={key: told[key] for key in ("device", "threads", "precision", "batch", "data")},
        genobj=genobj.__version__,
    )


def firsts(planned: Iterable[Job], key: Callable[[Job], Path]) -> list[Job]:
    """The first job of every key."""
    found: dict[Path, Job] = {}
    for job in planned:
        found.setdefault(key(job), job)
    return list(found.values())


def _without_length(row: Row) -> dict[str, Any]:
    """What decides how long a step takes: settings and versions."""
    tree = row.experiment.tree()
    train = {key: value for key, value in tree["train"].items() if key not in ("steps", "device")}
    made = {"torch": torch.__version__, "genobj": genobj.__version__, "distributed": tree.get("distributed")}
    return row.experiment.learns() | {"train": train} | made


def command_of(recipe: str, experiment: Experiment) -> str:
    """The command line that trains it with what the recipe says otherwise; '' if there is none."""
    tree = read_toml(find_recipe(recipe))
    base, wanted = Experiment.model_validate(tree), experiment.tree()
    said = dict(leaves(base.tree()))
    layers = Layers()
    layers.add(tree, recipe)
    texts, metrics = list[str](), list(wanted["evaluation"]["metrics"])
    if metrics != list(base.evaluation.metrics):
        texts.append(f"evaluation.metrics={json.dumps(metrics)}")
        layers.put(*parse_override(texts[-1]), recipe)
    for key, value in leaves(wanted):
        if key.startswith("evaluation.metrics."):
            continue
        if said.get(key) != value and not {key, key.partition(".")[0]} & (UNSAID | FREE - {"evaluation"}):
            texts.append(f"{key}={_literal(value)}")
            layers.put(*parse_override(texts[-1]), key)
    try:
        made = Experiment.model_validate(layers.tree)
    except ValueError:
        return ""
    same = (made.learns(), made.evaluation) == (experiment.learns(), experiment.evaluation)
    words = ["genobj", "train", "-r", recipe, *texts, "--seed", str(experiment.seed)]
    return shlex.join(words) if same else ""


def _literal(value: Any) -> str:
    """A TOML value."""
    return flat(write_toml({"v": value}).removeprefix("v = ").strip()) if not isinstance(value, str) else value


def _device(devices: Sequence[str | None]) -> str:
    """Name of the machine that speeds belong to."""
    first = devices[0] if devices and devices[0] else ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.cuda.get_device_name(torch.device(first)) if first.startswith("cuda") else _processor()


def _processor() -> str:
    """The model of the machine's processors."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
