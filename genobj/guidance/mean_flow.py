"""MeanFlow's guidance (Geng et al., arXiv 2505.13447, Sec. 4.2 and App. B.1), also AlphaFlow's and SoFlow's.

    v_g = omega v_t + kappa u(x_t, t, t | y) + (1 - omega - kappa) u(x_t, t, t | null)

The effective scale is omega / (1 - kappa). A small omega takes noise out of the target: the data's velocity enters
with omega alone. kappa = 0 saves the conditional pass. SoFlow (arXiv 2512.15657) with scale w and mix m is
omega = m w, kappa = 1 - m, and lets its strength fade towards t = 1 (`fade`).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from genobj.guidance.base import Guidance
from genobj.types import Draw, Passes, Samples, TimeTensor, Weights


class MeanFlowGuidance(Guidance):
    """Guide with omega of the data's velocity and kappa of the model's: CFG scale omega / (1 - kappa)."""

    citations: ClassVar[tuple[str, ...]] = ("geng2025meanflow", "ho2022cfg")

    omega: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the data's velocity v_t (MeanFlow: 1 for B/2, 0.2 for XL/2)."""
    kappa: Annotated[float, Field(lt=1)] = 0.5
    """Factor of the model's conditional velocity (MeanFlow: 0.5 for B/2, 0.92 for XL/2)."""
    fade: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Time above which omega fades to 1 - kappa, no guidance, at t = 1 (SoFlow: 0.8); unset: it does not."""
    weights: Literal["online", "ema"] = "online"
    """Network of both velocities."""

    @property
    def active(self) -> bool:
        """Whether v_g is not v_t."""
        return (self.omega, self.kappa) != (1.0, 0.0)

    @property
    def networks(self) -> frozenset[Weights]:
        """The average, if it is asked for."""
        return frozenset({self.weights})

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """The formula above."""
        omega = self.omega if self.fade is None else self._faded(draw.t, self.fade)
        return self.mixed(draw, passes, omega, self.kappa, self.weights, self.weights)

    def _faded(self, t: TimeTensor, begin: float) -> TimeTensor:
        """omega up to `begin`, then 1 - kappa + c (omega - 1 + kappa) with SoFlow's c(t) = 1 - exp(-d / 40 (1 - d))."""
        d = ((1 - t) / (1 - begin)).clamp(max=1 - 1e-6)
        strength = (1 - (-0.025 * d / (1 - d)).exp()).where(t > begin, 1.0)
        free = 1 - self.kappa
        return free + strength * (self.omega - free)
