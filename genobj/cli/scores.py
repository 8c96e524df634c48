"""What a person sees of an evaluation: a counter while it runs, a table at its end."""

import json
from collections.abc import Collection, Sequence
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from genobj.metrics.records import Record
from genobj.studies.floors import beyond, excess

console = Console(highlight=False)
WIDE = 200
"""Columns of a table that goes into a file."""
MANY = 4
"""Metrics up to which each has a column of its own."""
MARK = "^"
"""Beside values above real data's, of which higher is no better."""
SILENCE = 30.0
"""Seconds between two lines where there is no terminal."""


def wide() -> Console:
    """Where a table goes: the terminal, or a file with long lines."""
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


class Counter:
    """A bar for every sampler on a terminal; a line now and then elsewhere, and nothing if it is quiet."""

    def __init__(self, *, quiet: bool = False):
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        self.bar = Bar(*columns, TimeRemainingColumn(), console=console, disable=quiet or not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.quiet, self._spoke = quiet, monotonic()

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, what: str, done: int, total: int | None) -> None:
        """So much of it is done; total: of how much, None where nobody knows."""
        self.bar.start()  # not before: a terminal shows one bar at a time
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total)
        self.bar.update(self.tasks[what], completed=done)
        if self.bar.disable and not self.quiet and monotonic() - self._spoke > SILENCE:
            self._spoke = monotonic()
            console.print(f"{what}: {done}" + (f" of {total}" if total else ""))


def scores(records: Sequence[Record]) -> None:
    """A table of metrics and numbers of evaluations; the last row is what real data score, and MARK is beyond it."""
    if not records:
        return console.print("no metric fits these data; name some with evaluation.metrics=[...]")
    names = list(dict.fromkeys(record.metric for record in records))
    columns = {name: [heading(_first(records, name))] for name in names}
    rows: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in records:
        label = (str(record.nfe), record.sampler, record.head, json.dumps(record.settings))
        rows.setdefault(label, {})[record.metric] = record
    over = dict.fromkeys(record.metric for record in records if beyond(record, record.value))
    left = [["NFE", "sampler, head"]]
    for (nfe, sampler, head, settings), row in rows.items():
        left.append([nfe, f"{sampler}{_told(settings)}, {head}"])
        for name in names:
            columns[name].append(_marked(row[name], over) if name in row else "")
    firsts = [_first(records, name) for name in names]
    if any(first.floor is not None for first in firsts):
        left.append(["", "real data"])
        for first in firsts:
            columns[first.metric].append(number(first, first.floor) + " " * (first.metric in over))
    _print(left, list(columns.values()))
    if over:
        console.print(f"{MARK}  {excess(_first(records, name) for name in over)}", style="dim", soft_wrap=True)
    for line in _how(firsts):
        console.print(line, style="dim", soft_wrap=True)


def _marked(record: Record, over: Collection[str]) -> str:
    """A value, and whether real data score less; numbers of a metric that has such values stand in line."""
    mark = MARK if beyond(record, record.value) else " " * (record.metric in over)
    return number(record, record.value) + mark


def _told(settings: str) -> str:
    """What a sampler was told besides its number of steps, as in ' (kappa=0.5, grid=listed)'."""
    told = {name: value for name, value in json.loads(settings).items() if name != "steps"}
    kinds = {name: value.get("kind", "...") if isinstance(value, dict) else value for name, value in told.items()}
    return f" ({', '.join(f'{name}={value}' for name, value in kinds.items())})" if kinds else ""


def _print(left: Sequence[Sequence[str]], columns: Sequence[Sequence[str]]) -> None:
    """A row for every line of `left`, or where metrics are many a row for each of them."""
    many = len(columns) > MANY
    first, *lines = [*left] if not many else [["", *(" ".join(label) for label in left[1:])], *columns]
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(first):
        table.add_column(title, justify="left" if i == (0 if many else 1) else "right")
    for column in [] if many else columns:
        table.add_column(column[0], justify="right")
    for i, line in enumerate(lines, 1):
        cells = line if many else [*line, *(column[i] for column in columns)]
        table.add_row(*cells, style="dim" if cells[0] == "" else None)
    wide().print(table)


def heading(record: Record) -> str:
    """Title of a metric, with its better side; its name too where it is not the usual one."""
    title = record.title or record.metric
    named = title if record.metric.split(".")[0] == record.kind else f"{record.metric}: {title}"
    return f"{named} ({'higher' if record.higher_is_better else 'lower'} is better)"


def number(record: Record, value: float | None) -> str:
    """A value in the unit of its metric."""
    return "" if value is None else f"{value * record.factor:.3g}"


def _how(records: Sequence[Record]) -> list[str]:
    """How the values were measured, in a line or two."""
    first, against, seen = records[0], dict[str, None](), dict[str, None]()
    for record in records:
        protocol = record.protocol or {}
        reference, extractor = protocol.get("reference") or {}, protocol.get("extractor")
        if "file" in reference:
            against[f"{reference['file']} ({record.reference or 'some'} images, {reference['sha256'][:8]})"] = None
        elif record.reference:
            against[str(record.reference)] = None
        if extractor:
            rounded = f" ({protocol['rounding']} to 8 bits)" if protocol.get("rounding") else ""
            seen[f"{extractor['name']} {extractor['sha256'][:8]}{rounded}"] = None
    others = f" ({first.floor_n} in the last row)" if first.floor is not None and first.floor_n != first.n else ""
    compared = f" against {' and '.join(against)}" if against else ""
    how = f"{first.n} samples{others}{compared}, seed {first.seed}, {first.weights}"
    return [how, f"features of {' and '.join(seen)}"] if seen else [how]


def _first(records: Sequence[Record], name: str) -> Record:
    return next(record for record in records if record.metric == name)
