"""The total derivative du/dt of a head along the flow, without gradients (DuMo Sec. 3.3, UCGM, MeanFlow).

    du/dt = (direction . grad_x + d_t) u(x_t, t, r),    r fixed

Central differences evaluate u at x_t + (t' - t) direction for t' = t + step and t - step, both clamped to [0, 1],
and divide by the true gap. One of them may lie below r by less than a step; there t - r, by which targets multiply the
derivative, is smaller than a step, and heads of all horizons can share the points. `direction` is the guided velocity;
along the conditional path instead, guidance overshoots and diverges (`t u` would integrate v_t along the unguided
trajectory), hence the need to force it.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genobj.config.base import Config
from genobj.types import Draw, Passes, Point, Samples, TimeTensor, over


class Derivative(Config):
    """How du/dt is estimated; a bare name is its method."""

    method: Literal["central", "backward", "jvp", "tangent"] = "central"
    """central: two passes; backward: one pass and the main forward; jvp: exact, forward mode; tangent: exact, beside
    the main forward instead of after a second one (jvp where that is not possible)."""
    step: Annotated[float, Field(gt=0, le=0.25)] = 0.005
    """Step in t of the differences."""
    direction: Literal["guided", "conditional", "predicted"] = "guided"
    """Follow the guided velocity v_t, dx_t/dt of the pair (x, z), or the model's own velocity (improved MeanFlow)."""
    force: bool = False
    """Allow the conditional direction with guidance on, although it diverges."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the passes: a difference amplifies rounding by 1 / (2 step)."""
    clamp: Annotated[float, Field(gt=0)] | None = None
    """Bound on the entries of du/dt (hurts in two dimensions); unset: none."""
    weights: Literal["online", "ema", "frozen"] = "online"
    """Network that is differentiated (theta^-): the live one, its average, which lags behind and is worse on toys, or a
    teacher with the same head (frozen)."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"method": data} if isinstance(data, str) else data

    @property
    def beside(self) -> bool:
        """Whether the forward with gradients has to be recorded."""
        return self.method == "tangent" and self.weights == "online"

    @property
    def low_refusal(self) -> str | None:
        """Why this cannot be used where the forward with gradients is in low precision, or None."""
        if self.beside and self.precision == "float32":
            return (
                "a tangent beside a forward in low precision is in low precision too; "
                "type derivative.precision=autocast, or derivative.method=jvp"
            )
        return None

    def refusal(self, *, guided: bool) -> str | None:
        """Why this cannot be used, or None."""
        if guided and self.direction == "conditional" and not self.force:
            return "the conditional direction diverges under guidance; type derivative.direction=guided (or force=true)"
        return None

    def __call__(self, draw: Draw, passes: Passes, head: str, skip: int = 0) -> Samples:
        """du/dt of `head` at (x_t, t, r) of the draw, shaped like x_t; zero in the first `skip` rows."""
        if skip >= len(draw.t):
            return torch.zeros_like(draw.x_t)
        found = self._quotient(draw, passes, head, skip)
        found = found if self.clamp is None else found.clamp(-self.clamp, self.clamp)
        return torch.cat([torch.zeros_like(draw.x_t[:skip]), found]) if skip else found

    def along(self, draw: Draw, passes: Passes) -> Samples:
        """The direction, shaped like x_t."""
        if self.direction == "predicted":
            return passes.velocity(draw.velocity_point)
        return draw.v_t if self.direction == "guided" else draw.v_path

    def _quotient(self, draw: Draw, passes: Passes, head: str, skip: int) -> Samples:
        here, velocity = draw.point, self.along(draw, passes)
        if self.method in ("jvp", "tangent"):
            return passes.tangent(here, velocity, head, self.weights, skip, beside=self.beside)
        ahead, behind = passes.remember(
            ("along", self.method, self.step), lambda: self._ends(here, velocity), *here, velocity
        )
        out = passes(ahead, behind, weights=self.weights, precise=self.precision == "float32", skip=skip)
        difference = out[0][head] - out[1][head]
        return difference / over((ahead.t - behind.t)[skip:], difference)

    def _ends(self, here: Point, velocity: Tensor) -> tuple[Point, Point]:
        def at(t: TimeTensor) -> Point:
            return here._replace(x_t=here.x_t + over(t - here.t, velocity) * velocity, t=t)

        if self.method == "central":
            return at((here.t + self.step).clamp(max=1)), at((here.t - self.step).clamp(min=0))
        # Backward, but forward within one step of the data end, so that the gap is never zero.
        return here, at((here.t - self.step).where(here.t >= self.step, here.t + self.step))
