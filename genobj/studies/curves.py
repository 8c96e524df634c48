"""Scores during training as lines of charts: means over seeds, runs that failed, what real data score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from genobj.metrics.records import Record
from genobj.studies.axes import Real
from genobj.studies.charts import Series, Spot
from genobj.studies.courses import Course, courses, lost, mean, thinned
from genobj.studies.results import Variant
from genobj.studies.styles import Styles

TIMES = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From so many seconds on, time is told in units of so many."""


@dataclass(frozen=True)
class Curves:
    """What a study's runs scored while they trained."""

    styles: Styles

    @cached_property
    def spans(self) -> dict[str, tuple[str, Real]]:
        """What training is measured by: the axis' title, and what its numbers are divided by."""
        longest = max(cell.seconds for cell in self.styles.results.cells)
        unit, clock = next((unit, name) for least, unit, name in TIMES if longest >= least)
        passes: dict[str, tuple[str, Real]] = {"passes": ("network evaluations of training samples (passes)", 1.0)}
        start: dict[str, tuple[str, Real]] = {"step": ("steps", 1.0), "seen": ("training samples", 1.0)}
        known = all(self.passes.values())
        return start | (passes if known else {}) | {"time": (f"{clock} of training", unit)}

    @cached_property
    def passes(self) -> dict[str, Real]:
        """Network evaluations a training sample, by variant."""
        return {variant.name: variant.passes for variant in self.styles.results.variants}

    @cached_property
    def _course(self) -> dict[tuple[str, str, int], Course]:
        return courses(self.styles.results.cells, self.passes)

    def floor(self, metric: str, nfe: int) -> float | None:
        """What as many real samples score as the curves are made of; None where this is not known."""
        looks = [
            record
            for (_, name, count), course in self._course.items()
            if (name, count) == (metric, nfe)
            for found in course.looks.values()
            for _, record in found
        ]
        alike = {(record.n, record.floor_n, record.floor) for record in looks}
        (_, floor_n, floor), record = next(iter(alike), (0, 0, None)), self.styles.results.about(metric)
        if len(alike) == 1 and floor is not None:
            return floor * record.factor
        alike_end = {one.n for one in looks} == {record.n} and floor_n in (0, record.floor_n)
        return record.floor * record.factor if alike_end and record.floor is not None else None

    def lost(self, metric: str, nfe: int, x: str, scale: Real) -> list[Series]:
        """A line of its own for every run that failed."""
        made, factor = list[Series](), self.styles.results.about(metric).factor
        for cell, values in lost(self.styles.results.cells, metric, nfe, x, self.passes):
            spots = [mean(at / scale, [value * factor]) for at, value in values]
            name = cell.variant
            title = f"{self.styles.labels[name]}, seed {cell.seed}"
            made.append(Series(title, spots, self.styles.inks[name], self.styles.numbers[name], lost=True))
        return made

    def spots(self, variant: Variant, metric: str, nfe: int, x: str, scale: Real) -> list[Spot]:
        """Means over a variant's cells at their looks, then at their end."""
        course, factor = self._course.get((variant.name, metric, nfe)), self.styles.results.about(metric).factor
        if course is None or not course.looks:
            return []

        def spot(found: Sequence[tuple[Mapping[str, Real], Record]]) -> Spot:
            return mean(median(place[x] for place, _ in found) / scale, [record.value * factor for _, record in found])

        spots = thinned([spot(course.looks[step]) for step in sorted(course.looks)])
        if course.ends:
            spots.append(spot(course.ends)._replace(apart=course.sizes != course.end_sizes))
        return spots
