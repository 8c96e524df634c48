"""Self guidance: the model's own conditional and unconditional velocities (DuMo Alg. 1, lines 8 and 9).

    v_t <- v_t + zeta ( sg v_theta(x_t, t, y) - v_theta^-(x_t, t, null) )

The fixed point is classifier-free guidance of scale 1 / (1 - zeta): zeta .55 is 2.22, .66 is 2.94 (the same as
MeanFlow's omega = 1, kappa = zeta). With an instant head the first velocity comes from the forward with gradients,
which makes it free; a single-branch model pays a pass for it (r = t instead of r).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from genobj.guidance.base import Guidance
from genobj.types import Draw, Passes, Samples, Weights


class SelfGuidance(Guidance):
    """Guide with the model's own velocities: v_t + zeta (v(y) - v(null)), CFG scale 1 / (1 - zeta)."""

    citations: ClassVar[tuple[str, ...]] = ("sun2026dumo", "ho2022cfg")

    zeta: Annotated[float, Field(ge=0, lt=1)] = 0.55
    """Enhancement ratio; 0 is no guidance, DuMo uses .55 at 256 x 256 and .66 at 512 x 512."""
    weights: Literal["online", "ema"] = "online"
    """Network of the unconditional velocity (theta^-): the live one or its average."""

    @property
    def active(self) -> bool:
        """Whether zeta is not zero."""
        return self.zeta > 0

    @property
    def networks(self) -> frozenset[Weights]:
        """The average, if it is asked for."""
        return frozenset({self.weights})

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """DuMo Alg. 1, line 9."""
        return self.mixed(draw, passes, 1.0, self.zeta, unconditional=self.weights)
