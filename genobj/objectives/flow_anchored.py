"""FACM, flow-anchored consistency (Peng et al., 2025, arXiv:2507.03738): consistency beside an anchor to the velocity.

    u* = sg u + (1 - (1 - t)^p) clamp(v_t - u - t du/dt, -1, 1)        p = 1/2
    L = sin(pi t / 2) m / sg(m + 1e-3)^(1/2),    m = mean (u - u*)^2

The anchor is flow matching on the same network (mse + cosine, weight 1): with a head of its own (`--heads v,u
--objectives fm,facm`, one forward with gradients), or on the same head with rows = "all" for both, which takes two;
the network is then told which one is meant by r (r = t or r = 0, heads.u.r_in=trunk), or by the sign of t, the paper's
expanded time (heads.u.r_in=sign: -t for the velocity). Paper to here: t -> 1 - t, F -> -u. The public code takes du/dt
by forward mode: derivative=jvp.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from genobj.config.base import Pick
from genobj.distances.adaptive import Adaptive
from genobj.distances.base import Distance
from genobj.objectives.tangent import Tangent
from genobj.parts import DISTANCES
from genobj.types import Draw, Horizon, Losses, Passes, Samples, over


class FlowAnchored(Tangent):
    """FACM: consistency with small, bounded steps, for a network that learns the velocity too (add fm)."""

    horizon: ClassVar[Horizon] = "data"
    citations: ClassVar[tuple[str, ...]] = ("peng2025facm",)

    head: str = "u"
    """Head that learns the jump to data."""
    power: Annotated[float, Field(gt=0)] = 0.5
    """p: how soon, from data on, the target moves by its whole step."""
    clamp: Annotated[float, Field(gt=0)] = 1.0
    """Bound on the entries of the step."""
    distance: Annotated[Distance, Pick(DISTANCES, "adaptive")] = Adaptive(power=0.5, eps=1e-3, reduce="mean")
    """Distance between prediction and target."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """The first formula."""
        u, t = self.ask(passes, draw.point), over(draw.t, draw.x_t)
        change = draw.v_t - u - t * self.derivative(draw, passes, self.head, skip=draw.equal)
        return u + (1 - (1 - t) ** self.power) * change.clamp(-self.clamp, self.clamp)

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """The second formula, per sample."""
        return (math.pi / 2 * draw.t).sin() * super().loss(out, draw, passes)
