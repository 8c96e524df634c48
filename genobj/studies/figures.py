"""A study's figures: sweeps and heat maps, metrics against evaluations and over training, cosines of gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from markupsafe import Markup

from genobj.metrics.records import Record
from genobj.studies.charts import Ink, Series, Spot, Tile, heat, lines, ramp, short, swatch
from genobj.studies.courses import Course, cosines, courses, in_order, mean, places, thinned, varying, word
from genobj.studies.results import Results, Variant
from genobj.studies.statistics import summary
from genobj.studies.tables import label

BESIDE = 4
"""Variants without axes up to which each is a level line beside a sweep."""
POINTS = 6
"""Points of a group up to which each has its own line in legends; more of them go from pale to dark."""
PAIRS = 6
"""Pairs of objectives whose cosines are drawn."""
FEW = 8
"""Lines up to which each has bars at its points."""
TIMES = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From so many seconds on, time is told in units of so many."""
SWEEP = "Mean over seeds; bars reach from the lowest to the highest seed."
MEANS = "Mean over seeds; point at a line to see which variant it is."
CURVES = "Mean over seeds; the band, where lines are few, reaches from the lowest to the highest seed."
APART = " Values at the end, of another number of samples, stand apart from their curves."
HEAT = "Mean over seeds. The stronger the colour, the better; the best field has a frame."
COSINE = "1: both pull the same way; 0: neither minds the other; below 0: they pull against each other."


class Plot(NamedTuple):
    """One of the charts of a figure, and which choices of the page show it; None: any."""

    svg: Markup
    metric: int | None = None
    nfe: int | None = None
    x: str | None = None


class Entry(NamedTuple):
    """A line of a legend; the variant's number, if it is one's."""

    swatch: Markup
    title: str
    variant: int | None = None


@dataclass(frozen=True)
class Figure:
    """Charts of which one is shown at a time, with what they have in common."""

    title: str
    note: str
    plots: Sequence[Plot]
    legend: Sequence[Entry] = ()
    level: str = ""
    """What the dotted line is, where there is one."""


@dataclass(frozen=True)
class Figures:
    """Draws the figures of a study."""

    results: Results

    @cached_property
    def inks(self) -> dict[str, Ink]:
        """How every variant is drawn: a hue for each group, shades and dashes along its points."""
        made = dict[str, Ink]()
        for i, group in enumerate(self.groups):
            points = self.results.group(group)
            for k, variant in enumerate(points):
                shade = 2 if len(points) == 1 else round(4 * k / (len(points) - 1))
                made[variant.name] = Ink(i, shade, k if len(points) > 1 else i, i)
        return made

    @cached_property
    def labels(self) -> dict[str, str]:
        """What every variant is called."""
        return {variant.name: label(self.results, variant.name) for variant in self.results.variants}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Place of every variant, by which the page knows it."""
        return {variant.name: i for i, variant in enumerate(self.results.variants)}

    @cached_property
    def groups(self) -> list[str]:
        """Names of the groups, in order."""
        return list(dict.fromkeys(variant.group for variant in self.results.variants))

    @cached_property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of their first appearance."""
        return list(dict.fromkeys(metric for metric, _ in self.results.measures()))

    @cached_property
    def evaluations(self) -> list[int]:
        """The numbers of evaluations that scores were made with, rising."""
        return sorted({nfe for _, nfe in self.results.measures()})

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every variant's line of a legend."""
        return {v: Entry(swatch(self.inks[v]), self.labels[v], i) for v, i in self.numbers.items()}

    @cached_property
    def legend(self) -> list[Entry]:
        """Every variant, or a group of many points as one line."""
        made = list[Entry]()
        for group in self.groups:
            variants = self.results.group(group)
            axes = varying(variants)
            if len(variants) <= POINTS or not axes:
                made += [self.entries[variant.name] for variant in variants]
                continue
            ends = [" ".join(f"{axis}={word(v.point[axis])}" for axis in axes) for v in (variants[0], variants[-1])]
            title = f"{variants[0].title.partition('[')[0] or group} {ends[0]} to {ends[1]}"
            made.append(Entry(ramp(self.inks[variants[0].name]), title))
        return made

    def every(self) -> list[Figure]:
        """Those against settings first: they are what studies are made for."""
        if not self.results.measures():
            return []
        return [*self.sweeps(), *self.heats(), *self.by_evaluations(), *self.over_training()]

    def sweeps(self) -> list[Figure]:
        """A figure for every axis that is the only one of its groups: metrics against the axis (DuMo Fig. 3, 4a)."""
        found = dict[str, list[str]]()
        for group in self.groups:
            axes = varying(self.results.group(group))
            if len(axes) == 1:
                found.setdefault(axes[0], []).append(group)
        return [self._sweep(axis, groups) for axis, groups in found.items()]

    def _sweep(self, axis: str, groups: Sequence[str]) -> Figure:
        there = {group: [v for v in self.results.group(group) if axis in v.point] for group in groups}
        values = in_order(v.point[axis] for variants in there.values() for v in variants)
        at = dict(zip(map(repr, values), places(values), strict=True))
        alone = [v for v in self.results.variants if not v.point][:BESIDE]
        inks = {group: Ink(self.inks[there[group][0].name].hue, 2, i, i) for i, group in enumerate(groups)}
        titles = {group: self.results.group(group)[0].title.partition("[")[0] or group for group in groups}
        plots = list[Plot]()
        for metric, nfe in self.results.measures():
            series = list[Series]()
            for group, variants in there.items():
                spots = [self._spot(v, metric, nfe, at[repr(v.point[axis])]) for v in variants]
                series.append(Series(titles[group], sorted(filter(None, spots)), inks[group]))
            for v in alone:
                ends = [self._spot(v, metric, nfe, x) for x in (min(at.values()), max(at.values()))]
                series.append(self._series(v, [*filter(None, ends)]))
            chart = self._lines(
                series, metric, f"against {axis}", x=axis, at=[*at.values()], names=[*map(word, values)], bars=True
            )
            plots.append(self._plot(chart, metric, nfe))
        legend = [Entry(swatch(inks[group]), titles[group]) for group in groups]
        return Figure(f"Against {axis}", SWEEP, plots, [*legend, *(self.entries[v.name] for v in alone)], _floor(plots))

    def heats(self) -> list[Figure]:
        """A heat map for every group with two axes (DuMo Fig. 4c)."""
        made = list[Figure]()
        for group in self.groups:
            variants = self.results.group(group)
            axes = varying(variants)
            variants = [v for v in variants if all(axis in v.point for axis in axes)]
            if len(axes) == 2 and all(len({repr(v.point[a]) for v in variants}) < len(variants) for a in axes):
                plots = [self._heat(variants, axes, metric, nfe) for metric, nfe in self.results.measures()]
                title = variants[0].title.partition("[")[0] or group
                made.append(Figure(f"{title}: {axes[0]} and {axes[1]}", HEAT, plots))
        return made

    def _heat(self, variants: Sequence[Variant], axes: Sequence[str], metric: str, nfe: int) -> Plot:
        (x, y), record = axes, self.results.about(metric)
        xs, ys = (in_order(v.point[axis] for v in variants) for axis in axes)
        title = record.title or metric
        tiles = {(xs.index(v.point[x]), ys.index(v.point[y])): self._tile(v, record, nfe) for v in variants}
        known = {place: tile for place, tile in tiles.items() if tile is not None}
        up = record.higher_is_better
        chart = heat(known, [*map(word, xs)], [*map(word, ys)], title=title, x=x, y=y, up=up)
        return self._plot(chart, metric, nfe)

    def by_evaluations(self) -> list[Figure]:
        """Every metric against the number of evaluations; nothing where there is one number only."""
        counts = [nfe for nfe in self.evaluations if nfe > 0]
        if len(counts) < 2:
            return []
        plots = list[Plot]()
        for i, metric in enumerate(self.metrics):
            series = [
                self._series(v, [*filter(None, (self._spot(v, metric, nfe, float(nfe)) for nfe in counts))])
                for v in self.results.variants
            ]
            chart = self._lines(
                series,
                metric,
                "by number of evaluations",
                x="network evaluations per sample",
                at=[float(nfe) for nfe in counts],
                log_x=True,
                bars=len(series) <= FEW,
            )
            plots.append(Plot(chart, metric=i))
        return [
            Figure(
                "Against network evaluations",
                SWEEP if len(self.numbers) <= FEW else MEANS,
                plots,
                self.legend,
                _floor(plots),
            )
        ]

    def over_training(self) -> list[Figure]:
        """Every metric against steps, samples and time; nothing without scores during training."""
        if not any(cell.curve for cell in self.results.cells):
            return []
        longest = max(cell.seconds for cell in self.results.cells)
        unit, clock = next((unit, name) for least, unit, name in TIMES if longest >= least)
        axes = {"step": ("steps", 1.0), "seen": ("training samples", 1.0), "time": (f"{clock} of training", unit)}
        plots, note = list[Plot](), CURVES
        for metric, nfe in self.results.measures():
            for x, (title, scale) in axes.items():
                series = [self._series(v, self._curve(v, metric, nfe, x, scale)) for v in self.results.variants]
                if any(one.spots for one in series):
                    note = CURVES + APART if any(s.apart for one in series for s in one.spots) else note
                    plots.append(self._plot(self._lines(series, metric, "during training", x=title), metric, nfe, x))
        return [Figure("During training", note, plots, self.legend, _floor(plots))] if plots else []

    @cached_property
    def _course(self) -> dict[tuple[str, str, int], Course]:
        return courses(self.results.cells)

    def _curve(self, variant: Variant, metric: str, nfe: int, x: str, scale: int | float) -> list[Spot]:
        """Means over a variant's cells at their looks, then at their end."""
        course, factor = self._course.get((variant.name, metric, nfe)), self.results.about(metric).factor
        if course is None or not course.looks:
            return []

        def spot(found: Sequence[tuple[Mapping[str, int | float], Record]]) -> Spot:
            middle = math.fsum(place[x] for place, _ in found) / len(found)
            return mean(middle / scale, [record.value * factor for _, record in found])

        spots = thinned([spot(course.looks[step]) for step in sorted(course.looks)])
        if course.ends:
            spots.append(spot(course.ends)._replace(apart=course.sizes != course.end_sizes))
        return spots

    def cosines(self) -> list[Figure]:
        """Cosines of the objectives' gradients on the trunk, a figure for every pair that some run logged."""
        found = dict[str, dict[str, dict[int, list[float]]]]()
        for cell in self.results.cells:
            for step, key, value in cosines(cell):
                found.setdefault(key, {}).setdefault(cell.variant, {}).setdefault(step, []).append(value)
        made = list[Figure]()
        for key, variants in sorted(found.items())[:PAIRS]:
            a, b = key.split("/", 2)[1:]
            series = [
                self._series(v, thinned([mean(step, y) for step, y in sorted(variants[v.name].items())]))
                for v in self.results.variants
                if v.name in variants
            ]
            chart = lines(series, title=f"Cosine of the gradients of {a} and {b}", x="steps", y="cosine", level=0.0)
            entries = [entry for name, entry in self.entries.items() if name in variants]
            made.append(Figure(f"{a} and {b}", COSINE, [Plot(chart)], entries))
        return made

    def _lines(
        self,
        series: Sequence[Series],
        metric: str,
        what: str,
        *,
        x: str,
        at: Sequence[float] = (),
        names: Sequence[str] = (),
        log_x: bool | None = None,
        bars: bool = False,
    ) -> Markup:
        record, kept = self.results.about(metric), [one for one in series if one.spots]
        level = None if record.floor is None else record.floor * record.factor
        y, style = record.title or metric, "sweep" if bars else "curve"
        return lines(kept, title=f"{y} {what}", x=x, y=y, at=at, names=names, log_x=log_x, level=level, style=style)

    def _series(self, variant: Variant, spots: Sequence[Spot]) -> Series:
        name = variant.name
        return Series(self.labels[name], spots, self.inks[name], self.numbers[name])

    def _spot(self, variant: Variant, metric: str, nfe: int, x: int | float) -> Spot | None:
        """Final values of a variant; None if it has none."""
        factor = self.results.about(metric).factor
        values = [value * factor for value in self.results.values(variant.name, metric, nfe).values()]
        if not values:
            return None
        spot = mean(x, values)
        several = f" ({short(spot.low)} to {short(spot.high)}, {len(values)} seeds)" if len(values) > 1 else ""
        return spot._replace(label=f"{self.labels[variant.name]}: {short(spot.y)}{several}")

    def _tile(self, variant: Variant, record: Record, nfe: int) -> Tile | None:
        values = self.results.values(variant.name, record.metric, nfe)
        if not values:
            return None
        found = summary(values.values())
        value = math.nan if found.broken else found.mean * record.factor
        told = "diverged" if found.broken else short(value)
        whole = f"{self.labels[variant.name]}: {told}, {len(values)} seeds"
        return Tile(value, told, whole, self.numbers[variant.name])

    def _plot(self, chart: Markup, metric: str, nfe: int, x: str | None = None) -> Plot:
        return Plot(chart, self.metrics.index(metric), self.evaluations.index(nfe), x)


def _floor(plots: Sequence[Plot]) -> str:
    """What a dotted line in figures of metrics is, where one of them has it."""
    return "real data" if any('class="level"' in plot.svg for plot in plots) else ""


def headline(record: Record) -> str:
    """Title of a metric, with its better side."""
    return f"{record.title or record.metric} {'↑' if record.higher_is_better else '↓'}"
