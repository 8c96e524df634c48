"""How the variants of a study look in all of its figures: what they are called, their colours, their legend."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from markupsafe import Markup

from genobj.studies.charts import HUES, Ink, ramp, swatch
from genobj.studies.courses import varying, word
from genobj.studies.picked import picked
from genobj.studies.results import Results
from genobj.studies.tables import label

POINTS = 6
"""Points of a group up to which each has its own line in legends; more of them go from pale to dark."""


class Entry(NamedTuple):
    """A line of a legend; the variant's number, if it is one's."""

    swatch: Markup
    title: str
    variant: int | None = None


@dataclass(frozen=True)
class Styles:
    """Names, colours and legends of a study's variants."""

    results: Results

    @cached_property
    def inks(self) -> dict[str, Ink]:
        """How every variant is drawn: a hue for each group, shades and dashes along its points.

        Where there are more groups than hues, the picked variants have hues of their own, and all others are grey.
        """
        if self.picked:
            order = {name: i for i, name in enumerate(self.picked)}
            return {v: Ink(order.get(v, 0), 2, order.get(v, i), i, dim=v not in order) for v, i in self.numbers.items()}
        made = dict[str, Ink]()
        for i, group in enumerate(self.groups):
            points = self.results.group(group)
            for k, variant in enumerate(points):
                shade = 2 if len(points) == 1 else round(4 * k / (len(points) - 1))
                made[variant.name] = Ink(i, shade, k if len(points) > 1 else i, i)
        return made

    @cached_property
    def picked(self) -> list[str]:
        """Variants with colours, in the order of their rows; none where every group can have a hue."""
        return picked(self.results, self.metrics[0]) if len(self.groups) > HUES and self.metrics else []

    @cached_property
    def seeds(self) -> int:
        """How many there are."""
        return len({cell.seed for cell in self.results.cells})

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
        """Every variant, or a group of many points as one line; of many variants those that have colours."""
        if self.picked:
            grey = next((self.inks[v] for v in self.numbers if v not in self.picked), Ink(dim=True))
            return [*(self.entries[v] for v in self.picked), Entry(swatch(grey), "all others")]
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
