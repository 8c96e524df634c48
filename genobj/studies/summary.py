"""The summary of a report: a row for every variant in words, and what its columns are sorted by."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from markupsafe import Markup

from genobj.config.load import leaves
from genobj.studies import tables
from genobj.studies.axes import DASH, MINUS
from genobj.studies.figures import Figures, headline
from genobj.studies.floors import excess
from genobj.studies.results import Cell, Results, Value
from genobj.studies.words import apart, one_line

COSTS = ("Steps", "Samples", "Passes", "Time")

TIMES = "\N{MULTIPLICATION SIGN}\N{NARROW NO-BREAK SPACE}"
AGAINST = (
    "Below each value: the variant against the baseline with the wider one of both intervals, as a ratio where all "
    "values are positive, else as a difference."
)
MEDIAN = "Time: the median over seeds."
SHARED = "Runs may have shared the machine: passes compare what methods cost, time does not."


class Head(NamedTuple):
    """A metric over its columns."""

    title: str
    up: bool
    """Whether higher values are better."""
    counts: Sequence[str]
    """Numbers of evaluations, in words."""


class Number(NamedTuple):
    """A field of the summary."""

    mean: str = ""
    spread: str = ""
    sort: float | None = None
    """What its column is sorted by; None: it stays last."""
    best: bool = False
    close: bool = False
    """Not the best, but not told apart from it."""
    beyond: str = ""
    """What is wrong with values above real data's, where it is one."""
    broken: str = ""
    difference: str = ""
    interval: str = ""
    word: str = ""
    """better or worse than the baseline, where that is significant."""


@dataclass(frozen=True)
class Line:
    """A variant."""

    swatch: Markup
    label: str
    seeds: int
    """Finished ones."""
    trouble: str
    cells: Sequence[Number]
    costs: Sequence[tuple[str, float, str]]
    """Means in words, and to sort by; of time the median, and its range over seeds."""
    about: str
    command: str
    settings: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Summary:
    """The whole table."""

    heads: Sequence[Head]
    costs: Sequence[str]
    lines: Sequence[Line]
    floors: Sequence[str]
    """What real data score in every column; empty where no metric tells."""
    legend: str
    """How to read it."""


def summary(results: Results, art: Figures) -> Summary:
    """The table of a study, in the order of its variants."""
    columns = [(m, n) for m in art.metrics for n in art.evaluations if (m, n) in set(results.measures())]
    about = [results.about(metric) for metric in art.metrics]
    heads = [
        Head(headline(one), one.higher_is_better, [f"{n} NFE" if n else "" for m, n in columns if m == one.metric])
        for one in about
    ]
    known = [i for i in range(len(COSTS)) if any(_costs(cell)[i] for cell in results.cells)]
    found = tables.rows(results)
    lines = [_line(results, art, row, columns, known) for row in found]
    floors = [(results.about(m), results.about(m).floor) for m, _ in columns]
    told = ["" if floor is None else tables.number(record, floor) for record, floor in floors]
    return Summary(
        heads,
        [COSTS[i] for i in known],
        lines,
        told if any(told) else [],
        _legend(results, tables.over(results, found), timed=COSTS.index("Time") in known),
    )


def _line(
    results: Results, art: Figures, row: tables.Row, columns: Sequence[tuple[str, int]], known: Sequence[int]
) -> Line:
    variant, cost = row.variant, row.cost
    clocks = [cell.seconds for cell in results.cells if cell.variant == variant.name and cell.state == "done"]
    trouble = {"failed": len(row.failed), "not finished": row.missing}
    sizes = [0.0] * 4 if cost is None else [cost.steps, cost.seen, cost.passes, median(clocks)]
    words = [*map(count, sizes[:3]), duration(sizes[3]) if sizes[3] else ""]
    ends = [duration(end) for end in (min(clocks), max(clocks))] if sizes[3] else []
    ranges = ["", "", "", f"{ends[0]} to {ends[1]}" if len(set(ends)) > 1 else ""]
    size = f"{variant.parameters:,} parameters" if variant.parameters else ""
    passes = f"{variant.passes:.3g} network evaluations a training sample and step" if variant.passes else ""
    return Line(
        art.entries[variant.name].swatch,
        row.label,
        len(clocks),
        ", ".join(f"{n} {what}" for what, n in trouble.items() if n),
        [_number(results, row, measure) for measure in columns],
        [(words[i], sizes[i], ranges[i]) for i in known],
        ", ".join(filter(None, (size, passes))),
        one_line(variant.command),
        [(key, plain(value)) for key, value in leaves(variant.settings)],
    )


def _costs(cell: Cell) -> tuple[int | float, ...]:
    return cell.steps, cell.seen, cell.passes, cell.seconds


def _number(results: Results, row: tables.Row, measure: tuple[str, int]) -> Number:
    score, record = row.scores.get(measure), results.about(measure[0])
    if score is None:
        return Number(DASH)
    found, pair = score.summary, score.difference
    mean, _, spread = tables.plus_minus(record, found).partition(" +- ")
    best = score.best and len(results.variants) > 1
    over = excess([record]) if score.beyond else ""
    close = score.close and found.n + found.broken > 1  # one seed tells nothing apart
    made = Number(mean, spread, found.mean, best, close, over)
    if found.broken:
        mean = tables.number(record, found.mean) if found.n else ""
        gone = f"{found.broken} of {found.n + found.broken} diverged"
        made = Number(mean, broken=gone, best=best, beyond=over)
    if pair is None:
        own = tables.baseline(results, *measure) == row.variant.name
        return made._replace(difference="baseline") if own else made
    told = apart(record, pair)
    middle, low, high = told if pair.ratio else map(_signed, told)
    better = pair.larger == record.higher_is_better
    return made._replace(
        difference=f"{TIMES}{middle}" if pair.ratio else middle,
        interval=f"({low} to {high})" if pair.n > 1 else "",
        word=("" if score.beyond and better else "better" if better else "worse") if pair.significant else "",
    )


def _legend(results: Results, over: str, *, timed: bool) -> str:
    """How to read the table; over: what is said of values above real data's."""
    if not results.measures():
        return "Nothing was scored."
    several, repeated = len(results.variants) > 1, len({cell.seed for cell in results.cells}) > 1
    parts = {
        "Arrows beside metrics point to their better side.": True,
        "Bold: the best mean of its column.": several and repeated,
        "Bold: the best value of its column.": several and not repeated,
        "Variants of which fewer runs diverged are better than all others.": several and bool(results.failed()),
        "± is the standard deviation over seeds.": repeated,
        "†: not significantly worse than the best one.": several and repeated,
        over: bool(over),
        tables.TEST: several and repeated,
        AGAINST: several and bool(results.study.get("baseline")),
        MEDIAN: timed and repeated,
        SHARED: timed and several,
    }
    return " ".join(words for words, said in parts.items() if said)


def duration(seconds: int | float) -> str:
    """'4.2 s', '48 s', '3 min 20 s', '5 h 12 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(value: int | float) -> str:
    """'4,000'; nothing for nothing."""
    return f"{value:,.0f}" if value >= 1 else ""


def plain(value: Value | Sequence[Any] | Mapping[str, Any] | None) -> str:
    """A value of a settings file, as it is typed there; words without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _signed(text: str) -> str:
    return text.replace("-", MINUS) if text.startswith("-") else f"+{text}"
