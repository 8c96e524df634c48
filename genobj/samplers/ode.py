"""The reference: the velocity integrated to a tolerance (Song et al., arXiv 2011.13456, Sec. 4.3)."""

from collections.abc import Callable
from typing import Annotated, ClassVar, final

from pydantic import Field

from genobj.samplers.adaptive import Method, integrate
from genobj.samplers.base import Flow, Sampler
from genobj.types import Horizon, Samples


@final
class Ode(Sampler):
    """Adaptive Runge-Kutta on the velocity: evaluations are counted, not chosen.

    All samples of a batch take the same steps, so that other batches change a sample, by less than the tolerance.
    """

    citations: ClassVar[tuple[str, ...]] = ("song2021sde",)
    adaptive: ClassVar[bool] = True

    method: Method = "rk45"
    """rk45 and dop853 are scipy's; dopri5 is torchdiffeq's (extra `ode`) and stays on the GPU."""
    rtol: Annotated[float, Field(gt=0)] = 1e-5
    """Tolerated error of a step, relative to the state."""
    atol: Annotated[float, Field(gt=0)] = 1e-5
    """Tolerated error of a step where the state is small."""
    limit: Annotated[int, Field(ge=10)] = 10_000
    """Evaluations after which to give up."""

    @property
    def answers(self) -> tuple[Horizon, ...]:
        """A velocity head, or one that is one at r = t."""
        return ("instant", "ends", "interval")

    def with_nfe(self, nfe: int) -> "Ode":
        """ValueError: the tolerances settle it."""
        raise ValueError(
            f"ode counts its evaluations and cannot be told nfe={nfe}: type rtol and atol, or a sampler such as heun"
        )

    def step(self, flow: Flow, x_t: Samples, t: float, r: float, fresh: Callable[[], Samples]) -> Samples:
        """Every step of the grid is integrated by itself; more than one are of use for a trajectory only."""
        how = {"method": self.method, "rtol": self.rtol, "atol": self.atol, "limit": self.limit}
        return integrate(lambda time, state: flow.velocity(state, time), x_t, t, r, **how)
