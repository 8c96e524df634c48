"""The midpoint method: x_r = x_t - (t - r) v at the middle of the step, which half an Euler step reaches."""

from collections.abc import Callable
from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.samplers.base import Flow, Sampler
from genobj.types import Horizon, Samples


@final
class Midpoint(Sampler):
    """Second order on the velocity, two evaluations a step: never asks at t = 0."""

    evaluations: ClassVar[int] = 2

    steps: Annotated[int, Field(ge=1)] = 25
    """Number of steps."""

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A velocity head, or one that is one at r = t."""
        return ("instant", "ends", "interval")

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """Along the velocity at (t + r) / 2."""
        middle = x_t - (t - r) / 2 * flow.velocity(x_t, t)
        return x_t - (t - r) * flow.velocity(middle, (t + r) / 2)
