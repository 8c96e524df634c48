"""RCGM: any-step generation by recursive consistency of order N (Sun and Lin, 2025, code of arXiv:2512.05150).

    u*(x_t, t, r) = sg u - clamp( ( (t - r) sg u - S ) / Delta - v_t, +-1 )        where t - r >= Delta
    u*(x_t, t, r) = sg u - clamp( sg u - v_t, +-1 )                                elsewhere

S is the way that N jumps of the network lead from x_t - Delta v_t at t - Delta to r; see objectives/walk.py. Its paper
("Any-step Generation via N-th Order Recursive Consistent Velocity Field Estimation") was not at hand: formulas and
defaults are those of TwinFlow's code, which cites it. Paper to here: F_theta -> u, the target time tt -> r.
"""

from typing import ClassVar

from genobj.objectives.walk import Walk
from genobj.types import Draw, Horizon, Passes, Samples


class AnyStep(Walk):
    """RCGM: a jump equals a small step and N shorter jumps (any number of steps, no derivative)."""

    horizon: ClassVar[Horizon] = "interval"
    negative: ClassVar[bool] = True
    citations: ClassVar[tuple[str, ...]] = ("sun2025rcgm", "cheng2025twinflow")

    head: str = "u"
    """Head that learns u(x_t, t, r)."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """u*."""
        return self.walked(draw, passes)
