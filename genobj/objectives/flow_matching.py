"""Flow matching (Lipman et al., 2023, arXiv:2210.02747): a head learns the instantaneous velocity dx_t/dt.

    L_v = E || v_theta(x_t, t) - v_t ||^2                                                DuMo Eq. (3), (7)

Paper to here: x_1 (data) -> x, x_0 (noise) -> z, and time runs the other way (t = 1 is noise).
"""

from typing import ClassVar

from genobj.objectives.base import Regression
from genobj.types import Draw, Horizon, Passes, Samples


class FlowMatching(Regression):
    """Flow matching: learn the instantaneous velocity (many steps; stable)."""

    horizon: ClassVar[Horizon] = "instant"
    negative: ClassVar[bool] = True
    citations: ClassVar[tuple[str, ...]] = ("lipman2023flow",)

    head: str = "v"
    """Head that learns v_t."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """Eq. (7): the draw's velocity, z - x on the linear path, guided where guidance is on."""
        return draw.v_t
