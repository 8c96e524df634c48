"""AlphaFlow (Zhang et al., 2025, arXiv:2510.20771): from trajectory flow matching to MeanFlow by a step fraction a.

    u_tgt = a v_t + (1 - a) sg u(x_q, q, r),   q = t - a (t - r),    a > 0
    u_tgt = v_t - (t - r) du/dt,                                      a = 0 (MeanFlow)
    L = E  a || u - u_tgt ||^2 / sg( || u - u_tgt ||^2 + c ),         without the factor a where r = t or a = 0

a falls from 1 to 0 by a sigmoid of the training progress. Paper to here: alpha -> a, s -> q; norms are means.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genobj.config.base import Pick
from genobj.distances.adaptive import Adaptive
from genobj.distances.base import Distance
from genobj.objectives.neighbour import Neighbour
from genobj.objectives.tangent import Tangent
from genobj.parts import DISTANCES
from genobj.schedules import Number, Sigmoid, within
from genobj.types import Draw, Horizon, Losses, Passes, Samples, TimeTensor, over


class AlphaFlow(Tangent, Neighbour):
    """AlphaFlow: a curriculum from flow matching along the trajectory to MeanFlow."""

    horizon: ClassVar[Horizon] = "interval"
    citations: ClassVar[tuple[str, ...]] = ("zhang2025alphaflow",)

    head: str = "u"
    """Head that learns u(x_t, t, r)."""
    distance: Annotated[Distance, Pick(DISTANCES, "adaptive")] = Adaptive(reduce="mean")
    """Distance between prediction and target."""
    a: Annotated[Number, within(0.0, 1.0)] = Sigmoid()
    """Step fraction in [0, 1]: a number or a schedule; 0 is MeanFlow."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Bound on the entries of targets with a > 0 (official: 4, on latents of unit scale); unset: none."""

    def earlier(self, draw: Draw) -> TimeTensor:
        """q = t - a (t - r)."""
        return draw.t - self.a(draw.progress) * (draw.t - draw.r)

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """The step, or its limit."""
        if self.a(draw.progress) == 0:
            return self.average(draw, passes)
        target, bound = super().target(draw, passes), self.clip or float("inf")
        return torch.where(over(draw.r == draw.t, target), target, target.clamp(-bound, bound))

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Weighed by a on the rows that make a step."""
        losses = super().loss(out, draw, passes)
        return torch.where(draw.r == draw.t, losses, (self.a(draw.progress) or 1.0) * losses)
