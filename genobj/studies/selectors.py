"""How a claim names variants: a whole group, or points of its axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field

from genobj.config.base import Config
from genobj.registry import did_you_mean
from genobj.studies.results import Value

Groups = Mapping[str, Mapping[str, Sequence[Value]]]
"""Values of every axis of every group."""


class Selector(Config):
    """Variants of one group: all of them, or points of its axes. A bare name stands for a whole group."""

    group: Annotated[str, Field(min_length=1)]
    """Key of the variant in the study."""
    at: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)
    """A value, or several, of some of its axes. Where several variants are left, the best one by mean is meant."""
    nfe: Annotated[int, Field(gt=0)] | None = None
    """Network evaluations of this side; unset: the claim's."""

    def __str__(self) -> str:
        points = (f"{axis}={'|'.join(map(str, self.values(axis)))}" for axis in self.at)
        return " ".join([self.group, *points, *([f"at {self.nfe} NFE"] if self.nfe else [])])

    def picks(self, group: str, point: Mapping[str, Value]) -> bool:
        """Whether a variant is one of those meant."""
        return group == self.group and all(
            axis in point and any(same(point[axis], value) for value in self.values(axis)) for axis in self.at
        )

    def values(self, axis: str) -> tuple[Value, ...]:
        """The values of an axis that are asked for."""
        asked = self.at[axis]
        return asked if isinstance(asked, tuple) else (asked,)

    def problem(self, groups: Groups) -> str | None:
        """What a study with these groups lacks."""
        if self.group not in groups:
            known = ", ".join(groups)
            return f"there is no variant {self.group!r}.{did_you_mean(self.group, groups)} Known variants: {known}."
        axes = groups[self.group]
        for axis in self.at:
            if axis not in axes:
                known = f"Its axes: {', '.join(axes)}." if axes else "It has none."
                return f"{self.group} has no axis {axis!r}.{did_you_mean(axis, axes)} {known}"
            for value in self.values(axis):
                if not any(same(value, other) for other in axes[axis]):
                    return f"{self.group} has no point {axis}={value}; its values: {', '.join(map(str, axes[axis]))}"
        return None


def same(one: Value, other: Value) -> bool:
    """Equal, but for rounding; true is not 1."""
    if isinstance(one, str | bool) or isinstance(other, str | bool):
        return type(one) is type(other) and one == other
    return math.isclose(one, other, rel_tol=1e-9)


def _group(value: object) -> object:
    return {"group": value} if isinstance(value, str) else value


Which = Annotated[Selector, BeforeValidator(_group)]
