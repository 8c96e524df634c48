"""Axes of charts: from values to places, their ends, round numbers beside them and how these are written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Real = int | float
WIDE = 30.0
"""Ratio of largest to smallest value from which on an axis is logarithmic."""
NEAR = 3.0
"""Ratio to the nearest value up to which what real data score lies on a logarithmic axis; else its value is written."""
BELOW = 0.1
"""Share of values that may not be positive on a logarithmic axis; they lie on its lower edge."""
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Scale:
    """From values to places in the drawing."""

    low: Real
    high: Real
    start: Real
    end: Real
    log: bool = False

    def __call__(self, value: Real) -> Real:
        """Place of a value; beyond the ends, the end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def is_wide(values: Iterable[Real], ratio: Real = WIDE) -> bool:
    """Whether an axis of these values is logarithmic: nearly all are positive, and they span more than `ratio`."""
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    few = len(finite) - len(positive) <= BELOW * len(finite)
    return bool(positive) and few and max(positive) > ratio * min(positive)


def ticks(low: Real, high: Real, *, log: bool = False, most: int = 6) -> list[Real]:
    """Round numbers from low to high, about `most` of them."""
    if log and high / low > 8:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            found = [value for value in found if low * 0.999 <= value <= high * 1.001]
            if len(found) <= most + 1:
                return found
        return found[:: -(-len(found) // most)]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: Real) -> str:
    """A number in few letters: 0.05, 4000, 12k, 3M; an exponent for tiny ones."""
    if not math.isfinite(value):
        return "not finite"
    unit, name = next(((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= max(u, 1e4)), (1.0, ""))
    few = (
        f"{value / unit:.4g}"
        if abs(value) >= 1000 and float(f"{value / unit:.4g}").is_integer()
        else f"{value / unit:.3g}"
    )
    return f"{few}{name}".replace("e-0", "e-").replace("-", MINUS)


def thinned(places: Sequence[Real], sizes: Sequence[Real]) -> list[int]:
    """Which labels can stand without touching; the first and, where it can, the last one stay."""
    kept = list[int]()
    for i, place in enumerate(places):
        if not kept or place - sizes[i] / 2 > places[kept[-1]] + sizes[kept[-1]] / 2 + 6:
            kept.append(i)
    last = len(places) - 1
    if kept and kept[-1] != last and len(kept) > 2:
        kept[-1] = last
        if places[last] - sizes[last] / 2 <= places[kept[-2]] + sizes[kept[-2]] / 2 + 6:
            del kept[-2]
    return kept


def fitted(values: Sequence[Real], log: bool, level: Real | None) -> tuple[Real, Real]:
    """Ends of the y axis, with room; zero is one of them where that costs little."""
    if log:
        positive = [value for value in values if value > 0]
        low, high = min(positive, default=0.1), max(positive, default=1.0)
        if level is not None and low / NEAR < level < high * NEAR:
            low, high = min(low, level), max(high, level)
        return low / 1.25, high * 1.25
    low, high = min(values, default=0.0), max(values, default=1.0)
    if level is not None and low - (high - low) / 2 < level < low:
        low = level
    low = 0.0 if 0 <= low < 0.4 * high else low
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 else low - room), high + room


def spread(values: Sequence[Real], at: Sequence[Real], log: bool | None, left: Real, right: Real) -> Scale:
    """The x axis over all values and the ticks `at`; log: whether it is logarithmic (None: if they span enough)."""
    found = [value for value in (*values, *at) if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    log = low > 0 and (is_wide(found) if log is None else log)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    inset = 10 if at else 4
    return Scale(low, high, left + inset, right - inset, log)
