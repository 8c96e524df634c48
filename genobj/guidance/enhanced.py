"""UCGM's enhanced targets (Sun et al., arXiv 2505.07447, its public code), as changes of the velocity.

pull = "null", for velocities (ratio 0): away from what the model says without the label,

    v_t + zeta (v_theta(y) - v_theta^-(null))  inside the open interval,  (v_t + v_theta(y)) / 2  outside,
    (v_t + v_theta^-(null)) / 2  where the label was dropped;

pull = "model", for jumps to data (ratio above 0): towards, or past, what a model says with the label,

    v_t + zeta (v_theta^-(y) - v_t)  inside,  (v_t + v_theta^-(y)) / 2  outside,  v_t  where the label was dropped.

The public code changes F* or both ends of the pair (x, z); these are linear in the velocity, with the same factors.
Strengths of "null" from 1 on are scales w of classifier-free guidance, zeta = 1 - 1 / w.
"""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from genobj.guidance.base import Guidance
from genobj.types import Draw, Passes, Samples, TimeTensor, Weights, over


class EnhancedGuidance(Guidance):
    """UCGM's enhanced targets: away from the unconditional model (many steps), or towards a model (few steps)."""

    citations: ClassVar[tuple[str, ...]] = ("sun2025ucgm", "ho2022cfg")

    zeta: Annotated[float, Field(ge=0)] = 0.44
    """Strength (ImageNet 256: null 0.44, model 2); of null from 1 on the scale w, read as 1 - 1 / w; 0 is none."""
    pull: Literal["null", "model"] = "null"
    """Away from the velocity without the label, or towards the velocity with it."""
    weights: Literal["online", "ema", "frozen"] = "online"
    """Network of that velocity: the live one, its average, or a teacher (the model that few-step training starts from).
    It has a head that gives the velocity."""
    ends: Literal["closed", "open"] = "open"
    """Whether the ends of the interval belong to it."""
    dropped: Literal["plain", "guided"] = "guided"
    """Target of rows whose label was dropped: the plain velocity, or as above."""

    @property
    def active(self) -> bool:
        """Whether zeta is not zero."""
        return self.zeta > 0

    @property
    def networks(self) -> frozenset[Weights]:
        """The network of the velocity."""
        return frozenset({self.weights})

    @property
    def needs_labels(self) -> bool:
        """For pull=null."""
        return self.pull == "null"

    def refusal(self, *, label_drop: float) -> str | None:
        """As ever, but a teacher has its own null label, and pull=model needs none."""
        needs = self.pull == "null" and self.weights != "frozen"
        return super().refusal(label_drop=label_drop) if needs else None

    def covers(self, t: TimeTensor) -> Bool[Tensor, " batch"]:
        """All rows of data: this changes those outside the interval too."""
        return t >= 0

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """At most one gradient-free pass beside the forward."""
        v, inside = draw.v_path, over(super().covers(draw.t), draw.v_path)
        kept = over(torch.ones_like(draw.t, dtype=torch.bool) if draw.dropped is None else ~draw.dropped, v)
        if self.pull == "model":
            model = self.conditional(draw, passes, self.weights)
            return torch.where(kept, torch.where(inside, v + self.zeta * (model - v), (v + model) / 2), v)
        given, free = self.conditional(draw, passes, "online"), self.unconditional(draw, passes, self.weights)
        zeta = self.zeta if self.zeta < 1 else 1 - 1 / self.zeta
        return torch.where(kept, torch.where(inside, v + zeta * (given - free), (v + given) / 2), (v + free) / 2)
