"""Objectives whose targets contain du/dt, the total derivative of the head along the flow."""

import abc

from genobj.derivatives import Derivative
from genobj.objectives.base import Regression
from genobj.types import Draw, Passes, Samples, Weights, over


class Tangent(Regression, abc.ABC):
    """Subclasses regress onto v_t - (t - r) du/dt: differentiate (t - r) u = int_r^t v_s ds in t."""

    derivative: Derivative = Derivative()
    """How du/dt is estimated."""

    @property
    def asks_velocity(self) -> bool:
        """Whether the derivative follows the model's own velocity."""
        return self.derivative.direction == "predicted"

    @property
    def networks(self) -> frozenset[Weights]:
        """The network that is differentiated, theta^-."""
        return super().networks.union([self.derivative.weights])

    @property
    def beside(self) -> frozenset[str]:
        """The head, where its derivative is taken so."""
        return frozenset({self.head} if self.derivative.beside else ())

    @property
    def precise(self) -> bool:
        """What the derivative says."""
        derivative = self.derivative
        return super().precise or derivative.precision == "float32" or derivative.method == "jvp"

    @property
    def low_refusal(self) -> str | None:
        """What the derivative says of it."""
        return self.derivative.low_refusal

    def refusal(self, *, guided: bool) -> str | None:
        """What the derivative says of itself."""
        return self.derivative.refusal(guided=guided)

    def average(self, draw: Draw, passes: Passes) -> Samples:
        """v_t - (t - r) du/dt, where r = t without a derivative."""
        du_dt = self.derivative(draw, passes, self.head, skip=draw.equal)
        return draw.v_t - over(draw.t - draw.r, draw.x_t) * du_dt
