"""Heun's method on the velocity.

Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv 2206.00364, Alg. 1 without its
exception at the end: a velocity needs no division by t, so the last step is of second order too. (EDM applies Heun to
dx/dsigma of a denoiser; on the velocity it is another method of the same order.)
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.samplers.base import Flow, Sampler
from genobj.types import Horizon, Samples


@final
class Heun(Sampler):
    """Second order on the velocity, two evaluations a step: the average of both ends."""

    citations: ClassVar[tuple[str, ...]] = ("karras2022edm",)
    evaluations: ClassVar[int] = 2

    steps: Annotated[int, Field(ge=1)] = 25
    """Number of steps."""

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A velocity head, or one that is one at r = t."""
        return ("instant", "ends", "interval")

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """Along the mean of the velocities at t and, after an Euler step, at r."""
        here = flow.velocity(x_t, t)
        there = flow.velocity(x_t - (t - r) * here, r)
        return x_t - (t - r) * (here + there) / 2
