"""Improved MeanFlow (Geng et al., 2025, arXiv:2512.02012): the derivative follows the model's own velocity.

    V_theta = u_theta + (t - r) sg(du/dt),    du/dt = v_theta . grad_x u + d_t u,    L = E || V_theta - v_t ||^2

MeanFlow's tangent z - x makes its target depend on the noise of the pair; v_theta(x_t, t) depends on x_t alone, so
this is a velocity regression. v_theta is a second head beside u (`--heads v,u --objectives fm,imf`), or u at r = t.
V_theta - v_t = u - [v_t - (t - r) du/dt]: the target is MeanFlow's, along another direction. Guidance as an input of
the network (Sec. 4): guidance=fed.
"""

from typing import ClassVar

from genobj.derivatives import Derivative
from genobj.objectives.tangent import Tangent
from genobj.types import Draw, Horizon, Passes, Samples


class ImprovedMeanFlow(Tangent):
    """Improved MeanFlow: the average velocity by a derivative along the model's own velocity."""

    horizon: ClassVar[Horizon] = "interval"
    citations: ClassVar[tuple[str, ...]] = ("geng2025imf",)

    head: str = "u"
    """Head that learns u(x_t, r, t)."""
    derivative: Derivative = Derivative(direction="predicted")
    """How du/dt is estimated (the paper: jvp)."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """What u must say for V_theta = v_t."""
        return self.average(draw, passes)
