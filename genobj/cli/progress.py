"""What a person sees during training and after it."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from genobj.evaluation import Record
from genobj.parts import METRICS
from genobj.run import Run
from genobj.training.log import Line

console = Console(highlight=False)


class Progress:
    """A bar with ETA, losses and throughput on a terminal; a plain line now and then elsewhere."""

    def __init__(self, run: Run):
        self.run, self.terms = run, list(run.experiment.objectives)
        self.total = run.experiment.train.steps
        self._told = run.state.step
        self.bar = Bar(
            TextColumn("train"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Progress":
        e, model = self.run.experiment, self.run.model
        heads = ", ".join(f"{head} ({horizon})" for head, horizon in e.horizons.items())
        size = sum(p.numel() for p in model.parameters())
        data, trunk = e.tree()["data"]["kind"], e.tree()["backbone"]["kind"]
        world, device = self.run.ranks.world, self.run.device.type
        where = f"{world} x {device}, {e.distributed.chosen(world)}" if world > 1 else f"{self.run.device}"
        console.print(f"[bold]{e.name}[/bold]  {trunk} with {size:,} parameters on {data}, {where}")
        console.print(f"heads {heads}; objectives {', '.join(self.terms)}; run {self.run.folder}")
        if self._told:
            console.print(f"resumed at step {self._told}")
        self.bar.start()
        self.task = self.bar.add_task("train", total=self.total, completed=self._told, losses="")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, line: Line) -> None:
        """Take in a line of the log."""
        step = int(line["step"])
        rate = line.get("samples_per_second")
        speed = f"  {rate:,.0f} samples/s" if rate else ""
        losses = "  ".join(f"{name} {line[name]:.4f}" for name in self.terms) + speed
        self.bar.update(self.task, completed=step, losses=losses)
        if step == self.total:
            self.bar.stop()
            console.print(f"trained   {losses}")
            console.print("evaluating ...")
        elif self.bar.disable and step - self._told >= self.total / 10:
            self._told = step
            console.print(f"step {step} of {self.total}   {losses}")


def scores(records: Sequence[Record]) -> None:
    """A table with a row per nfe and a column per metric; the floor is what real data score."""
    if not records:
        return console.print("no metric fits these data; name some with evaluation.metrics=[...]")
    names = list(dict.fromkeys(record.metric for record in records))
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("NFE", justify="right")
    table.add_column("sampler, head")
    for name in names:
        table.add_column(heading(name, records), justify="right")
    rows: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in records:
        label = (str(record.nfe), record.sampler, record.head, json.dumps(record.settings))
        rows.setdefault(label, {})[record.metric] = record
    for (nfe, sampler, head, _), row in rows.items():
        table.add_row(nfe, f"{sampler}, {head}", *(number(row[name], row[name].value) for name in names))
    firsts = [_first(records, name) for name in names]
    table.add_row("", "real data", *(number(first, first.floor) for first in firsts), style="dim")
    console.print(table)
    first = records[0]
    last = f" ({first.floor_n} in the last row)" if first.floor_n != first.n else ""
    console.print(f"[dim]{first.n} samples{last} against {first.reference}, seed {first.seed}, {first.weights}[/dim]")


def heading(name: str, records: Sequence[Record]) -> str:
    """Title of a metric, with its better side; its name too where two are of one kind."""
    record = _first(records, name)
    title = METRICS.get(record.kind).title if name == record.kind else f"{name}: {METRICS.get(record.kind).title}"
    return f"{title} ({'higher' if record.higher_is_better else 'lower'} is better)"


def number(record: Record, value: float) -> str:
    """A value in the unit of its metric."""
    return f"{value * METRICS.get(record.kind).factor:.3g}"


def _first(records: Sequence[Record], name: str) -> Record:
    return next(record for record in records if record.metric == name)
