"""What a study measured, as a claim asks for it: variants with all their seeds, comparisons, and the words for both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from genobj.metrics.records import Record, comparable
from genobj.studies.results import Results, Variant
from genobj.studies.samples import Sample, allowed, best, compare, divides, sample, winner
from genobj.studies.selectors import Selector
from genobj.studies.statistics import Paired
from genobj.studies.words import digits, gap, label, leaning, number, plus_minus


class Unknown(Exception):
    """Why nothing can be said."""


@dataclass(frozen=True)
class Pick:
    """One variant, perhaps as the best one of several."""

    sample: Sample
    points: int = 1
    """How many it was picked from."""


@dataclass(frozen=True)
class Evidence:
    """A study's results by one metric at one nfe. Its methods raise Unknown where runs or scores are missing."""

    results: Results
    record: Record
    """One of those by this metric, for its name, unit and direction."""
    nfe: int

    @classmethod
    def of(cls, results: Results, metric: str, nfe: int) -> "Evidence":
        """Unknown if nothing was scored so, or not all of it in the same way."""
        if (metric, nfe) not in results.measures():
            raise Unknown(f"no run has been scored by {metric}" + (f" at {nfe} NFE" if nfe else ""))
        told = [r for cell in results.cells for r in cell.records if r.metric == metric and r.protocol is not None]
        try:
            comparable(told)
        except ValueError as difference:
            raise Unknown(str(difference)) from None
        return cls(results, results.about(metric), nfe)

    @property
    def higher(self) -> bool:
        """Whether higher is better."""
        return self.record.higher_is_better

    @property
    def again(self) -> str:
        """What repeats a variant: a seed, or a round of a study of speed."""
        return "round" if self.results.study.get("measure") == "speed" else "seed"

    def pick_of(self, which: Selector) -> Pick:
        """The variant that is meant, or the best one of them."""
        own = self if which.nfe is None else replace(self, nfe=which.nfe)
        found = self.pick(own.samples(self.meant(which)))
        return replace(found, sample=replace(found.sample, nfe=which.nfe))

    def meant(self, which: Selector) -> list[Variant]:
        """The variants of a selector, one at least."""
        found = [variant for variant in self.results.variants if which.picks(variant.group, variant.point)]
        if not found:
            raise Unknown(f"the results hold no variant {which}")
        return found

    def samples(self, variants: Sequence[Variant]) -> list[Sample]:
        """What was measured of variants, each with a value for every seed."""
        found = [sample(self.results, variant.name, self.record.metric, self.nfe) for variant in variants]
        for one in found:
            for seed, why in one.gaps.items():
                raise Unknown(f"{self.name(one)}, {self.again} {seed} {why}")
        return found

    def pick(self, samples: Sequence[Sample]) -> Pick:
        """The best one."""
        return Pick(best(samples, self.higher), len(samples))

    def duel(self, left: Pick, right: Pick, margin: float = 0.0) -> tuple[int, str]:
        """1 if left is significantly better, -1 if right is, 0 if they are not told apart; and the words for it.

        margin: the share of right by which left may be worse and still win.
        """
        self.enough(left.sample, right.sample)
        points = left.points, right.points
        pair, moved = (self._compare(left.sample, right.sample, by) for by in (0.0, margin))
        won = winner(moved, self.higher, points)
        told = self._apart(pair, left.sample, right.sample)
        if margin:
            told += f"; {self._allowed(left.sample, right.sample, margin)}"
            told += "" if won else f": {leaning(moved.larger == self.higher)}"
        elif not won:
            told += ", so that it may be chance"
        if max(points) > 1:
            told += f"; the best of {' and of '.join(str(n) for n in points if n > 1)} points, chosen on the same seeds"
        return won, told

    def _compare(self, left: Sample, right: Sample, margin: float) -> Paired:
        pair = compare(left, right, self.higher, margin)
        assert pair is not None  # both have every seed
        return pair

    def _allowed(self, left: Sample, right: Sample, margin: float) -> str:
        """'a ratio up to 1.10 is allowed', '0.1 worse is allowed'."""
        factor, amount = allowed(left, right, self.higher, margin)
        if divides(left, right):
            return f"a ratio {'down' if self.higher else 'up'} to {digits(factor)} is allowed"
        return f"{number(self.record, abs(amount))} worse is allowed"

    def enough(self, *samples: Sample) -> None:
        """Raise Unknown, with what was measured, if there is one seed only."""
        if any(len(one.values) < 2 for one in samples):
            raise Unknown(f"{self.tell(*samples)}: one {self.again} alone does not tell a difference from chance")

    def name(self, one: Sample) -> str:
        """As it is called in sentences."""
        name = label(self.results, one.variant.name)
        return name if one.nfe is None else f"{name} at {one.nfe} NFE"

    def tell(self, *samples: Sample) -> str:
        """'A 2.16 +- 0.75, B 10.2 +- 0.8 (3 seeds)'; diverged runs are counted."""
        count = len(samples[0].values)
        told = ", ".join(f"{self.name(one)} {plus_minus(self.record, one.summary)}" for one in samples)
        return f"{told} ({count} {self.again}{'s' if count > 1 else ''})"

    def _apart(self, pair: Paired, left: Sample, right: Sample) -> str:
        """'ratio 3.10 (95 % interval 2.20 to 4.40)', 'difference -8.1 (...)', or that diverged runs decide."""
        if left.summary.broken or right.summary.broken:
            return "diverged runs count as the worst"
        return gap(self.record, pair)
