"""MeanFlow (Geng et al., 2025, arXiv:2505.13447): a head learns the average velocity over [r, t].

    (t - r) u(x_t, r, t) = int_r^t v_s ds     differentiate in t  =>
    u_tgt = v_t - (t - r) du/dt,    du/dt = v_t . grad_x u + d_t u                       Eq. (6), (9), (10)

Where r = t the target is the velocity: those rows (`pairs.equal_share`) are the velocity loss of DuMo Eq. (5), and no
derivative is taken in them. Paper to here: z_t -> x_t, epsilon -> z, x -> x; r = 0 is the consistency objective.
"""

from typing import ClassVar

from genobj.objectives.tangent import Tangent
from genobj.types import Draw, Horizon, Passes, Samples


class MeanFlow(Tangent):
    """MeanFlow: learn the average velocity between any two times (one or a few steps)."""

    horizon: ClassVar[Horizon] = "interval"
    citations: ClassVar[tuple[str, ...]] = ("geng2025meanflow",)

    head: str = "u"
    """Head that learns u(x_t, r, t)."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """Eq. (10)."""
        return self.average(draw, passes)
