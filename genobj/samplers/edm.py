"""Heun's method on the denoiser in sigma (Karras et al., arXiv 2206.00364, Alg. 1 without churn).

Paper to here: their state is y = x_t / data_scale(t), with the noise level sigma = noise_scale / data_scale, and their
denoiser D(y, sigma) the data that x_t and its velocity belong to. dy/dsigma = (y - D) / sigma.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.config.base import Pick
from genobj.parts import GRIDS
from genobj.samplers.base import Flow, Sampler
from genobj.samplers.grids import Grid, Karras
from genobj.types import Horizon, Samples

FAINTEST = 1e-6
"""Share of data in a state below which its noise level counts as infinite."""


@final
class EDMHeun(Sampler):
    """EDM's: second order in sigma on the denoiser, two evaluations a step and one in the last."""

    citations: ClassVar[tuple[str, ...]] = ("karras2022edm",)
    evaluations: ClassVar[int] = 2

    steps: Annotated[int, Field(ge=1)] = 18
    """Number of steps."""
    grid: Annotated[Grid, Pick(GRIDS, "karras")] = Karras()
    """Times between the steps, karras: where the path has EDM's noise levels. Sigma must be finite at the first one."""

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A velocity head, or one that is one at r = t."""
        return ("instant", "ends", "interval")

    def cost(self, steps: int) -> int:
        """2 N - 1: the step to data is Euler's."""
        return 2 * steps - 1

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """Alg. 1, lines 6 to 11. ValueError if sigma is infinite at t."""
        (noise_t, data_t), (noise_r, data_r) = flow.scales(t), flow.scales(r)
        if data_t < FAINTEST * noise_t:
            raise ValueError(f"the noise level is infinite at t = {t:g}, where edm cannot start: type grid=karras")
        sigma, sigma_r = noise_t / data_t, noise_r / data_r
        here, y = self._slope(flow, x_t, t, sigma), x_t / data_t
        y_r = y + (sigma_r - sigma) * here
        if r > 0:
            y_r = y + (sigma_r - sigma) * (here + self._slope(flow, data_r * y_r, r, sigma_r)) / 2
        return data_r * y_r

    @staticmethod
    def _slope(flow: Flow, x_t: Samples, t: float, sigma: float) -> Samples:
        """dy/dsigma."""
        x_hat, _ = flow.ends(x_t, flow.velocity(x_t, t), t)
        return (x_t / flow.scales(t)[1] - x_hat) / sigma
