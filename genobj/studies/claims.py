"""Claims of publications, as settings, and what a study's results say of them: agrees, disagrees or inconclusive.

A verdict needs every run that the claim is about: an unfinished study would otherwise be judged again and again until
chance agrees. It needs two seeds at least, and a difference that `statistics.Paired` calls significant. What is best
among several points was picked on the same seeds that it is judged by, which flatters it: the sentence says so, and
where variants are compared its p has to be smaller (samples.winner).
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from genobj.config.base import Config
from genobj.registry import did_you_mean
from genobj.studies.evidence import Evidence, Pick, Unknown
from genobj.studies.results import Results, Value, Variant, Verdict
from genobj.studies.samples import Sample, best, compare
from genobj.studies.selectors import Groups, Selector, Which, same
from genobj.studies.words import gap, leaning, number, place

Decision = Literal["agrees", "disagrees", "inconclusive"]
ANSWERS: dict[int, Decision] = {1: "agrees", 0: "inconclusive", -1: "disagrees"}


class Statement(Config):
    """A claim about one metric at one nfe."""

    says: Annotated[str, Field(min_length=1)]
    """What is claimed, in plain words."""
    source: str = ""
    """Who says so, as in DuMo Fig. 3."""
    metric: Annotated[str, Field(min_length=1)]
    """Metric that decides, as tables of scores name it."""
    nfe: Annotated[int, Field(ge=0)] = 1
    """Network evaluations per sample; 0 where nothing is sampled, as for speed."""

    @property
    @abstractmethod
    def selectors(self) -> tuple[Selector, ...]:
        """The variants that it is about."""

    @abstractmethod
    def decide(self, evidence: Evidence) -> tuple[Decision, str]:
        """The verdict, and the sentence with its numbers. Raises Unknown where nothing can be said."""

    def problems(self, groups: Groups) -> Iterator[str]:
        """What a study with these groups lacks, and what makes no sense with them."""
        yield from filter(None, (which.problem(groups) for which in self.selectors))


class Pair(Statement):
    """A claim about two variants."""

    left: Which
    """The variant that the claim praises."""
    right: Which
    """The one that it is compared with."""

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """Both sides."""
        return self.left, self.right

    def problems(self, groups: Groups) -> Iterator[str]:
        """Nothing compares with itself."""
        yield from super().problems(groups)
        if self.left == self.right:
            yield f"left and right are both {self.left}; name two that differ"

    def decide(self, evidence: Evidence) -> tuple[Decision, str]:
        """Left and right, then what their difference settles."""
        left, right = evidence.pick_of(self.left), evidence.pick_of(self.right)
        answer, told = self.settle(evidence, left, right)
        return ANSWERS[answer], f"{evidence.tell(left.sample, right.sample)}; {told}"

    @abstractmethod
    def settle(self, evidence: Evidence, left: Pick, right: Pick) -> tuple[int, str]:
        """1 if the claim holds, -1 if it does not, 0 if that is open; and its numbers."""


class Better(Pair):
    """Left is better than right: agrees or disagrees where their difference is significant."""

    kind: Literal["better"] = "better"
    """Kind of the claim."""

    def settle(self, evidence: Evidence, left: Pick, right: Pick) -> tuple[int, str]:
        """By the sign of the difference."""
        return evidence.duel(left, right)


class NoWorse(Pair):
    """Left is not worse than right by more than a margin: the whole interval has to lie on one side of the margin.

    Their ratio may be 1 + margin, or 1 / (1 + margin) where higher is better. Where a value is not above zero, their
    difference may be margin times right's mean.
    """

    kind: Literal["no_worse"] = "no_worse"
    """Kind of the claim."""
    margin: Annotated[float, Field(gt=0)] = 0.1
    """What left may be worse by, as a share of right."""

    def settle(self, evidence: Evidence, left: Pick, right: Pick) -> tuple[int, str]:
        """By the interval; diverged runs are beyond every margin."""
        return evidence.duel(left, right, self.margin)


class Ratio(Pair):
    """Left divided by right lies in a range: agrees if its whole interval does, disagrees if all of it lies outside."""

    kind: Literal["ratio"] = "ratio"
    """Kind of the claim."""
    low: Annotated[float, Field(ge=0)] = 0.0
    """Lower end of the range."""
    high: Annotated[float, Field(gt=0)] | None = None
    """Upper end; unset: none."""

    @model_validator(mode="after")
    def _range(self) -> "Ratio":
        if self.low == 0 and self.high is None:
            raise ValueError("every ratio lies above zero; type low, high or both")
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low={self.low:g} lies above high={self.high:g}; swap them")
        return self

    def settle(self, evidence: Evidence, left: Pick, right: Pick) -> tuple[int, str]:
        """By the interval of the ratio of geometric means."""
        sides = left.sample, right.sample
        evidence.enough(*sides)
        if not all(0 < value < math.inf for one in sides for value in one.values.values()):  # nor is nan
            return 0, "a ratio needs finite values above zero"
        pair = compare(*sides, evidence.higher)
        assert pair is not None  # both have every seed
        low, high = pair.interval
        top = math.inf if self.high is None else self.high
        answer = 1 if self.low <= low and high <= top else -1 if high < self.low or low > top else 0
        lean = "" if answer else f": {leaning(self.low <= pair.difference <= top)}"
        return answer, f"{gap(evidence.record, pair)}; claimed: {self._range_told()}{lean}"

    def _range_told(self) -> str:
        if self.high is None:
            return f"{self.low:g} or more"
        return f"{self.low:g} to {self.high:g}" if self.low else f"{self.high:g} or less"


class BestAt(Statement):
    """The best point of a group lies between two values of an axis: better than the best point beyond them."""

    kind: Literal["best_at"] = "best_at"
    """Kind of the claim."""
    group: Annotated[str, Field(min_length=1)]
    """Key of the variant in the study."""
    axis: Annotated[str, Field(min_length=1)]
    """One of its axes, with numbers."""
    low: float
    """Lower end; points at the ends lie inside."""
    high: float
    """Upper end."""

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """All points of the group."""
        return (Selector(group=self.group),)

    def problems(self, groups: Groups) -> Iterator[str]:
        """There have to be points on both sides."""
        yield from super().problems(groups)
        axes = groups.get(self.group, {})
        values = axes.get(self.axis, ())
        if self.group in groups and self.axis not in axes:
            known = f"Its axes: {', '.join(axes)}." if axes else "It has none."
            yield f"{self.group} has no axis {self.axis!r}.{did_you_mean(self.axis, axes)} {known}"
        elif any(isinstance(value, str | bool) for value in values):
            yield f"{self.group}.{self.axis} has values that are no numbers; name an axis with numbers alone"
        elif len({self._inside(value) for value in values}) == 1:
            side = "inside" if self._inside(values[0]) else "outside"
            yield f"all points of {self.group}.{self.axis} lie {side} {self.low:g} to {self.high:g}; it needs both"

    def _inside(self, value: Value) -> bool:
        """Whether a point lies in the claimed range or, but for rounding, at its ends."""
        if isinstance(value, str):
            return False
        return self.low <= value <= self.high or same(value, self.low) or same(value, self.high)

    def decide(self, evidence: Evidence) -> tuple[Decision, str]:
        """The best point inside against the best one outside; if chance decides, all points as good as the best."""
        samples = evidence.samples(evidence.meant(self.selectors[0]))
        inside = [one for one in samples if self._inside(one.variant.point.get(self.axis, ""))]
        outside = [one for one in samples if one not in inside]
        if not inside or not outside:
            raise Unknown(f"the results of {self.group} hold no points on both sides of {self.low:g} to {self.high:g}")
        left, right = evidence.pick(inside), evidence.pick(outside)
        won, told = evidence.duel(left, right)
        sides = f"best within and beyond {self.axis} {self.low:g} to {self.high:g}"
        flat = "" if won else f"; not told apart from the best: {self._flat(evidence, samples)}"
        return ANSWERS[won], f"{sides}: {evidence.tell(left.sample, right.sample)}; {told}{flat}"

    @staticmethod
    def _flat(evidence: Evidence, samples: list[Sample]) -> str:
        top = evidence.pick(samples)
        flat = [one for one in samples if one is top.sample or evidence.duel(top, Pick(one))[0] == 0]
        return ", ".join(place(one.variant.point) for one in flat)


class Diverges(Statement):
    """Runs diverge: training fails so, scores are not finite, or lie far from those of the best other point."""

    kind: Literal["diverges"] = "diverges"
    """Kind of the claim."""
    which: Which
    """Variants that are said to diverge, all of them and with every seed."""
    factor: Annotated[float, Field(gt=1)] = 10.0
    """How many times worse than the mean of the best other point of its group (or of the study, if it has no other)
    counts as diverged."""

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """The variants that are said to diverge."""
        return (self.which,)

    def decide(self, evidence: Evidence) -> tuple[Decision, str]:
        """By counting: all runs, none, or some."""
        meant = evidence.meant(self.which)
        samples = evidence.samples(meant)
        evidence.enough(*samples)
        limit, words = self._limit(evidence, [v for v in evidence.results.variants if v not in meant])
        values = [value for one in samples for value in one.values.values()]
        gone = sum(not math.isfinite(v) or (v < limit if evidence.higher else v > limit) for v in values)
        answer = 1 if gone == len(values) else -1 if gone == 0 else 0
        return ANSWERS[answer], f"{evidence.tell(*samples)}; {words}: {gone} of {len(values)} runs"

    def _limit(self, evidence: Evidence, rest: list[Variant]) -> tuple[float, str]:
        """The value beyond which a run counts as diverged, and its words."""
        others = evidence.samples([v for v in rest if v.group == self.which.group] or rest)
        top = best(others, evidence.higher) if others else None
        if top is None or not top.summary.mean > 0:  # nor is nan
            return -math.inf if evidence.higher else math.inf, "not finite"
        mean = top.summary.mean
        limit = mean / self.factor if evidence.higher else mean * self.factor
        side, mark = "below" if evidence.higher else "above", number(evidence.record, limit)
        found = f"{evidence.name(top)} {number(evidence.record, mean)}"
        return limit, f"best other: {found}; not finite or {side} {mark}, {self.factor:g} times worse"


class Order(Statement):
    """Variants from best to worst: each is better than the next one."""

    kind: Literal["order"] = "order"
    """Kind of the claim."""
    variants: Annotated[tuple[Which, ...], Field(min_length=2)]
    """From best to worst."""

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """All of them."""
        return self.variants

    def problems(self, groups: Groups) -> Iterator[str]:
        """Each stands there once."""
        yield from super().problems(groups)
        for i, which in enumerate(self.variants):
            if which in self.variants[:i]:
                yield f"{which} stands in the order twice"

    def decide(self, evidence: Evidence) -> tuple[Decision, str]:
        """All neighbours have to be better; one that is worse is enough to disagree."""
        picked = [evidence.pick_of(which) for which in self.variants]
        duels = [evidence.duel(left, right) for left, right in pairwise(picked)]
        told = "; ".join(words for _, words in duels)
        return ANSWERS[min(won for won, _ in duels)], f"{evidence.tell(*(one.sample for one in picked))}; {told}"


Claim = Annotated[Better | NoWorse | BestAt | Diverges | Ratio | Order, Field(discriminator="kind")]
"""A table of [[claims]]; its `kind` says which."""
KINDS = ("better", "no_worse", "best_at", "diverges", "ratio", "order")
"""What `kind` may be."""


def check(claims: Sequence[Claim], groups: Groups, metrics: Sequence[str], nfe: Sequence[int]) -> str | None:
    """The first thing that a claim names and the study does not have, as a sentence.

    groups: values of every axis of every group. metrics, nfe: what the study scores; where one is empty its recipes
    decide, and nothing is said of it.
    """
    return next((problem for claim in claims for problem in _problems(claim, groups, metrics, nfe)), None)


def _problems(claim: Claim, groups: Groups, metrics: Sequence[str], nfe: Sequence[int]) -> Iterator[str]:
    about = f"claim {claim.says!r}"
    yield from (f"{about}: {problem}" for problem in claim.problems(groups))
    if metrics and claim.metric.partition(".")[0] not in metrics and claim.metric not in metrics:
        known = f"{did_you_mean(claim.metric, metrics)} The study's metrics: {', '.join(metrics)}."
        yield f"{about}: {claim.metric!r} is not scored.{known}"
    for each in (claim.nfe, *(which.nfe for which in claim.selectors if which.nfe is not None)):
        if nfe and each not in nfe:
            yield f"{about}: nothing is scored at {each} NFE; the study's nfe: {', '.join(map(str, nfe))}"
    if isinstance(claim, Diverges) and claim.which.nfe is not None:
        yield f"{about}: one nfe decides; type it beside kind, not in which"


def judge(claims: Sequence[Claim], results: Results) -> tuple[Verdict, ...]:
    """A verdict on every claim, in their order."""
    return tuple(_verdict(claim, results) for claim in claims)


def _verdict(claim: Claim, results: Results) -> Verdict:
    try:
        answer, measured = claim.decide(Evidence.of(results, claim.metric, claim.nfe))
    except Unknown as reason:
        answer, measured = "inconclusive", str(reason)
    return Verdict(claim.says, claim.source, answer, measured)
