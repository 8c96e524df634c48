"""What `genobj compare` and `genobj reproduce` share: the plan of a study, its progress, and what came out."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from genobj.cli.scores import SILENCE, console, wide

if TYPE_CHECKING:
    from genobj.studies import tables
    from genobj.studies.conduct import Conductor
    from genobj.studies.plan import Job, Row
    from genobj.studies.results import Results
    from genobj.studies.study import Study
    from genobj.studies.worker import Task

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings of the study, as in seeds=[0] or budget.amount=500.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option(help="The study's folder [dim](runs/studies/NAME if not given)[/dim].")]
Runs = Annotated[
    Path | None, typer.Option(help="Where its runs are kept, for all studies [dim](runs/cells if not given)[/dim].")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at the same time [dim](chosen if not given)[/dim].")]
Devices = Annotated[
    str | None, typer.Option(metavar="cuda:0,cuda:1", help="Devices to share the runs out to; one process each.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the runs and what each may spend; train nothing.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try runs again that diverged.")]
Open = Annotated[bool, typer.Option("--open", help="Open the report in the browser.")]


class Asked(NamedTuple):
    """What the flags say."""

    out: Path | None
    runs: Path | None
    jobs: int | None
    devices: str | None
    plugins: list[str]
    dry_run: bool
    retry: bool
    browse: bool


def start(verb: str, names: list[str], scale: str | None, overrides: list[str], asked: Asked) -> None:
    """Run what is left of a study, print its table and verdicts, write its report."""
    from genobj.config.load import fingerprint, recipe_names
    from genobj.studies.study import find, load, of_recipes, scales

    if len(names) == 1 and names[0] not in recipe_names():
        path = find(names[0])
        sizes = scales(path)
        chosen = scale or (sizes[0] if sizes else None)
        study = load(path, chosen, overrides, asked.plugins)
    elif scale is None:
        chosen, study = None, of_recipes(names, overrides, asked.plugins)
    else:
        raise ValueError(f"--scale {scale}: recipes have one size; leave it out")
    flags = {"--scale": scale, "--out": asked.out, "--runs": asked.runs, "--devices": asked.devices}
    told = [f"{flag} {value}" for flag, value in flags.items() if value is not None]
    told += [f"--plugin {shlex.quote(file)}" for file in asked.plugins]
    again = " ".join(["genobj", verb, *map(shlex.quote, names), *told, *map(shlex.quote, overrides)])
    place = [study.name, *([chosen] if chosen else [])]
    if overrides:  # the results of another size are not replaced
        place.append(fingerprint({"changes": overrides})[:4])
    conduct(study, chosen or "", "-".join(place), again, asked)


def conduct(study: "Study", scale: str, place: str, again: str, asked: Asked) -> None:
    """Run what is left. place: name of its folder; again: the command that goes on after a stop."""
    from genobj.studies.conduct import CELLS, STUDIES, Conductor
    from genobj.studies.plan import rows

    if study.measure == "cost":
        return bill(study, rows(study))
    conductor = Conductor(study, asked.out or STUDIES / place, asked.runs or CELLS, scale=scale)
    conductor.devices = _devices(conductor, asked.jobs, asked.devices)
    if asked.dry_run:
        return plan(conductor)
    if study.measure == "scores":
        if study.budget is not None and study.budget.kind == "seconds":
            with console.status("measuring speeds, in turn"):
                conductor.jobs()
        if asked.retry and (tried := conductor.again()):
            console.print(f"{tried} runs that diverged are tried again")
    results = _run(conductor, again)
    tell(results, conductor.folder, browse=asked.browse)
    if all(cell.state == "failed" for cell in results.cells):
        raise typer.Exit(1)


def _devices(conductor: "Conductor", jobs: int | None, devices: str | None) -> list[str | None]:
    """A device for every process: what was asked for, every GPU, or as many CPU cores as small networks can use."""
    import torch

    from genobj.training.distributed import SMALL

    budget, have = conductor.study.budget, torch.cuda.device_count()
    named: list[str | None] = [f"cuda:{i}" for i in range(have)]
    if devices is not None:
        named = [name.strip() for name in devices.split(",")]
        known = {"cpu", "cuda", *(f"cuda:{i}" for i in range(have))} if have else {"cpu"}
        if wrong := [name for name in named if name not in known]:
            raise ValueError(f"--devices: there is no device {wrong[0]!r} here; there is {', '.join(sorted(known))}")
    if named:
        return [named[i % len(named)] for i in range(jobs or len(named))]
    timed = budget is not None and budget.kind == "seconds"
    small = all(sum(row.counted.parameters.values()) < SMALL for row in conductor.rows)
    return [None] * (jobs or (1 if timed or not small else len(os.sched_getaffinity(0))))


def _run(conductor: "Conductor", again: str) -> "Results":
    """Run it under a bar; Stopped tells how to go on."""
    from genobj.run import Stopped
    from genobj.studies.conduct import firsts

    study = conductor.study
    if study.measure == "speed":
        with console.status("timing"):
            return conductor.run(Bars([]))
    jobs = {job.folder for job in conductor.jobs()}
    left = firsts(conductor.left(), lambda job: job.folder)
    kept = f", {len(jobs) - len(left)} of them done before" if len(left) < len(jobs) else ""
    console.print(f"[bold]{study.title or study.name}[/bold]")
    console.print(f"{len(conductor.rows)} variants, seeds {', '.join(map(str, study.seeds))}: {len(jobs)} runs{kept}")
    try:
        with Bars(left) as bars:
            return conductor.run(bars)
    except Stopped:
        raise Stopped(f"stopped, and saved what was running; go on with: {again}") from None


class Bars:
    """Bars for the study and the runs that are going on; on no terminal a line for every run that ends."""

    def __init__(self, left: "Sequence[Job]"):
        self.work = {job.folder: job.experiment.train.steps * job.experiment.train.batch for job in left}
        self.count, self.ended_count = len(left), 0
        self.done = dict.fromkeys(self.work, 0)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"))
        clock = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(*columns, *clock, console=console, disable=not console.is_terminal)
        self.lines: dict[Path, TaskID] = {}
        self.started = self._spoke = monotonic()

    def __enter__(self) -> "Bars":
        if self.count:
            self.bar.start()
            self.all = self.bar.add_task(self._title(), total=sum(self.work.values()))
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begun(self, task: "Task") -> None:
        """A line for this run."""
        folder, job = task.job.folder, task.job
        if folder in self.work and folder not in self.lines:
            title = escape(f"  {job.variant}, seed {job.seed}")
            self.lines[folder] = self.bar.add_task(title, total=self.work[folder])

    def beat(self, task: "Task", step: int) -> None:
        """So many steps are done."""
        self._move(task, step * task.job.experiment.train.batch)
        if not console.is_terminal and monotonic() - self._spoke > SILENCE:
            self._speak(f"{task.job.variant}, seed {task.job.seed}: step {step}")

    def ended(self, task: "Task", error: str) -> None:
        """It is done, or went wrong; a part of it is no end."""
        job = task.job
        if task.until is not None and not error:
            return
        self.ended_count += 1
        self._move(task, self.work.get(job.folder, 0))
        if job.folder in self.lines:
            self.bar.remove_task(self.lines.pop(job.folder))
            self.bar.update(self.all, description=self._title())
        if error:
            console.print("[red]failed[/red]   ", escape(f"{job.variant}, seed {job.seed}: {error}"), soft_wrap=True)
        elif not console.is_terminal:
            self._speak(f"{job.variant}, seed {job.seed}: done")

    def _move(self, task: "Task", done: int) -> None:
        folder = task.job.folder
        if folder in self.lines:
            self.done[folder] = done
            self.bar.update(self.lines[folder], completed=done)
            self.bar.update(self.all, completed=sum(self.done.values()))

    def _title(self) -> str:
        return f"{self.ended_count} of {self.count} runs"

    def _speak(self, what: str) -> None:
        self._spoke = monotonic()
        share = sum(self.done.values()) / max(1, sum(self.work.values()))
        minutes = (self._spoke - self.started) * (1 - share) / max(share, 1e-9) / 60
        left = f", about {minutes:.0f} minutes left" if share and minutes >= 1 else ""
        console.print(escape(f"{self._title()}{left}; {what}"), soft_wrap=True)


def plan(conductor: "Conductor") -> None:
    """What every variant would be trained with."""
    study = conductor.study
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("variant", "steps", "samples", "passes each", "passes in all", "parameters", "runs left"):
        table.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    timed = study.budget is not None and study.budget.kind == "seconds"
    jobs = [] if timed or study.measure == "speed" else conductor.jobs()
    unscored = conductor.left() if jobs else []
    for row in conductor.rows:
        mine = [job for job in jobs if job.variant == row.name]
        size = sum(row.counted.parameters.values())
        told = ["", "", f"{row.passes:g}", "", f"{size:,}", ""]
        if mine:
            train = mine[0].experiment.train
            seen, left = train.steps * train.batch, sum(job in unscored for job in mine)
            diverged = sum(job.failure.exists() for job in mine)
            told[0], told[1], told[3] = f"{train.steps:,}", f"{seen:,}", f"{seen * row.passes:,.0f}"
            told[5] = f"{left}" + (f", {diverged} diverged" if diverged else "")
        table.add_row(escape(row.name), *told)
    wide().print(table)
    if study.measure == "speed":
        return console.print(f"{study.rounds} interleaved rounds of each; nothing is trained")
    if timed:
        console.print("steps follow from speeds, which are measured when it is run")
    if study.budget is not None:
        console.print(f"equal {study.budget.kind}: {study.budget.amount:,g}; seeds {', '.join(map(str, study.seeds))}")


def bill(study: "Study", rows: "list[Row]") -> None:
    """What the study would cost on GPUs; nothing is run."""
    from genobj.studies.bill import RATE, bills

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("variant", "steps", "batch", "passes", "parameters", "EFLOP", "GPU-hours"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    total = 0.0
    for b in bills(study, rows):
        hours = b.hours()
        total += hours
        size = f"{b.parameters / 1e6:.4g}M"
        table.add_row(
            escape(b.name),
            f"{b.steps:,}",
            str(b.batch),
            f"{b.passes:g}",
            size,
            f"{b.flops / 1e18:,.0f}",
            f"{hours:,.0f}",
        )
    console.print(f"[bold]{study.title or study.name}[/bold]")
    wide().print(table)
    seeds = f"seeds {', '.join(map(str, study.seeds))}"
    console.print(
        f"{total:,.0f} GPU-hours for {seeds}, if a GPU does {RATE / 1e12:.0f} TFLOP/s (assumed: 45 % of an H200's rate "
        "in bf16); training only. This size is counted, not run: `genobj train` takes its recipes on your cluster.",
        soft_wrap=True,
    )


def tell(results: "Results", folder: Path, *, browse: bool) -> None:
    """The table, the verdicts, and where the rest lies."""
    from genobj.studies import tables
    from genobj.studies.report import write
    from genobj.training.folder import write as put

    summary(results)
    put(folder / "table.md", tables.markdown(results))
    with console.status("drawing the report"):
        report = write(results, folder / "report.html", folder=folder)
    console.print(f"report    {report}", soft_wrap=True)
    console.print(f"table     {folder / 'table.md'}", soft_wrap=True)
    console.print(f"numbers   {folder / 'results.json'}", soft_wrap=True)
    if browse:
        typer.launch(str(report.resolve()))


def _score(results: "Results", row: "tables.Row", measure: "tables.Measure") -> str:
    """Mean and deviation, with a star at the best."""
    from genobj.studies import tables

    score = row.scores.get(measure)
    told = tables.plus_minus(results.about(measure[0]), score.summary) if score else ""
    return f"{told} {'*' if score and score.best else ' '}"


def summary(results: "Results") -> None:
    """A row for every variant, then the claims, then what failed."""
    from genobj.studies import tables

    measures = results.measures()
    lines = [
        (row.variant.name, [_score(results, row, measure) for measure in measures]) for row in tables.rows(results)
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    for i, (metric, nfe) in enumerate(measures):
        widest = max((len(scores[i]) for _, scores in lines), default=0)
        table.add_column(tables.heading(results.about(metric), nfe), justify="right", min_width=widest)
    for name, scores in lines:
        table.add_row(escape(name), *scores)
    wide().print(table)
    if measures:
        console.print("mean +- standard deviation over seeds; * the best", style="dim")
    colours = {"agrees": "green", "disagrees": "red", "inconclusive": "yellow"}
    for verdict in results.verdicts:
        colour = colours[verdict.verdict]
        says = escape(f"{verdict.says} ({verdict.source})")
        console.print(f"[{colour}]{verdict.verdict:<12}[/{colour}]  {says}", soft_wrap=True)
        console.print(escape(f"              {verdict.measured}"), style="dim", soft_wrap=True)
    for cell in results.failed():
        console.print("[red]failed[/red]   ", escape(f"{cell.variant}, seed {cell.seed}: {cell.error}"), soft_wrap=True)
