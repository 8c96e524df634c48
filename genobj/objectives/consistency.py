"""Consistency training of the flow map to data (DuMo, arXiv:2602.17682; Song et al., 2023, arXiv:2303.01469).

    L_u = E || u_theta - v_t + t du_{theta^-}/dt ||^2                      DuMo Eq. (8), Alg. 1 line 10
    L_lam = E || u_theta - (1 - lam) v_t - lam u_{theta^-}(x_{lam t}, lam t) ||^2 / (1 - lam)      Eq. (4)

x = x_t - t u in one evaluation. The discrete form compares t with its neighbour lam t; lam -> 1 is Eq. (8),
lam = 0 is flow matching. Paper to here: x_0 -> x, alpha -> noise_scale, gamma -> data_scale.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from genobj.derivatives import Derivative
from genobj.objectives.base import Regression
from genobj.types import Draw, Horizon, Losses, Passes, Point, Samples, Weights, over


class Consistency(Regression):
    """Consistency: learn the jump from any x_t to the data (one step)."""

    horizon: ClassVar[Horizon] = "data"
    citations: ClassVar[tuple[str, ...]] = ("sun2026dumo", "song2023consistency")

    head: str = "u"
    """Head that learns u_t."""
    derivative: Derivative = Derivative()
    """How du/dt is estimated."""
    lam: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Ratio of the neighbouring time to t in the discrete form, Eq. (4); unset: the limit, Eq. (8)."""

    @property
    def networks(self) -> frozenset[Weights]:
        """The network theta^-."""
        return frozenset({self.derivative.weights})

    def refusal(self, *, guided: bool) -> str | None:
        """What the derivative says of itself."""
        return self.derivative.refusal(guided=guided)

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """Alg. 1 line 10, or Eq. (4) solved for u_theta."""
        if self.lam is None:
            return draw.v_t - over(draw.t, draw.x_t) * self.derivative(draw, passes, self.head)
        x_lam = draw.x_t - (1 - self.lam) * over(draw.t, draw.x_t) * draw.v_t
        neighbour = Point(x_lam, self.lam * draw.t, draw.r, draw.y)
        precise = self.derivative.precision == "float32"
        u = passes(neighbour, weights=self.derivative.weights, precise=precise)[0][self.head]
        return (1 - self.lam) * draw.v_t + self.lam * u

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Per sample; the discrete form is divided by 1 - lam, which makes Eq. (8) its limit."""
        loss = super().loss(out, draw, passes)
        return loss if self.lam is None else loss / (1 - self.lam)
