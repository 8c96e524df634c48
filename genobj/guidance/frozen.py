"""Guidance by a frozen teacher (TwinFlow's and UCGM's frozen mode, FACM's and sCD's distillation).

    v_t <- omega v_t + zeta v_teacher(x_t, t, y) + (1 - omega - zeta) v_teacher(x_t, t, null)

With omega = 1 it is v_t + zeta (v_teacher(y) - v_teacher(null)), scale 1 + zeta. With omega = 0 the data's velocity
leaves the target: the teacher is distilled at scale zeta, which for zeta = 1 is the teacher as it is, without a null
label and for data without labels too. Whatever the objective, its velocity and its tangent are then the teacher's.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from genobj.guidance.base import TINY, Guidance
from genobj.types import Draw, Passes, Samples, Weights


class FrozenGuidance(Guidance):
    """Guide with a frozen teacher's velocities: v_t + zeta (teacher(y) - teacher(null)), scale 1 + zeta."""

    citations: ClassVar[tuple[str, ...]] = ("ho2022cfg",)

    zeta: Annotated[float, Field(ge=0)] = 1.0
    """Strength; 0 is no guidance."""
    omega: Annotated[float, Field(le=1)] = 1.0
    """Factor of the data's velocity; 0 distils the teacher at scale zeta (FACM), 1 - zeta with zeta > 1 goes beyond a
    teacher that is guided itself (UCGM's few-step training)."""
    dropped: Literal["plain", "guided"] = "plain"
    """Target of rows whose label was dropped: the plain velocity, or the formula with the null label. Where omega is 0
    and nothing is typed here, guided: all that is learnt is the teacher's."""
    teacher: str = ""
    """Folder of the teacher, short for teacher.from (its average weights are used)."""
    told: Annotated[float, Field(ge=1)] | None = None
    """Scale that the teacher is told, if it was trained with guidance=fed: it then gives the guided velocity in one
    pass; unset: none."""

    @model_validator(mode="before")
    @classmethod
    def _distils_every_row(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("omega") == 0:
            return {"dropped": "guided", **data}
        return data

    @property
    def active(self) -> bool:
        """Whether v_t is changed."""
        return (self.omega, self.zeta) != (1.0, 0.0)

    @property
    def networks(self) -> frozenset[Weights]:
        """The teacher."""
        return frozenset({"frozen"})

    @property
    def needs_labels(self) -> bool:
        """Not where omega + zeta = 1: the teacher's unconditional velocity has no part in it."""
        return abs(1 - self.omega - self.zeta) > TINY

    @property
    def distils(self) -> bool:
        """Where omega is 0, at all times and for all labels; ends=open leaves out those with t = 0 and t = 1."""
        return self.omega == 0 and self.interval == (0.0, 1.0) and self.dropped == "guided"

    def refusal(self, *, label_drop: float) -> str | None:
        """None: the null label is the teacher's. Which teacher it is, is checked by the experiment."""
        return None

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """At most two gradient-free passes of the teacher."""
        return self.mixed(draw, passes, self.omega, self.zeta, "frozen", "frozen")

    def conditional(self, draw: Draw, passes: Passes, weights: Weights) -> Samples:
        """The teacher's velocity with the labels that are fed, at the scale that it is told."""
        if self.told is None:
            return super().conditional(draw, passes, weights)
        one = draw.t.new_ones(len(draw.t), 1)  # made on the device: a copy from the host would wait for it
        g = torch.cat([self.told * one, 0 * one, one], 1)
        return passes.velocity(draw.velocity_point._replace(g=g), weights)
