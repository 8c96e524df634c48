"""Consistency training of the flow map to data (DuMo, arXiv:2602.17682; Song et al., 2023, arXiv:2303.01469).

    L_u = E || u_theta - v_t + t du_{theta^-}/dt ||^2                      DuMo Eq. (8), Alg. 1 line 10
    L_lam = E || u_theta - (1 - lam) v_t - lam u_{theta^-}(x_{lam t}, lam t) ||^2 / (1 - lam)      Eq. (4)

x = x_t - t u in one evaluation. The discrete form compares t with its neighbour lam t; lam -> 1 is Eq. (8),
lam = 0 is flow matching. Paper to here: x_0 -> x, alpha -> noise_scale, gamma -> data_scale.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from torch import Tensor

from genobj.objectives.tangent import Tangent
from genobj.schedules import Number, within
from genobj.types import Draw, Horizon, Losses, Passes, Samples, over


class Consistency(Tangent):
    """Consistency: learn the jump from any x_t to the data (one step)."""

    horizon: ClassVar[Horizon] = "data"
    citations: ClassVar[tuple[str, ...]] = ("sun2026dumo", "song2023consistency")

    head: str = "u"
    """Head that learns u_t."""
    lam: Annotated[Number, within(0.0, 1 - 1e-6)] | None = None
    """Ratio of the neighbouring time to t in the discrete form, Eq. (4), a number or a schedule in [0, 1); unset: the
    limit, Eq. (8)."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """Alg. 1 line 10, or Eq. (4) solved for u_theta."""
        t = over(draw.t, draw.x_t)
        if self.lam is None:
            return draw.v_t - t * self.derivative(draw, passes, self.head, skip=draw.equal)
        lam, precise = self.lam(draw.progress), self.derivative.precision == "float32"
        neighbour = draw.point._replace(x_t=draw.x_t - (1 - lam) * t * draw.v_t, t=lam * draw.t)
        u = self.ask(passes, neighbour, weights=self.derivative.weights, precise=precise, skip=draw.equal)
        return (1 - lam) * draw.v_t + lam * u

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Per sample; the discrete form is divided by 1 - lam, which makes Eq. (8) its limit."""
        loss = super().loss(out, draw, passes)
        return loss if self.lam is None else loss / (1 - self.lam(draw.progress))
