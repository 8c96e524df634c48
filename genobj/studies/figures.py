"""A study's figures: sweeps and heat maps, metrics against evaluations and over training, cosines of gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from genobj.metrics.records import Record
from genobj.studies.axes import Real, short
from genobj.studies.charts import Ink, Series, Spot, lines, swatch
from genobj.studies.courses import cosines, in_order, mean, places, thinned, varying, word
from genobj.studies.curves import Curves
from genobj.studies.heatmaps import Tile, heat
from genobj.studies.picked import baseline
from genobj.studies.results import Variant
from genobj.studies.statistics import summary
from genobj.studies.styles import Entry, Styles

BESIDE = 4
"""Variants without axes up to which each is a level line beside a sweep."""
PAIRS = 6
"""Pairs of objectives whose cosines are drawn."""
FEW = 8
"""Lines up to which each has bars at its points; charts of more are as wide as the page."""
BARS = "; bars reach from the lowest to the highest seed"
BAND = "; the band, where lines are few, reaches from the lowest to the highest seed"
ARROW = " An arrow: a value far above all others, which no line leads to."
POINT = " Point at a line to see which variant it is."
APART = " Values at the end, of another number of samples, stand apart from their curves."
SHARED = (
    " Runs may have shared the machine: passes compare what methods cost, time tells only how long these runs took."
)
FAILED = " Thin lines that end in a cross: runs that failed, one by one; means are without them."
HEAT = " The stronger the colour, the better; the best field has a frame."
GREY = " In colours, by {}: the best one at each number of evaluations{}, and the next ones on the whole."
COSINE = "1: both pull the same way; 0: neither minds the other; below 0: they pull against each other."


class Plot(NamedTuple):
    """One of the charts of a figure, and which choices of the page show it; None: any."""

    svg: Markup
    metric: int | None = None
    nfe: int | None = None
    x: str | None = None


@dataclass(frozen=True)
class Figure:
    """Charts of which one is shown at a time, with what they have in common."""

    title: str
    note: str
    plots: Sequence[Plot]
    legend: Sequence[Entry] = ()
    level: str = ""
    """What the dotted line is, where there is one."""
    broad: bool = False
    """Whether its charts are as wide as the page."""


@dataclass(frozen=True)
class Figures(Styles):
    """Draws the figures of a study."""

    def every(self) -> list[Figure]:
        """Those against settings first: they are what studies are made for."""
        if not self.results.measures():
            return []
        return [*self.sweeps(), *self.heats(), *self.by_evaluations(), *self.over_training()]

    def sweeps(self) -> list[Figure]:
        """A figure for every axis that is the only one of its groups: metrics against the axis (DuMo Fig. 3, 4a).

        Axes that the study calls `together` share one.
        """
        together = [tuple(axes) for axes in self.results.study.get("together", ())]
        found = dict[tuple[str, ...], dict[str, str]]()
        for group in self.groups:
            axes = varying(self.results.group(group))
            if len(axes) == 1:
                key = next((several for several in together if axes[0] in several), (axes[0],))
                found.setdefault(key, {})[group] = axes[0]
        return [self._sweep(groups) for groups in found.values()]

    def _sweep(self, groups: Mapping[str, str]) -> Figure:
        """Groups by name, each with its axis, over one x axis."""
        axis = " and ".join(dict.fromkeys(groups.values()))
        there = {group: [v for v in self.results.group(group) if own in v.point] for group, own in groups.items()}
        values = in_order(v.point[groups[group]] for group, variants in there.items() for v in variants)
        at = dict(zip(map(repr, values), places(values), strict=True))
        alone = [v for v in self.results.variants if not v.point][:BESIDE]
        inks = {group: Ink(self.groups.index(group), 2, i, i) for i, group in enumerate(groups)}
        titles = {group: self.results.group(group)[0].title.partition("[")[0] or group for group in groups}
        if len(set(groups.values())) > 1:
            titles = {group: f"{title} ({groups[group]})" for group, title in titles.items()}
        plots = list[Plot]()
        for metric, nfe in self.results.measures():
            series = list[Series]()
            for group, variants in there.items():
                spots = [self._spot(v, metric, nfe, at[repr(v.point[groups[group]])]) for v in variants]
                series.append(Series(titles[group], sorted(filter(None, spots)), inks[group]))
            for v in alone:
                ends = [self._spot(v, metric, nfe, x) for x in (min(at.values()), max(at.values()))]
                series.append(self._series(v, [*filter(None, ends)]))
            chart = self._lines(
                series,
                metric,
                f"against {axis}",
                x=axis,
                at=[*at.values()],
                names=[*map(word, values)],
                bars=True,
                cap=True,
                level=self._end_floor(metric),
            )
            plots.append(self._plot(chart, metric, nfe))
        legend = [Entry(swatch(inks[group]), titles[group]) for group in groups]
        legend += [self.entries[v.name] for v in alone]
        note = self._note(BARS) + (ARROW if any('class="arrow"' in plot.svg for plot in plots) else "")
        return Figure(f"Against {axis}", note, plots, legend, _floor(plots))

    def heats(self) -> list[Figure]:
        """A heat map for every group with two axes (DuMo Fig. 4c), all of one measure in the same colours."""
        found = dict[str, tuple[list[Variant], list[str]]]()
        for group in self.groups:
            variants = self.results.group(group)
            axes = varying(variants)
            variants = [v for v in variants if all(axis in v.point for axis in axes)]
            if len(axes) == 2 and all(len({repr(v.point[a]) for v in variants}) < len(variants) for a in axes):
                found[group] = variants, axes
        every = [variant for variants, _ in found.values() for variant in variants]
        made = list[Figure]()
        for group, (variants, axes) in found.items():
            plots = [self._heat(variants, axes, measure, every) for measure in self.results.measures()]
            title = variants[0].title.partition("[")[0] or group
            made.append(Figure(f"{title}: {axes[0]} and {axes[1]}", self._note() + HEAT, plots))
        return made

    def _heat(
        self, variants: Sequence[Variant], axes: Sequence[str], measure: tuple[str, int], every: Sequence[Variant]
    ) -> Plot:
        """One map; every: the variants of all maps, whose values share the colours."""
        (x, y), (metric, nfe) = axes, measure
        record = self.results.about(metric)
        xs, ys = (in_order(v.point[axis] for v in variants) for axis in axes)
        known = {
            (xs.index(v.point[x]), ys.index(v.point[y])): tile
            for v in variants
            if (tile := self._tile(v, record, nfe)) is not None
        }
        among = [tile.value for v in every if (tile := self._tile(v, record, nfe)) is not None]
        up, title = record.higher_is_better, record.title or metric
        most = record.floor * record.factor if up and record.floor is not None else math.inf
        chart = heat(known, [*map(word, xs)], [*map(word, ys)], title=title, x=x, y=y, up=up, among=among, most=most)
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
                bars=not self._many,
                broad=self._many,
                level=self._end_floor(metric),
            )
            plots.append(Plot(chart, metric=i))
        note = self._note() + POINT + self._grey if self._many else self._note(BARS)
        return [Figure("Against network evaluations", note, plots, self.legend, _floor(plots), self._many)]

    @property
    def _many(self) -> bool:
        """Whether charts of all variants are as wide as the page."""
        return len(self.numbers) > FEW

    def _note(self, spread: str = "") -> str:
        """What values are, and how their spread is drawn, where there is any."""
        return f"Mean over seeds{spread}." if self.seeds > 1 else "One seed."

    @property
    def _grey(self) -> str:
        """Which variants have colours, where not all of them do."""
        if not self.picked:
            return ""
        title = self.results.about(self.metrics[0]).title or self.metrics[0]
        return GREY.format(title, ", the baseline" if {*baseline(self.results)} & {*self.picked} else "")

    def over_training(self) -> list[Figure]:
        """Every metric against steps, samples, passes and time; nothing without scores during training."""
        if not any(cell.curve for cell in self.results.cells):
            return []
        curves = Curves(self)
        plots, notes = list[Plot](), {self._note("" if self._many else BAND) + self._grey: None}
        for metric, nfe in self.results.measures():
            for x, (title, scale) in curves.spans.items():
                series = [self._series(v, curves.spots(v, metric, nfe, x, scale)) for v in self.results.variants]
                failed = curves.lost(metric, nfe, x, scale)
                if not any(one.spots for one in (*series, *failed)):
                    continue
                notes |= {APART: None} if any(s.apart for one in series for s in one.spots) else {}
                notes |= {FAILED: None} if failed else {}
                notes |= {SHARED: None} if x == "time" else {}
                level = curves.floor(metric, nfe)
                lines_of = [*series, *failed]
                chart = self._lines(lines_of, metric, "during training", x=title, level=level, broad=self._many)
                plots.append(self._plot(chart, metric, nfe, x))
        if not plots:
            return []
        return [Figure("During training", "".join(notes), plots, self.legend, _floor(plots), self._many)]

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
            title = f"Cosine of the gradients of {a} and {b}"
            # the same ends for all pairs, and never logarithmic: the sign is what they are read for
            broad = len(series) > FEW
            ends = (-1.0, 1.0)
            chart = lines(series, title=title, x="steps", y="cosine", level=0.0, log_y=False, span=ends, broad=broad)
            entries = [entry for name, entry in self.entries.items() if name in variants]
            made.append(Figure(f"{a} and {b}", COSINE, [Plot(chart)], entries, broad=broad))
        return made

    def without_cosines(self) -> str:
        """Why cosines are not drawn of all runs that measured some: a sentence, or nothing."""
        asked = {v.name for v in self.results.variants if v.settings.get("diagnose", {}).get("every")}
        done = [cell for cell in self.results.cells if cell.state == "done" and cell.variant in asked]
        gone = [cell for cell in done if not Path(cell.folder).is_dir() or not cell.folder]
        few = f"{len(gone)} of {len(done)} runs that measured them are not at hand"
        return f"{few}: their cosines are not drawn." if gone else ""

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
        cap: bool = False,
        broad: bool = False,
        level: float | None = None,
    ) -> Markup:
        """level: what real data score in the metric's shown unit; None: nothing is drawn."""
        kept = [one for one in series if one.spots]
        y, style = self.results.about(metric).title or metric, "sweep" if bars else "curve"
        title = f"{y} {what}"
        return lines(
            kept,
            title=title,
            x=x,
            y=y,
            at=at,
            names=names,
            log_x=log_x,
            level=level,
            style=style,
            cap=cap,
            broad=broad,
        )

    def _end_floor(self, metric: str) -> float | None:
        """What real data score beside final values."""
        record = self.results.about(metric)
        return None if record.floor is None else record.floor * record.factor

    def _series(self, variant: Variant, spots: Sequence[Spot]) -> Series:
        name = variant.name
        return Series(self.labels[name], spots, self.inks[name], self.numbers[name])

    def _spot(self, variant: Variant, metric: str, nfe: int, x: Real) -> Spot | None:
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
        spread = f" ± {short(found.spread * record.factor)}" if math.isfinite(found.spread) else ""
        whole = f"{self.labels[variant.name]}: {told}{spread}, {len(values)} seeds"
        return Tile(value, told, whole, self.numbers[variant.name])

    def _plot(self, chart: Markup, metric: str, nfe: int, x: str | None = None) -> Plot:
        return Plot(chart, self.metrics.index(metric), self.evaluations.index(nfe), x)


def _floor(plots: Sequence[Plot]) -> str:
    """What a dotted line in figures of metrics is, where some of them have it."""
    drawn = sum('class="level"' in plot.svg for plot in plots)
    return "" if not drawn else "real data" if drawn == len(plots) else "real data, where they are near"


def headline(record: Record) -> str:
    """Title of a metric, with its better side."""
    return f"{record.title or record.metric} {'↑' if record.higher_is_better else '↓'}"
