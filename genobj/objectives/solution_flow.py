"""SoFlow (Luo et al., 2025, arXiv:2512.15657): solution consistency without a derivative.

    f(x_t, t, r) = x_t - (t - r) u,    R = ( f(x_t, t, r) - f(x_q, q, r) ) / (q - t) = ( u - u_tgt ) / a
    L = E  < u, sg(R) > sg( || R ||^2 + c )^-p

The loss is linear in u: its value is no error (it may be negative), its gradient is that of || u - u_tgt ||^2 / (2 a)
with the same weight; norms are means. Paper to here: s -> r, l -> q. The step fraction a falls exponentially. The
velocity part is fm on the same head, on the rows with r = t: --objectives fm@u,soflow@u.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genobj.objectives.neighbour import Neighbour
from genobj.schedules import Exponential, Number, within
from genobj.types import Draw, Horizon, Losses, Passes, TimeTensor, over


class SolutionFlow(Neighbour):
    """SoFlow: consistency of the solution map over a shrinking step."""

    horizon: ClassVar[Horizon] = "interval"
    is_error: ClassVar[bool] = False
    citations: ClassVar[tuple[str, ...]] = ("luo2025soflow",)

    head: str = "u"
    """Head that learns u(x_t, t, r)."""
    a: Annotated[Number, within(1e-6, 1.0)] = Exponential(start=0.1, end=0.002)
    """Step fraction in (0, 1]: a number or a schedule (ImageNet: .1 to .002, CIFAR-10: 1 to .0003125)."""
    power: Annotated[float, Field(ge=0)] = 1.0
    """p of the weight (ImageNet: 1, CIFAR-10: 0.75); 0: none."""
    eps: Annotated[float, Field(gt=0)] = 1e-2
    """c of the weight, for the mean squared residual (ImageNet: 1e-2, CIFAR-10: 1e-3)."""
    shortest: Annotated[float, Field(ge=0)] = 1e-4
    """Smallest step t - q, as far as t - r allows it."""

    def earlier(self, draw: Draw) -> TimeTensor:
        """q = t - a (t - r), at least `shortest` below t but not below r."""
        q = torch.minimum(draw.t - self.a(draw.progress) * (draw.t - draw.r), draw.t - self.shortest)
        return torch.maximum(q, draw.r)

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """The linear form."""
        u = out[self.head]
        with torch.no_grad():
            a = self.fraction(draw, self.earlier(draw))
            residual = (u - self.target(draw, passes)) / over(a, u)
            weight = (residual.square().flatten(1).mean(1) + self.eps) ** -self.power
        return (u * residual).flatten(1).mean(1) * weight
