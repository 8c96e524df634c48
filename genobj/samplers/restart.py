"""Jump to data, put noise back, jump again (Consistency Models, arXiv 2303.01469, Alg. 1; UCGM, arXiv 2505.07447)."""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from genobj.samplers.base import Flow, Sampler
from genobj.types import Horizon, Samples


@final
class Restart(Sampler):
    """Consistency sampling: jumps to data with noise put back in between, one evaluation each."""

    citations: ClassVar[tuple[str, ...]] = ("song2023consistency",)

    kappa: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of fresh noise in the variance that is put back; 0 is deterministic (DDIM)."""
    sigma_min: Annotated[float, Field(ge=0)] = 0.0
    """Put back variance sigma^2 - sigma_min^2 only, sigma being noise over data scale (OpenAI's models: 0.002)."""

    told: Literal["data", "next"] = "data"
    """Target time that a flow map is asked for: 0, or the next time of the grid, whose jump is then taken as the
    direction of the whole way (Shortcut's code)."""

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A head that jumps to data, or one that does at r = 0; told the next time, one that knows any r."""
        return ("data", "interval") if self.told == "next" else ("data", "ends", "interval")

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """x_hat by a jump to data, then noise of level r on it."""
        (noise_t, data_t), (noise_r, data_r), (_, data_0) = flow.scales(t), flow.scales(r), flow.scales(0.0)
        x_hat = (x_t - t * flow.average(x_t, t, 0.0 if self.told == "data" else r)) / data_0
        if r == 0:
            return data_0 * x_hat
        z = (x_t - data_t * x_hat) / noise_t
        if self.kappa > 0:
            z = math.sqrt(1 - self.kappa) * z + math.sqrt(self.kappa) * fresh().to(x_t)
        return data_r * x_hat + math.sqrt(max(noise_r**2 - (data_r * self.sigma_min) ** 2, 0)) * z
