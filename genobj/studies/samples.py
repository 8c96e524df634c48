"""What a study measured of one variant, seed by seed, and how two variants compare where some runs diverged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from genobj.studies.results import Cell, Results, Variant
from genobj.studies.statistics import LEVEL, Paired, Summary, paired, positive, summary


@dataclass(frozen=True)
class Sample:
    """Values of one variant by one metric at one nfe."""

    variant: Variant
    values: dict[int, float]
    """By seed, in the metric's own unit; nan or infinite where the run diverged."""
    gaps: dict[int, str] = field(default_factory=dict)
    """Why other seeds have no value: 'is missing', 'failed: out of memory'."""
    nfe: int | None = None
    """Its evaluations, where sentences have to tell them."""

    @property
    def summary(self) -> Summary:
        """Of all its values."""
        return summary(self.values.values())

    def moved(self, factor: float = 1.0, amount: float = 0.0) -> "Sample":
        """With all values so many times as large, and larger by so much."""
        return replace(self, values={seed: value * factor + amount for seed, value in self.values.items()})


def sample(results: Results, name: str, metric: str, nfe: int) -> Sample:
    """What each of the study's seeds says of a variant."""
    cells = {cell.seed: cell for cell in results.cells if cell.variant == name}
    values = results.values(name, metric, nfe) | {seed: math.nan for seed, cell in cells.items() if cell.diverged}
    every = sorted({cell.seed for cell in results.cells})
    gaps = {seed: _why(cells.get(seed)) for seed in every if seed not in values}
    return Sample(results.variant(name), dict(sorted(values.items())), gaps)


def _why(cell: Cell | None) -> str:
    if cell is None or cell.state == "missing":
        return "is missing"
    return f"failed: {cell.error}" if cell.state == "failed" else "has no such score"


def best(samples: Sequence[Sample], higher: bool) -> Sample:
    """The best mean among those with the smallest share of diverged runs; the first one of equals.

    samples: at least one with a value. higher: whether higher values are better.
    """

    def rank(one: Sample) -> tuple[float, float]:
        found = one.summary
        return found.broken / len(one.values), (-found.mean if higher else found.mean) if found.n else math.inf

    return min((one for one in samples if one.values), key=rank)


def compare(left: Sample, right: Sample, higher: bool, margin: float = 0.0) -> Paired | None:
    """left / right over their common seeds, left - right where a value is not above zero; None if they have none.

    margin: by what share right is first made worse (see `allowed`).

    A diverged run is worse than every number. It gets the worst number of both variants, which is kind to it; if that
    leaves them alike, seeds are compared by who diverged: the difference is then 1, 0 or -1, with the sign of worse
    values, as if a diverged run had a value without bound.
    """
    common = left.values.keys() & right.values.keys()
    ratio = divides(left, right)  # of what was measured: right's values may cross zero as they are moved
    factor, amount = allowed(left, right, higher, margin)
    values = [{seed: one.values[seed] for seed in common} for one in (left, right.moved(factor, amount))]
    finite = [value for side in values for value in side.values() if math.isfinite(value)]
    if len(finite) == 2 * len(common):
        return paired(*values, ratio=ratio)
    if finite:
        worst = min(finite) if higher else max(finite)
        whole = ({s: v if math.isfinite(v) else worst for s, v in side.items()} for side in values)
        pair = paired(*whole, ratio=ratio)
        if pair is not None and pair.significant:
            return pair
    worse = -1.0 if higher else 1.0
    gone = ({s: 0.0 if math.isfinite(v) else worse for s, v in side.items()} for side in values)
    return paired(*gone, ratio=False)


def divides(left: Sample, right: Sample) -> bool:
    """Whether these two are compared by their ratio: where every finite value of both is above zero."""
    common = left.values.keys() & right.values.keys()
    return positive(*([one.values[seed] for seed in common] for one in (left, right)))


def allowed(left: Sample, right: Sample, higher: bool, margin: float) -> tuple[float, float]:
    """Factor and amount that make right worse by a share, so that left is compared with what is still allowed.

    A ratio may be 1 + margin, or 1 / (1 + margin) where higher is better; a difference margin times right's mean.
    """
    if divides(left, right):
        return (1 / (1 + margin) if higher else 1 + margin), 0.0
    mean = right.summary.mean
    return 1.0, (-1 if higher else 1) * margin * abs(mean) if math.isfinite(mean) else 0.0


def winner(pair: Paired, higher: bool, points: tuple[int, int] = (1, 1)) -> int:
    """1 if the left one is significantly better, -1 if the right one is, 0 if they are not told apart.

    points: how many points left and right were picked from as the best one, on these very seeds. Of many equal points
    the luckiest looks better than it is, so p has to be that many times smaller for it to win (Bonferroni).
    """
    side = 1 if pair.larger == higher else -1
    picked = points[0] if side == 1 else points[1]
    return side if pair.significant and pair.p * picked < 1 - LEVEL else 0
