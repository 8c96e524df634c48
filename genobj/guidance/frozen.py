"""Guidance by a frozen teacher (TwinFlow's and UCGM's frozen mode, FACM's distillation).

    v_t <- omega v_t + zeta v_teacher(x_t, t, y) + (1 - omega - zeta) v_teacher(x_t, t, null)

With omega = 1 it is v_t + zeta (v_teacher(y) - v_teacher(null)), scale 1 + zeta. With omega = 0 the data's velocity
leaves the target: the teacher is distilled at scale zeta.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from genobj.guidance.base import Guidance
from genobj.types import Draw, Passes, Samples, Weights


class FrozenGuidance(Guidance):
    """Guide with a frozen teacher's velocities: v_t + zeta (teacher(y) - teacher(null)), scale 1 + zeta."""

    citations: ClassVar[tuple[str, ...]] = ("ho2022cfg",)

    zeta: Annotated[float, Field(ge=0)] = 1.0
    """Strength; 0 is no guidance."""
    omega: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor of the data's velocity; 0 distils the teacher at scale zeta (FACM)."""
    teacher: str = ""
    """Folder of a finished run (its average weights are used)."""

    @property
    def active(self) -> bool:
        """Whether v_t is changed."""
        return (self.omega, self.zeta) != (1.0, 0.0)

    @property
    def networks(self) -> frozenset[Weights]:
        """The teacher."""
        return frozenset({"frozen"})

    def refusal(self, *, label_drop: float) -> str | None:
        """A teacher has to be named."""
        return None if self.teacher else "frozen guidance needs a teacher; type guidance.teacher=runs/NAME"

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """At most two gradient-free passes of the teacher."""
        return self.mixed(draw, passes, self.omega, self.zeta, "frozen", "frozen")
