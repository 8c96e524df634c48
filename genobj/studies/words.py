"""How variants and numbers of studies are written: in sentences, tables and reports alike."""

import math
import re
import shlex
from collections.abc import Mapping

from genobj.metrics.records import Record
from genobj.studies.results import Results, Value
from genobj.studies.statistics import Paired, Summary

INCONCLUSIVE = (
    "Inconclusive: runs are missing, or the interval over seeds holds both answers: the means may clearly agree or "
    "disagree with a claim, and yet these seeds cannot tell."
)
"""What that verdict says, and what it does not."""


def leaning(agrees: bool) -> str:
    """Of an inconclusive verdict: what the means say of the claim, and that this is not enough."""
    return f"the means {'agree' if agrees else 'disagree'}, the seeds cannot tell"


def label(results: Results, name: str) -> str:
    """Title of a variant, with its point: 'MeanFlow rho=0.8'."""
    variant = results.variant(name)
    inner = ",".join(f"{axis}={value}" for axis, value in variant.point.items())
    short = variant.title.removesuffix(f"[{inner}]")
    shared = sum(other.title == variant.title for other in results.variants) > 1
    return f"{short} {place(variant.point)}" if variant.point and (shared or short != variant.title) else short


def one_line(command: str) -> str:
    """A command without line breaks: settings with lists, as TOML writes them, become 'evaluation.nfe=[1,2,4,32]'."""
    if "\n" not in command:
        return command
    return shlex.join(map(flat, shlex.split(command)))


def flat(literal: str) -> str:
    """A TOML value in one line: '[1,2]' for an array that is written line by line."""
    return re.sub(r"\s*\n\s*", "", re.sub(r",\s*\n\s*\]", "]", literal))


def place(point: Mapping[str, Value]) -> str:
    """'rho=0.8 beta=1'."""
    return " ".join(f"{axis}={shown(value)}" for axis, value in point.items())


def shown(value: Value) -> str:
    """A point of an axis: 0 for 0.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def digits(value: float) -> str:
    """Three significant digits: '0.0213', '2.16', '28700'; an exponent for what is below .0001 or above ten million."""
    if not math.isfinite(value) or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    rounded = float(f"{value:.3g}")  # first: 9.996 has one decimal less then
    return f"{rounded:.{_decimals(rounded)}f}"


def _decimals(value: float) -> int:
    """Decimals that show three significant digits."""
    return max(0, 2 - math.floor(math.log10(abs(value))))


def count(value: float | int) -> str:
    """A number of things, or a mean of such: '1,024,000', '2.33'."""
    return f"{value:,.0f}" if value == round(value) else digits(value)


def number(record: Record, value: float) -> str:
    """A value or a difference in the unit of its metric."""
    return digits(value * record.factor)


def apart(record: Record, pair: Paired) -> tuple[str, str, str]:
    """How far two variants lie apart, and the interval's ends: ratios, or differences in the unit of the metric."""
    middle, low, high = (
        _ratio(value) if pair.ratio else number(record, value) for value in (pair.difference, *pair.interval)
    )
    return middle, low, high


def _ratio(value: float) -> str:
    """'1.004' instead of '1.00': an interval that ends beside 1 must not seem to hold it."""
    told = digits(value)
    off = abs(value - 1)
    return f"{value:.{math.ceil(-math.log10(off))}f}" if told == "1.00" and off > 1e-6 else told


def gap(record: Record, pair: Paired) -> str:
    """'ratio 3.10 (95 % interval 2.20 to 4.40)', 'difference -8.10 (95 % interval -9.90 to -6.00)'."""
    middle, low, high = apart(record, pair)
    within = f"95 % interval {low} to {high}" if pair.n > 1 else "one seed"
    return f"{'ratio' if pair.ratio else 'difference'} {middle} ({within})"


def plus_minus(record: Record, found: Summary) -> str:
    """'2.16 +- 0.75' in the unit of the metric, or '2.16' alone; diverged runs are counted: '2.16, 1 of 3 diverged'."""
    told = _spread(found.mean * record.factor, found.spread * record.factor) if found.n else ""
    gone = f"{found.broken} of {found.n + found.broken} diverged" if found.broken else ""
    return ", ".join(filter(None, (told, gone)))


def _spread(mean: float, spread: float) -> str:
    if math.isnan(spread):
        return digits(mean)
    size = max(abs(mean), spread)
    if size == 0 or not 1e-4 <= size < 1e7:
        return f"{digits(mean)} +- {spread:.2g}"
    decimals = _decimals(float(f"{size:.3g}"))
    rounded = f"{spread:.{decimals}f}" if spread == 0 or round(spread, decimals) else f"{spread:.1g}"
    return f"{mean:.{decimals}f} +- {rounded}"


def heading(record: Record, nfe: int) -> str:
    """Of a column: '1000 x MMD^2, 1 NFE'; the metric's name too where it is not the usual one."""
    title = record.title or record.metric
    title = title if record.metric.partition(".")[0] == record.kind else f"{record.metric}: {title}"
    return f"{title}, {nfe} NFE" if nfe else title
