"""Euler's method on the velocity: x_r = x_t - (t - r) v(x_t, t)."""

from collections.abc import Callable
from typing import Annotated, final

from pydantic import Field

from genobj.samplers.base import Flow, Sampler
from genobj.types import Horizon, Samples


@final
class Euler(Sampler):
    """First order on the velocity, one evaluation a step."""

    steps: Annotated[int, Field(ge=1)] = 50
    """Number of steps."""

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A velocity head, or one that is one at r = t."""
        return ("instant", "ends", "interval")

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """Along the velocity at t."""
        return x_t - (t - r) * flow.velocity(x_t, t)
