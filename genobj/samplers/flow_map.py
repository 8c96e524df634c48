"""Jumps of a flow map: x_r = x_t - (t - r) u(x_t, t, r) (MeanFlow, arXiv 2505.13447, Eq. 12)."""

from collections.abc import Callable
from typing import ClassVar, final

from genobj.samplers.base import Flow, Sampler
from genobj.types import Horizon, Samples


@final
class FlowMap(Sampler):
    """Jumps along the average velocity, one evaluation each; one jump makes a sample."""

    citations: ClassVar[tuple[str, ...]] = ("geng2025meanflow",)

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A single jump ends at data; several end between times."""
        return ("data", "ends", "interval") if self.steps == 1 else ("interval",)

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """From t to r in one jump."""
        return x_t - (t - r) * flow.average(x_t, t, r)
