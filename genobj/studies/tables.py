"""A study as rows of numbers, and as a Markdown page."""

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from genobj.metrics.records import Record
from genobj.studies.floors import beyond, excess
from genobj.studies.results import Cell, Results, Value, Variant
from genobj.studies.samples import best, compare, sample, winner
from genobj.studies.statistics import Paired, Summary, paired
from genobj.studies.words import (
    INCONCLUSIVE,
    apart,
    count,
    digits,
    heading,
    label,
    number,
    one_line,
    plus_minus,
    shown,
)

Measure = tuple[str, int]
"""Metric and nfe."""


@dataclass(frozen=True)
class Score:
    """One variant by one measure, in the metric's own unit."""

    summary: Summary
    """Of its runs; `broken` counts those that diverged, in training or in their samples."""
    difference: Paired | None
    """Variant against baseline over seeds where both are finite; None for the baseline itself, and without one."""
    best: bool
    """The best mean of all variants that are not beyond real data, fewer diverged runs first."""
    close: bool
    """Not the best, not beyond real data, and not significantly worse than the best."""
    beyond: bool = False
    """Whether its mean lies above real data's where higher is better: no merit, see `floors`."""


@dataclass(frozen=True)
class Cost:
    """Means over the finished cells of a variant."""

    steps: float
    seen: float
    """Training samples."""
    passes: float
    """Network evaluations of training samples."""
    seconds: float
    """Of training alone."""


@dataclass(frozen=True)
class Row:
    """One variant."""

    variant: Variant
    label: str
    """Its title, told apart from the others'."""
    scores: dict[Measure, Score]
    """For each of results.measures() by which it has a value, or diverged."""
    failed: tuple[Cell, ...]
    missing: int
    """Cells that were not run."""
    cost: Cost | None
    """None if no cell is finished."""


def rows(results: Results) -> list[Row]:
    """A row for every variant, in their order."""
    scores: dict[str, dict[Measure, Score]] = {variant.name: {} for variant in results.variants}
    for measure in results.measures():
        for name, score in _scores(results, measure):
            scores[name][measure] = score
    return [_row(results, variant, scores[variant.name]) for variant in results.variants]


def _row(results: Results, variant: Variant, scores: dict[Measure, Score]) -> Row:
    cells = [cell for cell in results.cells if cell.variant == variant.name]
    failed = tuple(cell for cell in cells if cell.state == "failed")
    missing = sum(cell.state == "missing" for cell in cells)
    return Row(variant, label(results, variant.name), scores, failed, missing, _cost(cells))


def _cost(cells: Iterable[Cell]) -> Cost | None:
    done = [cell for cell in cells if cell.state == "done"]
    if not done:
        return None
    columns = zip(*((cell.steps, cell.seen, cell.passes, cell.seconds) for cell in done), strict=True)
    return Cost(*(math.fsum(column) / len(done) for column in columns))


def _scores(results: Results, measure: Measure) -> Iterator[tuple[str, Score]]:
    """Every variant that has a value by this measure, or diverged."""
    samples = {v.name: sample(results, v.name, *measure) for v in results.variants}
    known = {name: one for name, one in samples.items() if one.values}
    if not known:
        return
    record, base = results.about(measure[0]), baseline(results, *measure)
    higher, over = record.higher_is_better, {name for name, one in known.items() if beyond(record, one.summary.mean)}
    honest = [one for name, one in known.items() if name not in over]
    top = best(honest, higher) if honest else None
    for name, one in known.items():
        pair = None if base in (None, name) else paired(one.values, samples[base].values)
        versus = None if top is None or one is top else compare(one, top, higher)
        worse = versus is not None and winner(versus, higher) < 0
        yield name, Score(one.summary, pair, one is top, not (one is top or worse or name in over), name in over)


def baseline(results: Results, metric: str, nfe: int) -> str | None:
    """Name of the variant that others are compared with: results.study['baseline'], or the best point of that group.

    None where the study names none, or where that group has no value by this metric.
    """
    named = results.study.get("baseline")
    if named is None or any(variant.name == named for variant in results.variants):
        return named
    samples = [sample(results, variant.name, metric, nfe) for variant in results.group(named)]
    if not any(one.values for one in samples):
        return None
    return best(samples, results.about(metric).higher_is_better).variant.name


TEST = (
    "Two variants are compared seed by seed: by the ratio of their geometric means where all values of both are above "
    "zero, because errors of distances are multiplicative, and by their mean difference elsewhere. The 95 % intervals "
    "of the paired bootstrap and of Student's t both have to exclude that they are equal. Pairs are taken one by one: "
    "of twenty that are equal, one seems different by chance."
)
"""When variants count as different."""
LEGEND = (
    "Mean +- sample standard deviation over seeds. Bold: the best mean, fewer diverged runs first. "
    f"†: not significantly worse than it. {TEST}"
)
"""How to read scores and marks, in plain words."""
AGAINST = (
    "Over common seeds, with the wider one of both 95 % intervals: the ratio of geometric means to the baseline (1: "
    "equal), or the difference to it where a value is not above zero."
)
"""How to read comparisons with the baseline."""


def markdown(results: Results) -> str:
    """The whole study as a Markdown page: question, how it was run, tables, verdicts, failures, how to run it again."""
    study, found = results.study, rows(results)
    name = str(study.get("title") or study.get("name") or "Study")
    parts = [f"# {_text(name)}", _text(str(study.get("question", ""))), _how(results)]
    if results.verdicts:
        told = [f"- **{v.verdict}**: {_text(v.says)}{_source(v.source)}. {_text(v.measured)}" for v in results.verdicts]
        open_ones = any(v.verdict == "inconclusive" for v in results.verdicts)
        parts += ["## Claims", "\n".join(told), INCONCLUSIVE if open_ones else ""]
    if results.measures():
        parts += ["## Scores", _score_table(results, found), " ".join(filter(None, (LEGEND, over(results, found))))]
        parts += _differences(results, found)
        parts += _matrices(results, found)
    parts += ["## Cost", _cost_table(found), *_failures(results, found), *_again(results, found)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _how(results: Results) -> str:
    """What, how long, how often, and with what."""
    study, made = results.study, results.environment
    budget = study.get("budget") or {}
    speed = study.get("measure") == "speed"
    versions = {"genobj": results.genobj, "torch": made.get("torch"), "python": made.get("python")}
    again = sorted({cell.seed for cell in results.cells})
    given = {group: change.get("share", 1) for group, change in study.get("variants", {}).items()}
    lines = {
        "scale": results.scale,
        "budget of each run": f"{budget['amount']:g} {budget['kind']}" if budget else "",
        "but": ", ".join(f"{group} gets {share:g} times as much" for group, share in given.items() if share != 1),
        "rounds" if speed else "seeds": str(len(again)) if speed else ", ".join(map(str, again)),
        "machine": ", ".join(str(made[key]) for key in ("gpu", "system") if made.get(key)),
        "processors": made.get("processors", ""),
        "versions": ", ".join(f"{key} {value}" for key, value in versions.items() if value),
    }
    return "\n".join(f"- {key}: {_text(str(value))}" for key, value in lines.items() if value)


def _source(source: str) -> str:
    return f" ({_text(source)})" if source else ""


def _score_table(results: Results, found: Sequence[Row]) -> str:
    measures = results.measures()
    about = [results.about(metric) for metric, _ in measures]
    header = [_side(record, nfe) for record, (_, nfe) in zip(about, measures, strict=True)]
    lines = [
        [row.label, *(_score(record, row.scores.get(m)) for record, m in zip(about, measures, strict=True))]
        for row in found
    ]
    if any(record.floor is not None for record in about):
        lines.append(["real data", *("" if r.floor is None else number(r, r.floor) for r in about)])
    return _table(["variant", *header], lines)


def over(results: Results, found: Sequence[Row]) -> str:
    """The legend's sentence on values above real data's; nothing where there are none."""
    metrics = dict.fromkeys(metric for row in found for (metric, _), score in row.scores.items() if score.beyond)
    return f"‡: {excess(map(results.about, metrics))}; they are not compared with the best." if metrics else ""


def _side(record: Record, nfe: int) -> str:
    return f"{heading(record, nfe)} ({'higher' if record.higher_is_better else 'lower'} is better)"


def _score(record: Record, score: Score | None) -> str:
    if score is None:
        return ""
    told = plus_minus(record, score.summary)
    return f"**{told}**" if score.best else f"{told} †" if score.close else f"{told} ‡" if score.beyond else told


def _differences(results: Results, found: Sequence[Row]) -> list[str]:
    """Every variant against the baseline."""
    measures = [measure for measure in results.measures() if baseline(results, *measure) is not None]
    if not any(score.difference for row in found for score in row.scores.values()):
        return []
    header, against = list[str](), list[str]()
    for metric, nfe in measures:
        kind = "ratio" if _divided(found, (metric, nfe)) else "difference"
        header.append(f"{heading(results.about(metric), nfe)}: {kind} to baseline")
        against.append(label(results, str(baseline(results, metric, nfe))))
    same = set(against) == {against[0]}
    title = f"### Against {_text(against[0])}" if same else "### Against the baseline's best point"
    lines = [[row.label, *(_difference(results, found, row, measure) for measure in measures)] for row in found]
    lines += [] if same else [["baseline", *against]]
    return [title, _table(["variant", *header], lines), f"{AGAINST} Bold: significant."]


def _divided(found: Sequence[Row], measure: Measure) -> bool:
    """Whether ratios stand in a column; differences among them say that they are some."""
    pairs = [row.scores[measure].difference for row in found if measure in row.scores]
    return any(pair.ratio for pair in pairs if pair)


def _difference(results: Results, found: Sequence[Row], row: Row, measure: Measure) -> str:
    score = row.scores.get(measure)
    pair = score.difference if score else None
    if pair is None:
        return ""
    middle, low, high = apart(results.about(measure[0]), pair)
    told = f"difference {middle}" if _divided(found, measure) and not pair.ratio else middle
    told += f" ({low} to {high})" if pair.n > 1 else " (one seed)"
    return f"**{told}**" if pair.significant else told


def _matrices(results: Results, found: Sequence[Row]) -> list[str]:
    """For every group with two axes a table of its means, one axis down and one across."""
    parts = []
    for group in dict.fromkeys(row.variant.group for row in found):
        mine = [row for row in found if row.variant.group == group]
        axes = list(mine[0].variant.point)
        if len(axes) == 2 and all(len({row.variant.point[axis] for row in mine}) > 1 for axis in axes):
            for measure in results.measures():
                parts += [f"### {_text(group)}: {_side(results.about(measure[0]), measure[1])}"]
                parts += [_matrix(results, mine, axes, measure)]
    return parts


def _matrix(results: Results, found: Sequence[Row], axes: Sequence[str], measure: Measure) -> str:
    down, across = (list(dict.fromkeys(row.variant.point[axis] for row in found)) for axis in axes)
    record = results.about(measure[0])
    scored = {tuple(row.variant.point.values()): row.scores[measure] for row in found if measure in row.scores}
    honest = [score.summary for score in scored.values() if not score.beyond]
    finite = [summary.mean for summary in honest if summary.n and not summary.broken]
    top = (max if record.higher_is_better else min)(finite, default=math.nan)

    def entry(place: tuple[Value, Value]) -> str:
        if place not in scored:
            return ""
        found = scored[place].summary
        told = plus_minus(record, Summary(found.mean, math.nan, found.n, found.broken))
        return f"**{told}**" if found.mean == top and not found.broken else told

    lines = [[f"{axes[0]}={shown(one)}", *(entry((one, other)) for other in across)] for one in down]
    return _table(["", *(f"{axes[1]}={shown(other)}" for other in across)], lines)


def _cost_table(found: Sequence[Row]) -> str:
    """Means over finished runs; columns that say nothing are left out."""
    done = [(row, row.cost or Cost(0.0, 0.0, 0.0, 0.0)) for row in found]
    columns = {
        "steps": [count(cost.steps) for _, cost in done],
        "samples seen": [count(cost.seen) for _, cost in done],
        "passes": [count(cost.passes) for _, cost in done],
        "passes a sample and step": [digits(row.variant.passes) for row, _ in done],
        "seconds": [digits(cost.seconds) for _, cost in done],
        "parameters": [count(row.variant.parameters) for row, _ in done],
    }
    known = {title: column for title, column in columns.items() if set(column) != {"0"}}
    return _table(["variant", *known], [[row.label, *(c[i] for c in known.values())] for i, row in enumerate(found)])


def _failures(results: Results, found: Sequence[Row]) -> list[str]:
    """Runs without a result, kept apart from the tables."""
    lines = [
        f"- {_text(row.label)}, seed {cell.seed}: {_text(cell.error)}" + (f" (`{cell.folder}`)" if cell.folder else "")
        for row in found
        for cell in row.failed
    ]
    lines += [f"- {_text(row.label)}: {row.missing} missing" for row in found if row.missing]
    return ["## Failed and missing runs", "\n".join(lines)] if lines else []


def _again(results: Results, found: Sequence[Row]) -> list[str]:
    """The command of the whole study where it is known, and one for every row."""
    lines, argv = list[str](), [str(word) for word in results.environment.get("command", ())]
    if argv and Path(argv[0]).name in ("genobj", "__main__.py"):
        lines += [shlex.join(["genobj", *argv[1:]])]
    for row in found:
        lines += [f"# {row.label}", one_line(row.variant.command)] if row.variant.command else []
    return ["## Run it again", "```text\n" + "\n".join(lines) + "\n```"] if lines else []


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    every = [header, ["---", *("---:" for _ in header[1:])], *lines]
    return "\n".join("| " + " | ".join(_text(entry) for entry in line) + " |" for line in every)


def _text(words: str) -> str:
    """Words in one line that end no cell of a table and open no tag."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "\\<")
