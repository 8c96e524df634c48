"""The total derivative du/dt of a head along the flow, without gradients (DuMo Sec. 3.3, UCGM, MeanFlow).

    du/dt = (direction . grad_x + d_t) u(x_t, t, r),    r fixed

Central differences evaluate u at x_t + (t' - t) direction for t' = t + step and t - step, both clamped to [0, 1],
and divide by the true gap. `direction` is the guided velocity; along the conditional path instead, guidance
overshoots and diverges (`t u` would integrate v_t along the unguided trajectory), hence the need to force it.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from genobj.config.base import Config
from genobj.types import Draw, Passes, Point, Samples, TimeTensor, over


class Derivative(Config):
    """How du/dt is estimated."""

    method: Literal["central", "backward", "jvp"] = "central"
    """central: two passes; backward: one pass and the main forward; jvp: exact, forward mode."""
    step: Annotated[float, Field(gt=0, le=0.25)] = 0.005
    """Step in t of the differences."""
    direction: Literal["guided", "conditional"] = "guided"
    """Follow the guided velocity v_t, or dx_t/dt of the pair (x, z)."""
    force: bool = False
    """Allow the conditional direction with guidance on, although it diverges."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the passes: a difference amplifies rounding by 1 / (2 step)."""
    weights: Literal["online", "ema"] = "online"
    """Network that is differentiated (theta^-): the live one or its average, which lags behind and is worse on toys."""

    def refusal(self, *, guided: bool) -> str | None:
        """Why this cannot be used, or None."""
        if guided and self.direction == "conditional" and not self.force:
            return "the conditional direction diverges under guidance; type derivative.direction=guided (or force=true)"
        return None

    def __call__(self, draw: Draw, passes: Passes, head: str) -> Samples:
        """du/dt of `head` at (x_t, t, r) of the draw, shaped like x_t."""
        velocity = draw.v_t if self.direction == "guided" else draw.v_path
        here = Point(draw.x_t, draw.t, draw.r, draw.y)
        if self.method == "jvp":
            return passes.tangent(here, velocity, head, self.weights)
        ahead, behind = passes.remember(
            ("along", self.method, self.step), lambda: self._ends(here, velocity), *here, velocity
        )
        out = passes(ahead, behind, weights=self.weights, precise=self.precision == "float32")
        return (out[0][head] - out[1][head]) / over(ahead.t - behind.t, draw.x_t)

    def _ends(self, here: Point, velocity: Tensor) -> tuple[Point, Point]:
        def at(t: TimeTensor) -> Point:
            return here._replace(x_t=here.x_t + over(t - here.t, velocity) * velocity, t=t)

        if self.method == "central":
            return at((here.t + self.step).clamp(max=1)), at((here.t - self.step).clamp(min=0))
        # Backward, but forward within one step of the data end, so that the gap is never zero.
        return here, at((here.t - self.step).where(here.t >= self.step, here.t + self.step))
