"""Objectives about the model's own samples: jumps from x_t to data, looked at under fresh noise (GANs, DMD)."""

import abc
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from genobj.objectives.base import Objective
from genobj.schedules import Constant, Number, within
from genobj.types import Draw, Horizon, Point, Samples


def _ordered(levels: tuple[float, float]) -> tuple[float, float]:
    if levels[0] >= levels[1]:
        raise ValueError(f"runs from low to high, got {list(levels)}; type {sorted(levels)}")
    return levels


Level = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[tuple[Level, Level], AfterValidator(_ordered)]
"""Least and largest time of a uniform law."""


class OwnSamples(Objective, abc.ABC):
    """Two losses: a generator's, on its jumps, and that of the head which follows or judges them."""

    is_error: ClassVar[bool] = False
    draws_chance: ClassVar[bool] = True
    draws_noise: ClassVar[int] = 1

    head: str
    """Head that follows or judges the own samples."""
    generator: str = "u"
    """Head whose jumps to data are the own samples."""
    strength: Annotated[Number, within(0.0)] = Constant(value=0.1)
    """Factor of the generator's loss, a number or a schedule (0 at first: the other head learns alone). `weight` is a
    factor of both losses."""
    noise: Levels = (0.02, 0.98)
    """Times s whose noise samples are given before they are looked at, uniform."""

    @model_validator(mode="after")
    def _two_heads(self) -> "OwnSamples":
        if self.head == self.generator:
            own = type(self).model_fields["head"].default
            raise ValueError(f"head and generator are both {self.head!r}; type @{own} behind the objective's name")
        return self

    @property
    def trains(self) -> Mapping[str, Horizon]:
        """The generator."""
        return {self.generator: "data"}

    @property
    def asks_teacher(self) -> Mapping[str, Horizon]:
        """No head of its own: a teacher is asked for its velocity."""
        return {}

    def jumps(self, out: Mapping[str, Tensor], draw: Draw) -> Samples:
        """x_hat = x_t - t u, with gradients: at t = 0 the state is data_scale(0) times a sample."""
        u = out[self.generator]
        return draw.interpolant.landed(draw.x_t, u, draw.t)

    def seen(self, draw: Draw, *samples: Samples) -> list[Point]:
        """The samples under one and the same noise, at one and the same time s (batch,)."""
        assert draw.chance is not None, "this draws chance"
        low, high = self.noise
        s = low + (high - low) * draw.chance
        return [draw.point._replace(x_t=draw.interpolant.point(x, draw.noise[0], s), t=s, r=s) for x in samples]
