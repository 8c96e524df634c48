"""Statistics, verdicts and tables of studies on made-up results: agree, disagree, too noisy, diverged, missing."""

import itertools
import json
import math
import random
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from genobj.config.base import problems
from genobj.metrics.records import Record
from genobj.studies.claims import Claim, check, judge
from genobj.studies.results import Cell, Results, Variant, Verdict, read
from genobj.studies.samples import Sample, best, compare, sample, winner
from genobj.studies.statistics import Paired, paired, summary
from genobj.studies.study import Study
from genobj.studies.tables import LEGEND, baseline, markdown, rows
from genobj.studies.words import apart, count, digits, gap, label, plus_minus

CLAIMS: TypeAdapter[Any] = TypeAdapter(tuple[Claim, ...])
GONE = "step 40: loss not finite for 10 steps in a row; no weight was changed by them"
Outcome = float | str | None
"""A value (nan: the samples were not finite), what a run failed of, or None if it was not run."""


def record(value: float, nfe: int = 1, higher: bool = False, factor: float = 1000.0) -> Record:
    return Record(
        metric="mmd",
        kind="mmd",
        value=value / factor,
        floor=-0.01 / factor,
        floor_n=8192,
        nfe=nfe,
        sampler="flow_map",
        head="u",
        settings={},
        weights="ema",
        n=4096,
        reference=8192,
        seed=0,
        higher_is_better=higher,
        title="1000 x MMD^2",
        factor=factor,
    )


def variant(words: str) -> Variant:
    """'mf rho=0.8' is a point of the group mf."""
    group, *axes = words.split()
    point: dict[str, Any] = {axis: json.loads(value) for axis, value in (word.split("=") for word in axes)}
    inner = ",".join(f"{axis}={value}" for axis, value in point.items())
    mark = f"[{inner}]" if inner else ""
    return Variant(group + mark, group, {"mf": "MeanFlow"}.get(group, group) + mark, point, f"genobj train -r {group}")


def cell(name: str, seed: int, outcome: Outcome, higher: bool) -> Cell:
    if outcome is None:
        return Cell(name, seed, "missing")
    if isinstance(outcome, str):
        return Cell(name, seed, "failed", f"runs/{seed}", outcome, diverged=outcome == GONE)
    return Cell(name, seed, "done", "", "", 100, 6400, 19200.0, 2.5 + seed, (record(outcome, higher=higher),))


def made(scores: Mapping[str, Sequence[Outcome]], *, higher: bool = False, **study: Any) -> Results:
    """Results with a value per seed of every variant, in the unit of tables."""
    variants = {words: variant(words) for words in scores}
    cells = [cell(variants[w].name, seed, o, higher) for w, row in scores.items() for seed, o in enumerate(row)]
    return Results(study, "toy", tuple(variants.values()), tuple(cells))


def verdict(claim: Mapping[str, Any], results: Results) -> Verdict:
    """Of one claim, after it was read as from a file."""
    claims = CLAIMS.validate_python([{"says": "so", "metric": "mmd", **claim}])
    (found,) = judge(claims, results)
    return found


GOOD, BAD, NOISY, NAN = [1.0, 1.1, 0.9], [3.0, 3.2, 2.9], [0.2, 4.0, 1.0], math.nan
AB: dict[str, Any] = {"left": "a", "right": "b"}


class TestSummary:
    def test_counts_broken_values_apart(self) -> None:
        found = summary([1.0, 3.0, NAN, math.inf])
        assert (found.mean, found.spread, found.n, found.broken) == (2.0, pytest.approx(math.sqrt(2)), 2, 2)

    def test_few_values(self) -> None:
        one, none = summary([5.0]), summary([NAN])
        assert (one.mean, one.n) == (5.0, 1)
        assert math.isnan(one.spread)
        assert math.isnan(none.mean)
        assert (none.n, none.broken) == (0, 1)


def seeded(values: Iterable[float]) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


FLOATS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
POSITIVE = st.floats(0.001, 1e6).map(lambda value: round(value, 3))


def both(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    """Two variants with equally many seeds."""
    return st.integers(2, 5).flatmap(lambda n: st.tuples(*[st.lists(values, min_size=n, max_size=n)] * 2))


ROWS = both(FLOATS) | both(POSITIVE)


class TestPaired:
    @pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
    def test_enumeration_is_all_resamples(self, n: int) -> None:
        values = np.random.default_rng(n).normal(0.5, 1, n)
        means = sorted(float(np.mean(pick)) for pick in itertools.product(values, repeat=n))
        pair = paired(seeded(values), seeded([0.0] * n))
        assert pair is not None
        rank = math.ceil(0.025 * len(means)) - 1
        assert (pair.low, pair.high) == pytest.approx((means[rank], means[-1 - rank]))

    @pytest.mark.parametrize("n", [4, 6])
    def test_enumeration_equals_resampling(self, n: int) -> None:
        values = np.random.default_rng(n).normal(0.5, 1, n)
        pair = paired(seeded(values), seeded([0.0] * n))
        means = np.random.default_rng(7).choice(values, (100_000, n)).mean(1)
        assert pair is not None
        assert (pair.low, pair.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02 * values.std())

    def test_t_interval_and_p_are_scipys(self) -> None:
        a, b = np.random.default_rng(0).normal(size=(2, 8))
        for law in (np.array, np.exp):
            pair, test = paired(seeded(law(a)), seeded(law(b + 0.3))), stats.ttest_rel(a, b + 0.3)
            interval = test.confidence_interval()
            assert pair is not None
            assert pair.ratio == (law is np.exp)
            assert (pair.t_low, pair.t_high) == pytest.approx(tuple(law([interval.low, interval.high])))
            assert pair.p >= test.pvalue - 1e-12

    def test_deterministic_and_seed_matters_where_resamples_are_drawn(self) -> None:
        a, b = map(seeded, np.random.default_rng(0).normal(size=(2, 9)))
        assert paired(a, b) == paired(a, b)
        assert paired(a, b, seed=1) != paired(a, b)

    def test_common_finite_seeds_only(self) -> None:
        pair = paired({0: 1.0, 1: 2.0, 2: NAN, 5: -9.0}, {1: 1.0, 0: 0.5, 2: 1.0, 4: 3.0})
        assert pair is not None
        assert (pair.n, pair.ratio, pair.difference) == (2, True, pytest.approx(2.0))
        assert paired({0: 1.0}, {1: 1.0}) is None
        assert paired({0: NAN}, {0: 1.0}) is None

    def test_both_intervals_have_to_exclude_zero(self) -> None:
        assert Paired(1.0, 0.1, 1.9, 0.2, 1.8, 0.02, 9).significant
        assert not Paired(1.0, -0.1, 1.9, 0.2, 1.8, 0.06, 9).significant
        assert not Paired(-1.0, -1.8, -0.2, -2.1, 0.1, 0.06, 9).significant
        assert Paired(1.0, -0.1, 1.9, 0.2, 2.8, 0.06, 9).interval == (-0.1, 2.8)
        assert not Paired(1.5, 0.9, 1.9, 1.2, 1.8, 0.06, 9, ratio=True).significant
        assert Paired(0.5, 0.3, 0.9, 0.2, 0.8, 0.02, 9, ratio=True).significant
        assert not Paired(0.5, 0.3, 0.9, 0.2, 0.8, 0.02, 9, ratio=True).larger

    def test_ratios_where_all_values_are_above_zero(self) -> None:
        """Geometric means: sqrt(8 * 2) = 4 against sqrt(1 * 4) = 2."""
        pair = paired(seeded([8.0, 2.0]), seeded([1.0, 4.0]))
        assert pair is not None
        assert (pair.ratio, pair.difference) == (True, pytest.approx(2.0))
        for least in (0.0, -0.1):
            pair = paired(seeded([8.0, least]), seeded([1.0, 4.0]))
            assert pair is not None
            assert (pair.ratio, pair.difference) == (False, (7 + least - 4) / 2)

    def test_scale_and_power_of_values_change_no_verdict(self) -> None:
        a, b = np.random.default_rng(3).lognormal(size=(2, 5))
        one, other = paired(seeded(a), seeded(b)), paired(seeded((5 * a) ** 2), seeded((5 * b) ** 2))
        assert one is not None
        assert other is not None
        assert other.p == pytest.approx(one.p)
        assert other.interval == pytest.approx(tuple(end**2 for end in one.interval))

    def test_a_large_ratio_is_seen_through_a_large_spread(self) -> None:
        """Three seeds of 106 +- 59 against .895, as measured."""
        large, small = seeded([170.0, 53.0, 95.0]), seeded([0.9, 0.85, 0.935])
        ratio, raw = paired(large, small), paired(large, small, ratio=False)
        assert ratio is not None
        assert raw is not None
        assert (ratio.significant, raw.significant) == (True, False)

    def test_ends_beyond_all_numbers(self) -> None:
        pair = paired(seeded([1e-150, 1e150]), seeded([1.0, 1.0]))
        assert pair is not None
        assert pair.interval == (0.0, math.inf)

    def test_one_seed_has_no_interval(self) -> None:
        pair = paired({0: 3.0}, {0: 1.0})
        assert pair is not None
        assert pair.difference == pytest.approx(3.0)
        assert math.isnan(pair.p)
        assert all(map(math.isnan, pair.interval))
        assert not pair.significant

    def test_equal_differences(self) -> None:
        nothing, two = paired(seeded(GOOD), seeded(GOOD)), paired(seeded([3, 4, 5]), seeded([1, 2, 3]))
        assert nothing is not None
        assert two is not None
        assert (nothing.interval, nothing.p, nothing.significant) == ((1, 1), 1, False)
        assert two.significant
        raw = paired(seeded([3, 4, 5]), seeded([1, 2, 3]), ratio=False)
        assert raw is not None
        assert (raw.interval, raw.p, raw.significant) == ((2, 2), 0, True)

    @given(ROWS)
    def test_swapping_mirrors_exactly(self, both: tuple[list[float], list[float]]) -> None:
        one, other = (paired(seeded(a), seeded(b), ratio=False) for a, b in (both, both[::-1]))
        assert one is not None
        assert other is not None
        assert one.interval == tuple(-end for end in reversed(other.interval))
        assert (one.p, one.significant) == (other.p, other.significant)

    @given(both(POSITIVE))
    def test_swapping_inverts_ratios(self, both: tuple[list[float], list[float]]) -> None:
        one, other = (paired(seeded(a), seeded(b)) for a, b in (both, both[::-1]))
        assert one is not None
        assert other is not None
        for end, mirrored in zip(one.interval, reversed(other.interval), strict=True):
            assert end * mirrored == pytest.approx(1)
        assert (one.ratio, one.p, one.significant) == (True, other.p, other.significant)

    @given(ROWS)
    def test_significant_is_p_below_the_level(self, both: tuple[list[float], list[float]]) -> None:
        pair = paired(*map(seeded, both))
        assert pair is not None
        assert pair.significant == (pair.p < 0.05) or pair.p == pytest.approx(0.05, abs=1e-6)
        slack = 1e-6 + 1e-9 * abs(pair.difference)
        assert pair.interval[0] <= pair.difference + slack
        assert pair.difference <= pair.interval[1] + slack

    @given(ROWS, st.randoms(use_true_random=False))
    def test_order_of_seeds_is_irrelevant(self, both: tuple[list[float], list[float]], rng: random.Random) -> None:
        a, b = map(seeded, both)
        keys = list(a)
        rng.shuffle(keys)
        assert paired({key: a[key] for key in keys}, b) == paired(a, b)

    @staticmethod
    def share(n: int, shift: float, counts: Callable[[Paired], bool], trials: int = 600, *, logs: float = 0.0) -> float:
        """How often differences count as something: normal ones, or of log-normal values with this deviation."""
        random = np.random.default_rng(n)
        left, right = random.normal(shift, 1, (trials, n)), np.zeros((trials, n))
        if logs:  # every seed has a part of its own, which both variants share
            left, right = np.exp(logs * (random.normal(size=(2, trials, n)) + random.normal(size=(trials, n))))
            left = left * math.exp(shift)
        every = zip(left, right, strict=True)
        found = [paired(seeded(one), seeded(other), resamples=2000) for one, other in every]
        return sum(pair is not None and pair.ratio == bool(logs) and counts(pair) for pair in found) / trials

    @pytest.mark.parametrize("logs", [0.0, 1.0])
    @pytest.mark.parametrize("n", [2, 3, 5, 10])
    def test_chance_is_called_significant_once_in_twenty_at_most(self, n: int, logs: float) -> None:
        assert self.share(n, 0.0, lambda pair: pair.significant, logs=logs) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)

    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_chance_beside_zero_too(self, n: int) -> None:
        """Where chance decides whether logarithms are compared."""
        draws = np.random.default_rng(n).normal(0.8, 1, (600, 2, n))
        found = [paired(*map(seeded, draw)) for draw in draws]
        assert 0 < sum(pair is not None and pair.ratio for pair in found) < 600
        chance = sum(pair is not None and pair.significant for pair in found) / 600
        assert chance <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)

    def test_bootstrap_alone_would_call_three_seeds_significant_too_often(self) -> None:
        assert self.share(3, 0.0, lambda pair: pair.low > 0 or pair.high < 0) == pytest.approx(0.25, abs=0.06)

    def test_large_differences_are_found(self) -> None:
        assert self.share(5, 3.0, lambda pair: pair.significant, 200) > 0.95
        assert self.share(3, math.log(100), lambda pair: pair.significant, 200, logs=0.4) > 0.95


class TestDiverged:
    """How runs without a finite value compare."""

    @pytest.mark.parametrize("higher", [False, True])
    @pytest.mark.parametrize(
        ("left", "right", "worse"),
        [
            (GOOD, [NAN, NAN, NAN], True),  # all against none
            (GOOD, [9.0, 9.2, NAN], True),  # the last one is as bad as the worst number, at least
            (GOOD, [1.1, 0.9, NAN], False),  # one of three may be chance
            ([NAN] * 3, [NAN] * 3, False),
            ([1.0, NAN, 1.1], [1.1, NAN, 1.0], False),
            ([1.0] * 5, [NAN, NAN, NAN, NAN, 1.0], True),
            ([1.0] * 5, [NAN, NAN, NAN, 1.0, 1.0], False),
        ],
    )
    def test_worse_than_every_number(self, left: list[float], right: list[float], worse: bool, higher: bool) -> None:
        sign = -1.0 if higher else 1.0
        results = made({"a": [sign * v for v in left], "b": [sign * v for v in right]}, higher=higher)
        a, b = (sample(results, name, "mmd", 1) for name in "ab")
        for one, other, side in ((a, b, -1.0), (b, a, 1.0)):
            pair = compare(one, other, higher)
            assert pair is not None
            assert pair.significant == worse
            assert not worse or pair.larger == (side * sign > 0)


BETTER = [
    (GOOD, BAD, "agrees", "ratio 0.329 (95 % interval 0.289 to 0.375)"),
    (BAD, GOOD, "disagrees", "ratio 3.04 (95 % interval 2.67 to 3.46)"),
    (NOISY, GOOD, "inconclusive", "so that it may be chance"),
    (GOOD, GOOD, "inconclusive", "ratio 1.00 (95 % interval 1.00 to 1.00), so that it may be chance"),
    ([-0.1, 0.1, 0.0], BAD, "agrees", "difference -3.03 (95 % interval -3.32 to -2.75)"),
    (BAD, [-0.1, 0.1, 0.0], "disagrees", "difference 3.03 (95 % interval"),
    ([0.0, 0.1, 0.2], [-0.1, 0.1, 0.0], "inconclusive", "difference 0.100 (95 % interval"),
    ([50.0, 170.0, 98.0], [0.9, 0.85, 0.935], "disagrees", "ratio 105 (95 % interval"),
    ([1.0], [3.0], "inconclusive", "a 1.00, b 3.00 (1 seed): one seed alone does not tell a difference from chance"),
    (GOOD, [NAN, NAN, NAN], "agrees", "b 3 of 3 diverged (3 seeds); diverged runs count as the worst"),
    ([NAN, NAN, NAN], GOOD, "disagrees", "a 3 of 3 diverged"),
    (GOOD, [GONE, GONE, NAN], "agrees", "b 3 of 3 diverged"),
    (GOOD, [3.0, 3.1, GONE], "agrees", "b 3.05 +- 0.07, 1 of 3 diverged"),
    (GOOD, [1.1, 0.9, NAN], "inconclusive", "b 1.00 +- 0.14, 1 of 3 diverged"),
    (GOOD, [3.0, 3.2, "out of memory"], "inconclusive", "b, seed 2 failed: out of memory"),
    (GOOD, [3.0, None, 3.2], "inconclusive", "b, seed 1 is missing"),
    (GOOD, [3.0, 3.2], "inconclusive", "b, seed 2 is missing"),
    (GOOD, [None, None, None], "inconclusive", "b, seed 0 is missing"),
]


class TestBetter:
    @pytest.mark.parametrize(("left", "right", "answer", "told"), BETTER)
    def test_verdict(self, left: list[Outcome], right: list[Outcome], answer: str, told: str) -> None:
        found = verdict({"kind": "better", **AB}, made({"a": left, "b": right}))
        assert found.verdict == answer
        assert told in found.measured

    def test_higher_may_be_better(self) -> None:
        results = made({"a": GOOD, "b": BAD}, higher=True)
        assert verdict({"kind": "better", **AB}, results).verdict == "disagrees"

    def test_sentence(self) -> None:
        results = made({"mf rho=0.8": [2.0, 2.2, 2.4], "mf rho=0.0": [10.0, 10.5, 11.0], "fm": [1, 1, 1]})
        left, right = ({"group": "mf", "at": {"rho": rho}} for rho in (0.8, 0))
        claim = {"kind": "better", "left": left, "right": right, "says": "rho helps", "source": "DuMo Fig. 3"}
        assert verdict(claim, results) == Verdict(
            "rho helps",
            "DuMo Fig. 3",
            "agrees",
            "MeanFlow rho=0.8 2.20 +- 0.20, MeanFlow rho=0 10.5 +- 0.5 (3 seeds); "
            "ratio 0.209 (95 % interval 0.188 to 0.233)",
        )

    def test_best_of_several_points_is_meant_and_told(self) -> None:
        results = made({"mf rho=0.2": BAD, "mf rho=0.8": GOOD, "mf rho=1.0": [0.1, NAN, 0.1], "b": [2.0, 2.1, 2.2]})
        found = verdict({"kind": "better", "left": "mf", "right": "b"}, results)
        assert found.verdict == "agrees"
        assert found.measured.startswith("MeanFlow rho=0.8 1.00 +- 0.10, b 2.10 +- 0.10 (3 seeds)")
        assert found.measured.endswith("; the best of 3 points, chosen on the same seeds")
        some = {"group": "mf", "at": {"rho": [0.2, 1.0]}}
        assert "MeanFlow rho=0.2" in verdict({"kind": "better", "left": some, "right": "b"}, results).measured

    def test_a_point_that_is_not_finished_might_be_the_best(self) -> None:
        results = made({"mf rho=0.2": GOOD, "mf rho=0.8": [1.0, None, 1.0], "b": BAD})
        found = verdict({"kind": "better", "left": "mf", "right": "b"}, results)
        assert (found.verdict, found.measured) == ("inconclusive", "MeanFlow rho=0.8, seed 1 is missing")

    def test_nothing_measured(self) -> None:
        results = made({"a": GOOD, "b": BAD})
        assert verdict({"kind": "better", "nfe": 7, **AB}, results).measured == "no run has been scored by mmd at 7 NFE"
        assert verdict({"kind": "better", "metric": "fd", "nfe": 0, **AB}, results).verdict == "inconclusive"
        assert "hold no variant c" in verdict({"kind": "better", "left": "c", "right": "b"}, results).measured
        assert verdict({"kind": "better", **AB}, made({"a": [GONE], "b": [None]})).verdict == "inconclusive"

    def test_a_score_that_one_run_lacks(self) -> None:
        results = made({"a": GOOD, "b": BAD})
        cells = (*results.cells[:-1], replace(results.cells[-1], records=(record(1.0, nfe=4),)))
        found = verdict({"kind": "better", **AB}, replace(results, cells=cells))
        assert (found.verdict, found.measured) == ("inconclusive", "b, seed 2 has no such score")

    def test_speed_has_rounds(self) -> None:
        results = made({"a": GOOD, "b": BAD}, higher=True, measure="speed")
        assert "(3 rounds)" in verdict({"kind": "better", **AB}, results).measured

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(st.tuples(*[st.sampled_from([0.5, 1.0, 1.2, 3.0, 9.0, NAN, GONE])] * 2), min_size=2, max_size=5),
        st.booleans(),
    )
    def test_swapping_flips(self, pairs: list[tuple[Outcome, Outcome]], higher: bool) -> None:
        results = made({"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "c": [1.0] * len(pairs)}, higher=higher)
        one = verdict({"kind": "better", "left": "a", "right": "b"}, results).verdict
        other = verdict({"kind": "better", "left": "b", "right": "a"}, results).verdict
        assert other == {"agrees": "disagrees", "disagrees": "agrees"}.get(one, one)


class TestNoWorse:
    @pytest.mark.parametrize(
        ("left", "right", "answer"),
        [
            ([1.0, 1.1, 0.9], [1.01, 1.1, 0.91], "agrees"),
            (GOOD, BAD, "agrees"),
            (GOOD, GOOD, "agrees"),
            (BAD, GOOD, "disagrees"),
            (NOISY, GOOD, "inconclusive"),
            ([1.09, 1.22, 0.98], GOOD, "inconclusive"),  # about a tenth worse
            ([1.0, 1.1, 0.85], [1.0, 1.1, -0.1], "inconclusive"),
            ([1.0, 1.1, -0.1], [1.0, 1.1, -0.1], "agrees"),
            ([2.0, 2.1, 0.9], [1.0, 1.1, -0.1], "disagrees"),
            ([1.02, 1.12, -0.08], [0.0, 0.0, 3.0], "inconclusive"),
            ([1.0, 1.1, -0.1], [NAN] * 3, "agrees"),
            ([1.0], [1.0], "inconclusive"),
            (GOOD, [NAN] * 3, "agrees"),
            ([GONE] * 3, GOOD, "disagrees"),
            ([1.0, 1.1, NAN], GOOD, "inconclusive"),
            ([1.0, 1.1, None], GOOD, "inconclusive"),
            ([1.0, 1.1, "no space left"], GOOD, "inconclusive"),
        ],
    )
    def test_verdict(self, left: list[Outcome], right: list[Outcome], answer: str) -> None:
        assert verdict({"kind": "no_worse", **AB}, made({"a": left, "b": right})).verdict == answer

    @pytest.mark.parametrize(("margin", "answer"), [(0.1, "disagrees"), (0.5, "agrees"), (0.25, "inconclusive")])
    def test_margin_and_direction(self, margin: float, answer: str) -> None:
        results = made({"a": [7.9, 8.0, 8.1], "b": [10.0, 10.0, 10.0]}, higher=True)
        found = verdict({"kind": "no_worse", "margin": margin, **AB}, results)
        assert found.verdict == answer
        lean = ": the means disagree, the seeds cannot tell" * (answer == "inconclusive")
        assert found.measured.endswith(f"; a ratio down to {digits(1 / (1 + margin))} is allowed{lean}")
        assert "chance" not in found.measured

    def test_words(self) -> None:
        claim = {"kind": "no_worse", **AB}
        assert "; a ratio up to 1.10 is allowed" in verdict(claim, made({"a": GOOD, "b": GOOD})).measured
        assert "; 0.100 worse is allowed" in verdict(claim, made({"a": [-1, 0, 1.0], "b": GOOD})).measured

    def test_a_margin_decides_no_kind_of_comparison(self) -> None:
        """Right's values would all be above zero with what is allowed."""
        claim = {"kind": "no_worse", "margin": 0.5, **AB}
        found = verdict(claim, made({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, -0.1]}))
        assert "difference" in found.measured
        assert found.measured.endswith("; 0.667 worse is allowed: the means agree, the seeds cannot tell")


RHO = ("mf rho=0.0", "mf rho=0.25", "mf rho=0.5", "mf rho=0.8", "mf rho=1.0")
AT8 = {"kind": "best_at", "group": "mf", "axis": "rho", "low": 0.75, "high": 0.85}


class TestBestAt:
    @staticmethod
    def sweep(*columns: Sequence[Outcome]) -> Results:
        return made(dict(zip(RHO, columns, strict=True)))

    @pytest.mark.parametrize(
        ("columns", "answer"),
        [
            ((BAD, BAD, BAD, GOOD, BAD), "agrees"),
            ((BAD, GOOD, BAD, BAD, BAD), "disagrees"),
            ((BAD, GOOD, GOOD, GOOD, BAD), "inconclusive"),
            ((BAD, NOISY, BAD, GOOD, BAD), "inconclusive"),
            (([NAN] * 3, BAD, BAD, GOOD, [GONE] * 3), "agrees"),
            (([NAN] * 3, [NAN] * 3, [NAN] * 3, GOOD, [GONE] * 3), "agrees"),
            ((BAD, BAD, GOOD, [NAN] * 3, BAD), "disagrees"),
            ((BAD, BAD, GOOD, [3.0, None, 3.0], BAD), "inconclusive"),
            ((BAD, BAD, BAD, GOOD, [3.0, "out of memory", 3.0]), "inconclusive"),
            (([3.0], [3.0], [3.0], [1.0], [3.0]), "inconclusive"),
        ],
    )
    def test_verdict(self, columns: Sequence[Sequence[Outcome]], answer: str) -> None:
        assert verdict(AT8, self.sweep(*columns)).verdict == answer

    def test_the_flat_range_is_named(self) -> None:
        found = verdict(AT8, self.sweep(BAD, NOISY, [0.9, 1.05, 1.0], GOOD, BAD))
        assert "so that it may be chance; the best of 4 points, chosen on the same seeds" in found.measured
        assert found.measured.endswith("; not told apart from the best: rho=0.25, rho=0.5, rho=0.8")

    def test_the_luckiest_of_many_has_to_be_better_by_more(self) -> None:
        values: dict[str, Sequence[Outcome]] = {"a": [1.0, 1.1, 0.9], "mf x=1": [0.9, 0.97, 0.83]}
        lone = verdict({"kind": "better", "left": "mf", "right": "a"}, made(values))
        assert lone.verdict == "agrees"
        many = made(values | {f"mf x={x}": [1.0, 1.1, 0.9] for x in range(2, 30)})
        found = verdict({"kind": "better", "left": "mf", "right": "a"}, many)
        assert found.verdict == "inconclusive"
        assert "so that it may be chance; the best of 29 points" in found.measured
        assert verdict({"kind": "better", "left": "a", "right": "mf"}, many).verdict == "inconclusive"

    @pytest.mark.parametrize("law", [np.array, np.exp])
    def test_equal_points_are_rarely_told_apart(self, law: Callable[[np.ndarray], np.ndarray]) -> None:
        """Best of one against best of eight, which are all the same."""
        draws, answers = law(np.random.default_rng(0).normal(size=(300, 9, 5))), list[tuple[int, int]]()
        for draw in draws:
            samples = [Sample(Variant(str(i), "g", ""), seeded(row)) for i, row in enumerate(draw)]
            right = best(samples[1:], higher=False)
            pair = compare(samples[0], right, higher=False)
            assert pair is not None
            answers.append((winner(pair, higher=False), winner(pair, higher=False, points=(1, 8))))
        taken_at_its_word, corrected = (sum(map(abs, column)) / 300 for column in zip(*answers, strict=True))
        assert taken_at_its_word > 0.06
        assert corrected <= 0.05

    def test_ends_lie_inside_even_when_rounded(self) -> None:
        claim = AT8 | {"low": 0.7 + 0.1, "high": 0.7 + 0.1}
        assert verdict(claim, self.sweep(BAD, BAD, BAD, GOOD, BAD)).verdict == "agrees"

    def test_a_group_with_two_axes(self) -> None:
        grid = {f"g a={a} b={b}": [a + b + e for e in (0.0, 0.1, 0.2)] for a in (1, 2) for b in (1, 3)}
        claim = {"kind": "best_at", "group": "g", "axis": "b", "low": 0, "high": 2}
        assert verdict(claim, made(grid)).verdict == "agrees"
        assert "g a=1 b=1 2.10 +- 0.10, g a=1 b=3 4.10" in verdict(claim, made(grid)).measured

    def test_results_without_points_on_both_sides(self) -> None:
        assert "no points on both sides" in verdict(AT8, made({"mf rho=0.8": GOOD})).measured


class TestDiverges:
    ZERO: Mapping[str, Any] = {"kind": "diverges", "which": {"group": "mf", "at": {"rho": 0}}}

    @pytest.mark.parametrize(
        ("column", "answer", "told"),
        [
            ([NAN, GONE, NAN], "agrees", "3 of 3 runs"),
            ([50.0, 60.0, NAN], "agrees", "3 of 3 runs"),
            ([9.0, 9.5, 9.9], "disagrees", "not finite or above 10.0, 10 times worse: 0 of 3 runs"),
            ([9.0, 9.5, GONE], "inconclusive", "1 of 3 runs"),
            ([9.0, None, GONE], "inconclusive", "MeanFlow rho=0, seed 1 is missing"),
            ([9.0, "out of memory", GONE], "inconclusive", "failed: out of memory"),
        ],
    )
    def test_verdict(self, column: list[Outcome], answer: str, told: str) -> None:
        found = verdict(self.ZERO, made({"mf rho=0.0": column, "mf rho=0.5": GOOD, "mf rho=0.8": BAD}))
        assert found.verdict == answer
        assert told in found.measured

    def test_one_seed(self) -> None:
        results = made({"mf rho=0.0": [NAN], "mf rho=0.5": [1.0]})
        assert "one seed alone" in verdict(self.ZERO, results).measured

    def test_factor_and_direction(self) -> None:
        results = made({"mf rho=0.0": [3.0, 3.0], "mf rho=0.5": [10.0, 10.0]}, higher=True)
        assert verdict(self.ZERO, results).verdict == "disagrees"
        assert verdict({**self.ZERO, "factor": 3.0}, results).verdict == "agrees"

    def test_several_variants_all_have_to(self) -> None:
        results = made({"mf rho=0.0": [NAN, NAN], "mf rho=0.1": [NAN, 1.0], "mf rho=0.5": [1.0, 1.0]})
        both = {"kind": "diverges", "which": {"group": "mf", "at": {"rho": [0, 0.1]}}}
        found = verdict(both, results)
        assert found.verdict == "inconclusive"
        assert "3 of 4 runs" in found.measured

    def test_what_is_compared_with(self) -> None:
        alone = verdict({"kind": "diverges", "which": "a"}, made({"a": [90.0, 91.0]}))
        assert (alone.verdict, "not finite: 0 of 2 runs" in alone.measured) == ("disagrees", True)
        study = verdict({"kind": "diverges", "which": "a"}, made({"a": [90.0, 91.0], "b": [1.0, 1.0]}))
        assert study.verdict == "agrees"
        below_zero = verdict({"kind": "diverges", "which": "a"}, made({"a": [90.0, 91.0], "b": [-1.0, -1.0]}))
        assert below_zero.verdict == "disagrees"
        group = made({"mf rho=0.0": [9.0, 9.1], "mf rho=0.5": [1.0, 1.0], "b": [0.01, 0.01]})
        assert verdict(self.ZERO, group).verdict == "disagrees"
        waits = verdict({"kind": "diverges", "which": "a"}, made({"a": [90.0, 91.0], "b": [1.0, None]}))
        assert (waits.verdict, waits.measured) == ("inconclusive", "b, seed 1 is missing")


class TestRatio:
    RANGE: Mapping[str, Any] = {"kind": "ratio", "low": 2.5, "high": 3.5, **AB}

    @pytest.mark.parametrize(
        ("left", "right", "answer", "told"),
        [
            (
                [3.0, 3.3, 2.7],
                GOOD,
                "agrees",
                "ratio 3.00 (95 % interval 3.00 to 3.00); claimed: 2.5 to 3.5",
            ),
            (GOOD, GOOD, "disagrees", "ratio 1.00 ("),
            ([9.0, 9.1, 9.2], GOOD, "disagrees", "ratio 9.13 ("),
            ([3.0, 9.0, 1.0], GOOD, "inconclusive", "ratio 3.01 ("),
            ([2.5, 2.8, 2.2], GOOD, "inconclusive", "claimed"),
            ([3.0], [1.0], "inconclusive", "one seed alone"),
            ([3.0, NAN, 3.0], GOOD, "inconclusive", "a ratio needs finite values above zero"),
            ([3.0, GONE, 3.0], GOOD, "inconclusive", "a ratio needs finite values above zero"),
            ([3.0, -0.1, 3.0], GOOD, "inconclusive", "a ratio needs finite values above zero"),
            ([3.0, None, 3.0], GOOD, "inconclusive", "seed 1 is missing"),
            ([3.0, "killed", 3.0], GOOD, "inconclusive", "failed: killed"),
        ],
    )
    def test_verdict(self, left: list[Outcome], right: list[Outcome], answer: str, told: str) -> None:
        found = verdict(self.RANGE, made({"a": left, "b": right}))
        assert found.verdict == answer
        assert told in found.measured

    @pytest.mark.parametrize(
        ("limits", "answer", "told"),
        [({"low": 2.0}, "agrees", "2 or more"), ({"high": 2.0}, "disagrees", "2 or less")],
    )
    def test_one_end(self, limits: dict[str, float], answer: str, told: str) -> None:
        found = verdict({"kind": "ratio", **limits, **AB}, made({"a": [3.0, 3.3, 2.7], "b": GOOD}))
        assert (found.verdict, found.measured.endswith(f"claimed: {told}")) == (answer, True)


class TestOrder:
    @pytest.mark.parametrize(
        ("columns", "answer"),
        [
            ((GOOD, [2.0, 2.1, 1.9], BAD), "agrees"),
            ((GOOD, BAD, [2.0, 2.1, 1.9]), "disagrees"),
            ((GOOD, NOISY, BAD), "inconclusive"),
            ((GOOD, GOOD, BAD), "inconclusive"),
            ((GOOD, BAD, [NAN, GONE, NAN]), "agrees"),
            ((GOOD, [NAN] * 3, BAD), "disagrees"),
            ((GOOD, BAD, [4.0, None, 4.0]), "inconclusive"),
            ((GOOD, BAD, [4.0, "killed", 4.0]), "inconclusive"),
            (([1.0], [2.0], [3.0]), "inconclusive"),
        ],
    )
    def test_verdict(self, columns: Sequence[Sequence[Outcome]], answer: str) -> None:
        results = made(dict(zip("abc", columns, strict=True)))
        assert verdict({"kind": "order", "variants": ["a", "b", "c"]}, results).verdict == answer

    def test_one_reversed_pair_is_enough(self) -> None:
        found = verdict({"kind": "order", "variants": ["a", "b", "c"]}, made({"a": NOISY, "b": BAD, "c": GOOD}))
        assert found.verdict == "disagrees"
        assert "so that it may be chance; ratio 3.04" in found.measured


class TestEveryKind:
    CASES = (
        {"kind": "better", **AB},
        {"kind": "no_worse", **AB},
        {"kind": "ratio", "low": 0.1, "high": 0.9, **AB},
        {"kind": "order", "variants": ["a", "b"]},
        {"kind": "diverges", "which": {"group": "mf", "at": {"rho": 0}}},
        AT8,
    )

    @pytest.mark.parametrize("claim", CASES, ids=lambda case: case["kind"])
    def test_order_of_cells_and_variants_is_irrelevant(self, claim: dict[str, Any]) -> None:
        draws = np.random.default_rng(0).lognormal(size=(7, 4))
        results = made({name: [float(v) for v in row] for name, row in zip(("a", "b", *RHO), draws, strict=True)})
        rng = random.Random(0)
        for _ in range(3):
            mixed = [rng.sample(part, len(part)) for part in (results.variants, results.cells)]
            again = verdict(claim, replace(results, variants=tuple(mixed[0]), cells=tuple(mixed[1])))
            words = [sorted(re.findall(r"[\w.=-]+", v.measured)) for v in (again, verdict(claim, results))]
            assert (again.verdict, words[0]) == (verdict(claim, results).verdict, words[1])

    @pytest.mark.parametrize("claim", CASES, ids=lambda case: case["kind"])
    def test_survives_a_file(self, claim: dict[str, Any], tmp_path: Path) -> None:
        results = made({name: [2.0, NAN, 2.1] if name == "b" else GOOD for name in ("a", "b", *RHO)})
        results.save(tmp_path / "results.json")
        assert verdict(claim, read(tmp_path / "results.json")) == verdict(claim, results)
        (read_claim,) = CLAIMS.validate_python([{"says": "so", "metric": "mmd", **claim}])
        assert CLAIMS.validate_python([read_claim.model_dump(mode="json", exclude_none=True)]) == (read_claim,)

    def test_toml(self) -> None:
        claims = CLAIMS.validate_python(
            tomllib.loads("""
            [[claims]]
            says = "one-step samples are best at rho = .8"
            source = "DuMo Fig. 3"
            kind = "better"
            metric = "mmd"
            nfe = 1
            left = { group = "meanflow", at = { rho = 0.8 } }
            right = "dumo"
            """)["claims"]
        )
        assert [str(which) for which in claims[0].selectors] == ["meanflow rho=0.8", "dumo"]

    @pytest.mark.parametrize(
        ("claim", "told"),
        [
            ({"kind": "beter", **AB}, "'beter'"),
            ({"kind": "better", "left": "a"}, "this setting is needed"),
            ({"kind": "better", "margin": 0.1, **AB}, "unknown key 'margin'"),
            ({"kind": "ratio", **AB}, "type low, high or both"),
            ({"kind": "ratio", "low": 2.0, "high": 1.0, **AB}, "swap them"),
            ({"kind": "order", "variants": ["a"]}, "at least 2 items"),
            ({"kind": "diverges", "which": "a", "factor": 1.0}, "greater than 1"),
        ],
    )
    def test_mistakes_in_a_file(self, claim: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError) as error:
            CLAIMS.validate_python([{"says": "so", "metric": "mmd", **claim}])
        assert told in " ".join(message for _, message in problems(error.value))


GROUPS: dict[str, dict[str, tuple[Any, ...]]] = {
    "meanflow": {"rho": (0.0, 0.5, 0.8)},
    "dumo": {"beta": (0.1, 0.5), "tangent": ("jvp", "central"), "flip": (True, False)},
    "fm": {},
}


class TestCheck:
    @pytest.mark.parametrize(
        "claim",
        [
            {"kind": "better", "left": "fm", "right": {"group": "meanflow", "at": {"rho": 0}}},
            {"kind": "better", "left": "fm", "right": {"group": "meanflow", "at": {"rho": [0.5, 0.8]}}},
            {"kind": "diverges", "which": {"group": "dumo", "at": {"tangent": "jvp", "flip": True}}},
            {"kind": "best_at", "group": "meanflow", "axis": "rho", "low": 0.75, "high": 0.85},
            {"kind": "better", "left": "fm", "right": "dumo", "metric": "prdc.recall"},
        ],
    )
    def test_fits(self, claim: dict[str, Any]) -> None:
        claims = CLAIMS.validate_python([{"says": "so", "metric": "mmd", **claim}])
        assert check(claims, GROUPS, ["mmd", "prdc"], [1, 4]) is None
        assert check(claims, GROUPS, [], []) is None

    @pytest.mark.parametrize(
        ("claim", "told"),
        [
            ({"left": "mean_flow", "right": "fm"}, "there is no variant 'mean_flow'. Did you mean 'meanflow'?"),
            ({"left": {"group": "fm", "at": {"rho": 1}}, "right": "dumo"}, "fm has no axis 'rho'. It has none."),
            ({"left": {"group": "dumo", "at": {"bta": 1}}, "right": "fm"}, "Did you mean 'beta'?"),
            ({"left": {"group": "meanflow", "at": {"rho": 0.7}}, "right": "fm"}, "no point rho=0.7; its values: 0.0,"),
            ({"left": {"group": "dumo", "at": {"flip": 1}}, "right": "fm"}, "dumo has no point flip=1"),
            ({"left": {"group": "meanflow", "at": {"rho": True}}, "right": "fm"}, "no point rho=True"),
            ({"left": "fm", "right": "fm"}, "left and right are both fm"),
            ({"left": "fm", "right": "dumo", "metric": "mdm"}, "'mdm' is not scored. Did you mean 'mmd'?"),
            ({"left": "fm", "right": "dumo", "nfe": 2}, "nothing is scored at 2 NFE; the study's nfe: 1, 4"),
            ({"kind": "order", "variants": ["fm", "dumo", "fm"]}, "fm stands in the order twice"),
            ({"kind": "best_at", "group": "fn", "axis": "x", "low": 0, "high": 1}, "there is no variant 'fn'"),
            ({"kind": "best_at", "group": "fm", "axis": "x", "low": 0, "high": 1}, "fm has no axis 'x'. It has none."),
            ({"kind": "best_at", "group": "dumo", "axis": "tangent", "low": 0, "high": 1}, "that are no numbers"),
            ({"kind": "best_at", "group": "meanflow", "axis": "rho", "low": 0, "high": 1}, "lie inside 0 to 1"),
            ({"kind": "best_at", "group": "meanflow", "axis": "rho", "low": 2, "high": 3}, "lie outside 2 to 3"),
        ],
    )
    def test_names_what_is_not_there(self, claim: dict[str, Any], told: str) -> None:
        claims = CLAIMS.validate_python([{"says": "so", "kind": "better", "metric": "mmd", **claim}])
        problem = check(claims, GROUPS, ["mmd"], [1, 4])
        assert problem is not None
        assert problem.startswith("claim 'so': ")
        assert told in problem

    def test_a_study_refuses_it(self) -> None:
        claim = {"says": "so", "kind": "better", "metric": "mmd", "left": "a", "right": "c"}
        with pytest.raises(ValidationError, match="there is no variant 'c'"):
            Study.model_validate({"variants": {"a": {}, "b": {}}, "claims": [claim]})
        study = Study.model_validate({"variants": {"a": {}, "c": {}}, "claims": [claim]})
        assert verdict(study.claims[0].model_dump(), made({"a": GOOD, "c": BAD})).verdict == "agrees"


class TestWords:
    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (2.1649, "2.16"),
            (9.996, "10.0"),
            (0.02134, "0.0213"),
            (28_714.0, "28700"),
            (-8.1, "-8.10"),
            (0.0, "0"),
            (1e-5, "1e-05"),
            (3e9, "3e+09"),
            (NAN, "nan"),
            (999.96, "1000"),
        ],
    )
    def test_digits(self, value: float, told: str) -> None:
        assert digits(value) == told

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ([2.0, 2.5, 3.5], "2.67 +- 0.76"),
            ([10.0, 10.5, 11.0], "10.5 +- 0.5"),
            ([100.0, 100.01], "100 +- 0.007"),
            ([-5.0, 5.0], "0.00 +- 7.07"),
            ([1.0, 1.0], "1.00 +- 0.00"),
            ([0.0, 0.0], "0 +- 0"),
            ([2.0], "2.00"),
            ([2.0, NAN], "2.00, 1 of 2 diverged"),
            ([NAN, NAN], "2 of 2 diverged"),
        ],
    )
    def test_plus_minus(self, values: list[float], told: str) -> None:
        assert plus_minus(record(0.0, factor=1.0), summary(values)) == told

    def test_gap(self) -> None:
        pair = Paired(-0.0081, -0.0099, -0.006, -0.0098, -0.0062, 0.01, 3)
        assert gap(record(0.0), pair) == "difference -8.10 (95 % interval -9.90 to -6.00)"
        assert gap(record(0.0), replace(pair, n=1)) == "difference -8.10 (one seed)"
        ratio = Paired(3.1, 2.2, 4.3, 2.3, 4.4, 0.01, 3, ratio=True)
        assert gap(record(0.0), ratio) == "ratio 3.10 (95 % interval 2.20 to 4.40)"

    def test_an_end_beside_one_does_not_seem_to_be_one(self) -> None:
        told = apart(record(0.0), Paired(1.0, 0.99963, 1.0041, 0.9999, 1.002, 0.9, 3, ratio=True))
        assert told == ("1.00", "0.9996", "1.004")

    def test_count(self) -> None:
        assert (count(1_024_000.0), count(7 / 3), count(0)) == ("1,024,000", "2.33", "0")

    def test_label_tells_points_apart(self) -> None:
        point: dict[str, Any] = {"rho": 0.8}
        plain, shared = (Variant(name, "mf", "MeanFlow", point) for name in "ab")
        assert label(Results({}, "", (plain,), ()), "a") == "MeanFlow"
        assert label(Results({}, "", (plain, shared), ()), "a") == "MeanFlow rho=0.8"
        marked = replace(plain, title="MeanFlow[rho=0.8]")
        assert label(Results({}, "", (marked,), ()), "a") == "MeanFlow rho=0.8"


SCORES: dict[str, Sequence[Outcome]] = {
    "mf rho=0.5": [2.0, 2.1, 2.2],
    "mf rho=0.8": [2.05, 2.0, 2.3],
    "dumo": [5.0, 5.5, GONE],
    "fm": [9.0, "out of memory", None],
}


class TestRows:
    def test_scores(self) -> None:
        found = {row.label: row for row in rows(made(SCORES, baseline="mf[rho=0.5]"))}
        scores = {name: row.scores["mmd", 1] for name, row in found.items()}
        assert [name for name, score in scores.items() if score.best] == ["MeanFlow rho=0.5"]
        assert [name for name, score in scores.items() if score.close] == ["MeanFlow rho=0.8", "fm"]  # fm: one seed
        assert (scores["dumo"].summary.n, scores["dumo"].summary.broken) == (2, 1)
        assert scores["MeanFlow rho=0.5"].difference is None
        assert scores["dumo"].difference == paired({0: 5.0 / 1000, 1: 5.5 / 1000}, {0: 2.0 / 1000, 1: 2.1 / 1000})
        assert [cell.error for cell in found["fm"].failed] == ["out of memory"]
        assert (found["fm"].missing, found["dumo"].missing) == (1, 0)

    def test_cost_is_that_of_finished_runs(self) -> None:
        found = {row.label: row.cost for row in rows(made(SCORES | {"none": [None, GONE, None]}))}
        cost = found["dumo"]
        assert cost is not None
        assert (cost.steps, cost.seen, cost.passes, cost.seconds) == (100.0, 6400.0, 19200.0, 3.0)
        assert found["none"] is None

    def test_baseline_may_be_a_group(self) -> None:
        assert baseline(made(SCORES, baseline="mf"), "mmd", 1) == "mf[rho=0.5]"
        assert baseline(made(SCORES), "mmd", 1) is None
        assert baseline(made({"mf rho=1": [None], "a": [1.0]}, baseline="mf"), "mmd", 1) is None

    def test_order_of_cells_is_irrelevant(self) -> None:
        results = made(SCORES, baseline="mf")
        cells = random.Random(0).sample(results.cells, len(results.cells))
        assert repr(rows(replace(results, cells=tuple(cells)))) == repr(rows(results))


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table of a Markdown page."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


class TestMarkdown:
    def test_whole_page(self) -> None:
        results = made(
            SCORES,
            baseline="mf[rho=0.8]",
            title="Fig. 3",
            question="Does rho | matter?",
            budget={"kind": "steps", "amount": 4000.0},
            variants={"mf": {"share": 1.0}, "dumo": {"share": 2.0}},
        )
        results = replace(
            results,
            environment={"torch": "2.15", "system": "Linux", "command": ["/bin/genobj", "compare", "a b.toml"]},
            verdicts=(Verdict("rho helps", "DuMo Fig. 3", "agrees", "as measured"),),
        )
        page = markdown(results)
        for words in (
            "# Fig. 3\n",
            "Does rho \\| matter?",
            "- budget of each run: 4000 steps\n- but: dumo gets 2 times as much\n- seeds: 0, 1, 2\n- machine: Linux",
            "- **agrees**: rho helps (DuMo Fig. 3). as measured",
            "| MeanFlow rho=0.5 | **2.10 +- 0.10** |",
            "| MeanFlow rho=0.8 | 2.12 +- 0.16 † |",
            "| dumo | 5.25 +- 0.35, 1 of 3 diverged |",
            "| fm | 9.00 † |",
            "| real data | -0.0100 |",
            f"{LEGEND}\n\n### Against MeanFlow rho=0.8\n\n| variant | 1000 x MMD^2, 1 NFE: ratio to baseline |",
            "| dumo | **2.59 (1.21 to 5.55)** |",
            "| fm | 4.39 (one seed) |",
            "| dumo | 100 | 6,400 | 19,200 | 3.00 |",
            f"- dumo, seed 2: {GONE} (`runs/2`)",
            "- fm, seed 1: out of memory",
            "- fm: 1 missing",
            "genobj compare 'a b.toml'\n# MeanFlow rho=0.5\ngenobj train -r mf",
        ):
            assert words in page
        assert "nan" not in page

    def test_baseline_that_is_a_group_is_named(self) -> None:
        assert "### Against MeanFlow rho=0.5" in markdown(made(SCORES, baseline="mf"))

    def test_differences_among_ratios_say_what_they_are(self) -> None:
        scores: dict[str, Sequence[Outcome]] = {"a": GOOD, "b": BAD, "c": [-0.1, 0.0, 0.1]}
        page = markdown(made(scores, baseline="a"))
        assert "1 NFE: ratio to baseline" in page
        assert "| b | **3.04 (2.67 to 3.46)** |" in page
        assert "| c | **difference -1.00 (" in page
        page = markdown(made({name: scores[name] for name in ("b", "c")}, baseline="c"))
        assert "1 NFE: difference to baseline" in page
        assert "| b | **3.03 (" in page

    def test_the_legend_tells_how_to_read_marks(self) -> None:
        for words in ("ratio of their geometric means", "bootstrap", "Student's t", "fewer diverged", "of twenty"):
            assert words in LEGEND
        assert "*" not in LEGEND  # plain words: pages show them as well

    def test_grid(self) -> None:
        grid = {f"g a={a} b={b}": [float(a * b)] * 2 for a in (1, 2) for b in (1, 3)} | {"g a=2 b=5": [None, GONE]}
        page = markdown(made(grid))
        table = next(table for table in tables(page) if " b=3 " in table[0])
        assert [[cell.strip() for cell in line] for line in table[2:]] == [
            ["a=1", "**1.00**", "3.00", ""],
            ["a=2", "2.00", "6.00", "1 of 1 diverged"],
        ]

    def test_hostile_titles_break_no_table(self) -> None:
        results = made({"a": GOOD, "b": BAD}, title="x | y\n# z <script>")
        evil = tuple(replace(v, title=f"{v.title} | <b>\n| new |") for v in results.variants)
        page = markdown(replace(results, variants=evil))
        assert not re.search(r"(?<!\\)<", page.partition("```")[0])
        assert len([line for line in page.splitlines() if line.startswith("# ")]) == 1 + 2  # two comments of commands
        for table in tables(page):
            assert len({len(line) for line in table}) == 1

    @pytest.mark.parametrize("scores", [{}, {"a": [None]}, {"a": [GONE]}, {"a": [NAN]}, {"a": [1.0]}])
    def test_little_to_tell(self, scores: dict[str, list[Outcome]]) -> None:
        page = markdown(made(scores))
        assert page.startswith("# Study\n")
        assert "nan" not in page
        assert ("## Scores" in page) == any(isinstance(row[0], float) for row in scores.values())

    def test_speed(self) -> None:
        results = made({"a": GOOD, "b": BAD}, higher=True, measure="speed")
        cells = [replace(c, records=tuple(replace(r, floor=None) for r in c.records)) for c in results.cells]
        page = markdown(replace(results, cells=tuple(cells)))
        assert "- rounds: 3" in page
        assert "(higher is better)" in page
        assert "| b | **3.03 +- 0.15** |" in page

    def test_survives_a_file(self, tmp_path: Path) -> None:
        results = made(SCORES, baseline="mf", name="fig3")
        results.save(tmp_path / "results.json")
        assert markdown(read(tmp_path / "results.json")) == markdown(results)


class TestTwoNumbersOfEvaluations:
    """A side of a claim may have an nfe of its own: does a second evaluation help?"""

    CLAIM: ClassVar[dict[str, Any]] = {"left": {"group": "a", "nfe": 2}, "right": {"group": "a", "nfe": 1}}

    def results(self, two: Sequence[float]) -> Results:
        made_of = made({"a": [3.0, 3.1, 2.9]})
        cells = [
            replace(one, records=(*one.records, replace(one.records[0], nfe=2, value=value / 1000)))
            for one, value in zip(made_of.cells, two, strict=True)
        ]
        return replace(made_of, cells=tuple(cells))

    @pytest.mark.parametrize(("two", "said"), [((1.0, 1.1, 0.9), "agrees"), ((9.0, 9.1, 8.9), "disagrees")])
    def test_verdict(self, two: Sequence[float], said: str) -> None:
        found = verdict({"kind": "better", **self.CLAIM}, self.results(two))
        assert found.verdict == said
        assert f"a at 2 NFE {two[0]:.2f}" in found.measured
        assert "a at 1 NFE 3.00" in found.measured

    def test_an_nfe_that_is_not_scored_is_refused(self) -> None:
        claim = {"says": "so", "metric": "mmd", "kind": "better", **self.CLAIM}
        told = check(CLAIMS.validate_python([claim]), {"a": {}}, ["mmd"], [1])
        assert "nothing is scored at 2 NFE" in str(told)
