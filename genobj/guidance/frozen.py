"""Guidance by a frozen teacher (TwinFlow's and UCGM's frozen mode).

    v_t <- v_t + zeta ( v_teacher(x_t, t, y) - v_teacher(x_t, t, null) )

The fixed point is classifier-free guidance of scale 1 + zeta.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from genobj.guidance.base import Guidance
from genobj.types import Draw, Passes, Point, Samples, Weights


class FrozenGuidance(Guidance):
    """Guide with a frozen teacher's velocities: v_t + zeta (teacher(y) - teacher(null)), scale 1 + zeta."""

    citations: ClassVar[tuple[str, ...]] = ("ho2022cfg",)

    zeta: Annotated[float, Field(ge=0)] = 1.0
    """Strength; 0 is no guidance."""
    teacher: str = ""
    """Folder of a finished run (its average weights are used)."""

    @property
    def active(self) -> bool:
        """Whether zeta is not zero."""
        return self.zeta > 0

    @property
    def networks(self) -> frozenset[Weights]:
        """The teacher."""
        return frozenset({"frozen"})

    def refusal(self, *, label_drop: float) -> str | None:
        """A teacher has to be named."""
        return None if self.teacher else "frozen guidance needs a teacher; type guidance.teacher=runs/NAME"

    def velocity(self, draw: Draw, passes: Passes, null: int) -> Samples:
        """Two gradient-free passes of the teacher."""
        unlabelled = passes.remember("null label", lambda: torch.full_like(draw.t, null, dtype=torch.long), draw.t)
        v = passes.velocity(Point(draw.x_t, draw.t, draw.r, draw.y), "frozen")
        v_null = passes.velocity(Point(draw.x_t, draw.t, draw.r, unlabelled), "frozen")
        return draw.v_path + self.zeta * (v - v_null)
