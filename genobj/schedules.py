"""Numbers that change while a run goes on: weights of terms, step fractions, stages of a curriculum.

A schedule is a function of `progress`, the share of the training samples seen so far, in [0, 1]. In settings a plain
number is a constant: `weight = 0.3` and `weight = {kind = "linear", start = 1.0, end = 0.3}` both work.
"""

import abc
import math
from typing import Annotated, ClassVar, final

from pydantic import AfterValidator, Field, model_validator

from genobj.config.base import Config, Pick
from genobj.parts import SCHEDULES

Share = Annotated[float, Field(ge=0, le=1)]


class Schedule(Config, abc.ABC):
    """Subclasses say what a number is at every moment of a run."""

    @abc.abstractmethod
    def __call__(self, progress: float) -> float:
        """Value after this share of the run, progress in [0, 1]."""

    @property
    @abc.abstractmethod
    def span(self) -> tuple[float, float]:
        """Smallest and largest value of the run, for range checks."""


@final
class Constant(Schedule):
    """The same number all the time; written as a plain number."""

    value: float = 1.0
    """The number."""

    def __call__(self, progress: float) -> float:
        """The value."""
        return self.value

    @property
    def span(self) -> tuple[float, float]:
        """The value, twice."""
        return self.value, self.value


class Ramp(Schedule, abc.ABC):
    """From `start` to `end` between two moments of the run, constant before and after."""

    start: float = 1.0
    """Value up to the moment `begin`."""
    end: float = 0.0
    """Value from the moment `until` on."""
    begin: Share = 0.0
    """Share of the run at which the change begins."""
    until: Share = 1.0
    """Share of the run at which it is complete."""

    @model_validator(mode="after")
    def _ordered(self) -> "Ramp":
        if self.begin >= self.until:
            raise ValueError(f"begin={self.begin:g} must lie before until={self.until:g}; swap them")
        return self

    def __call__(self, progress: float) -> float:
        """The shape between begin and until."""
        return self.between(min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0))

    @abc.abstractmethod
    def between(self, s: float) -> float:
        """Value when the share s in [0, 1] of the change is over."""

    @property
    def span(self) -> tuple[float, float]:
        """The two ends, sorted."""
        return min(self.start, self.end), max(self.start, self.end)


@final
class Straight(Ramp):
    """A straight line from start to end."""

    def between(self, s: float) -> float:
        """start + (end - start) s."""
        return self.start + (self.end - self.start) * s


@final
class Cosine(Ramp):
    """Half a cosine from start to end: slow, fast, slow."""

    def between(self, s: float) -> float:
        """Between the ends by (1 - cos(pi s)) / 2."""
        return self.start + (self.end - self.start) * (1 - math.cos(math.pi * s)) / 2


@final
class Exponential(Ramp):
    """Equal ratios in equal times, start (end / start)^s: SoFlow's step fraction (arXiv 2512.15657)."""

    citations: ClassVar[tuple[str, ...]] = ("luo2025soflow",)

    end: float = 0.1
    """Value from the moment `until` on."""

    @model_validator(mode="after")
    def _positive(self) -> "Exponential":
        if self.start <= 0 or self.end <= 0:
            raise ValueError("start and end of an exponential schedule are positive; type kind=linear to reach 0")
        return self

    def between(self, s: float) -> float:
        """start (end / start)^s."""
        return self.start * (self.end / self.start) ** s


@final
class Sigmoid(Ramp):
    """A sigmoid from start to end, set to them where it is within `snap`: AlphaFlow's step fraction."""

    citations: ClassVar[tuple[str, ...]] = ("zhang2025alphaflow",)

    gain: Annotated[float, Field(gt=0)] = 25.0
    """Steepness; the sigmoid's argument runs from -gain / 2 to gain / 2."""
    snap: Annotated[float, Field(ge=0, lt=0.5)] = 0.005
    """Share of the way within which the value is that of the end."""

    def between(self, s: float) -> float:
        """start + (end - start) sigmoid(gain (s - 1/2))."""
        way = 1 / (1 + math.exp(-self.gain * (s - 0.5)))
        way = 0.0 if way < self.snap else 1.0 if way > 1 - self.snap else way
        return self.start + (self.end - self.start) * way


@final
class Stairs(Ramp):
    """Equal steps of equal length from start to end: ECT's stages are {start = 0, end = 7, count = 8}."""

    count: Annotated[int, Field(ge=2)] = 8
    """Number of values, the ends included."""

    def between(self, s: float) -> float:
        """One of `count` values."""
        return self.start + (self.end - self.start) * min(int(s * self.count), self.count - 1) / (self.count - 1)


@final
class Doubling(Ramp):
    """start, 2 start, 4 start, ... up to end, all for equally long: iCT's number of noise levels (arXiv 2310.14189)."""

    citations: ClassVar[tuple[str, ...]] = ("song2023ict",)

    start: float = 10.0
    """First value."""
    end: float = 1280.0
    """Last value; an integer power of two times the first."""

    @model_validator(mode="after")
    def _reachable(self) -> "Doubling":
        if self.start <= 0 or self.end <= self.start or not math.log2(self.end / self.start).is_integer():
            raise ValueError(f"end={self.end:g} must be start={self.start:g} times 2, 4, 8, ...")
        return self

    def between(self, s: float) -> float:
        """min(start 2^floor(s K), end) with K = log2(end / start) + 1 values."""
        values = math.floor(math.log2(self.end / self.start)) + 1
        return min(self.start * 2 ** math.floor(s * values), self.end)


@final
class Root(Ramp):
    """Whole numbers whose square grows at a constant rate: CT's number of noise levels (arXiv 2303.01469, App. C)."""

    citations: ClassVar[tuple[str, ...]] = ("song2023consistency",)

    start: float = 2.0
    """First value, a whole number: s0 of the paper."""
    end: float = 151.0
    """Last value, a whole number: s1 + 1 of the paper (CIFAR-10: 151, ImageNet 64: 201)."""

    @model_validator(mode="after")
    def _whole(self) -> "Root":
        if not (self.start.is_integer() and self.end.is_integer() and 1 <= self.start < self.end):
            raise ValueError(f"start={self.start:g} and end={self.end:g} must be whole numbers with 1 <= start < end")
        return self

    def between(self, s: float) -> float:
        """ceil(sqrt(start^2 + s (end^2 - start^2)))."""
        return float(math.ceil(math.sqrt(self.start**2 + s * (self.end**2 - self.start**2))))


Number = Annotated[Schedule, Pick(SCHEDULES, plain="constant")]
"""A plain number, or a schedule."""


def within(low: float, high: float = math.inf) -> AfterValidator:
    """For Annotated[Number, within(0, 1)]: the number stays in [low, high] at every moment of the run."""

    def check(number: Schedule) -> Schedule:
        smallest, largest = number.span
        if smallest < low or largest > high:
            limits = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
            values = f"{smallest:g}" if smallest == largest else f"{smallest:g} to {largest:g}"
            raise ValueError(f"must be {limits}, got {values}")
        return number

    return AfterValidator(check)
