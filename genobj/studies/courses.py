"""What figures are made of: places on axes, means over seeds, scores and cosines by step."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from genobj.metrics.records import Record
from genobj.studies.axes import Real, short
from genobj.studies.charts import Spot
from genobj.studies.results import Cell, Look, Value, Variant
from genobj.training.diagnose import LOG

LOOKS = 24
"""Points of a curve at most."""


class Course(NamedTuple):
    """Scores of a variant's cells by one measure, each with its step, samples and seconds."""

    looks: dict[int, list[tuple[dict[str, Real], Record]]]
    ends: list[tuple[dict[str, Real], Record]]
    sizes: set[int]
    """Numbers of samples that were scored during training."""
    end_sizes: set[int]


class Lost(NamedTuple):
    """A run that failed, and what it had scored by then: places and values."""

    cell: Cell
    values: list[tuple[Real, Real]]


def courses(cells: Iterable[Cell], passes: Mapping[str, Real]) -> dict[tuple[str, str, int], Course]:
    """What was scored when, by variant, metric and number of evaluations.

    passes: network evaluations a training sample, by variant. Runs that failed are left out: see `lost`.
    """
    found = dict[tuple[str, str, int], Course]()
    for cell in (cell for cell in cells if cell.state == "done"):
        last = Look(cell.steps, cell.seen, cell.seconds, cell.records)
        for look in (*cell.curve, last):
            place = _place(look, passes.get(cell.variant, 0.0))
            for record in look.records:
                course = found.setdefault((cell.variant, record.metric, record.nfe), Course({}, [], set(), set()))
                (course.ends if look is last else course.looks.setdefault(look.step, [])).append((place, record))
                (course.end_sizes if look is last else course.sizes).add(record.n)
    return found


def lost(cells: Iterable[Cell], metric: str, nfe: int, x: str, passes: Mapping[str, Real]) -> Iterator[Lost]:
    """Scores during training of every run that failed, where it has some."""
    for cell in cells:
        if cell.state == "failed":
            places = [(_place(look, passes.get(cell.variant, 0.0))[x], look.records) for look in cell.curve]
            found = [(at, r.value) for at, records in places for r in records if (r.metric, r.nfe) == (metric, nfe)]
            if found:
                yield Lost(cell, found)


def _place(look: Look, passes: Real) -> dict[str, Real]:
    """Where a look lies on each of the x axes."""
    return {"step": look.step, "seen": look.seen, "passes": look.seen * passes, "time": look.seconds}


def varying(variants: Sequence[Variant]) -> list[str]:
    """Axes on which variants lie at several places."""
    names = dict.fromkeys(axis for variant in variants for axis in variant.point)
    return [axis for axis in names if len({repr(variant.point.get(axis)) for variant in variants}) > 1]


def mean(x: Real, values: Sequence[float]) -> Spot:
    """Mean and range of the finite values."""
    good = [value for value in values if math.isfinite(value)]
    if not good:
        return Spot(x, math.nan, math.nan, math.nan, "", True)
    return Spot(x, math.fsum(good) / len(good), min(good), max(good), "", len(good) < len(values))


def thinned(spots: Sequence[Spot]) -> list[Spot]:
    """At most LOOKS of them, evenly, with the last one."""
    step = max(-(-len(spots) // LOOKS), 1)
    return [spot for i, spot in enumerate(spots) if (len(spots) - 1 - i) % step == 0]


def in_order(values: Iterable[Value]) -> list[Value]:
    """Different values, numbers by size, words as they come."""
    some = list(dict.fromkeys(values))
    return some if _numeric(some) is None else sorted(some, key=float)


def places(values: Sequence[Value]) -> list[float]:
    """Where values lie on their axis: numbers at their size, words one after the other."""
    return _numeric(values) or [float(i) for i in range(len(values))]


def _numeric(values: Sequence[Value]) -> list[float] | None:
    """The values as numbers; None if one of them is a word or a switch."""
    if any(isinstance(value, bool | str) for value in values):
        return None
    return [float(value) for value in values]


def word(value: Value) -> str:
    """A value on an axis, in words."""
    return short(value) if isinstance(value, Real) and not isinstance(value, bool) else str(value)


def cosines(cell: Cell) -> Iterator[tuple[int, str, Real]]:
    """Step, name and value of every cosine in a run's diagnostics; a torn last line is left out."""
    file = Path(cell.folder) / LOG
    if not cell.folder or not file.is_file():
        return
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line: Mapping[str, float] = json.loads(text)
        except ValueError:
            return
        for key, value in line.items():
            if key.startswith("cosine/"):
                yield int(line["step"]), key, value
