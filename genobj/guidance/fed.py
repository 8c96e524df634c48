"""Guidance as an input of the network (improved MeanFlow, arXiv 2512.02012, Sec. 4): w and its interval are drawn.

    v_g = v_t + (1 - 1/w) ( v_theta(x_t, t | y, w) - v_theta(x_t, t | null, 1) ),    w -> 1 outside [low, high]

One network then samples at any scale w and interval, one evaluation a step. Velocities are asked for with the scale
that holds at t and the whole interval. Rows with r = t are trained with the whole interval.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from genobj.guidance.base import Guidance
from genobj.types import Draw, Guide, Passes, Samples, TimeTensor, over, resting


class FedGuidance(Guidance):
    """Draw the guidance scale and interval, and tell the network: any scale later, for one evaluation (iMF)."""

    citations: ClassVar[tuple[str, ...]] = ("geng2025imf", "ho2022cfg")

    highest: Annotated[float, Field(gt=1)] = 8.0
    """Largest scale w; the smallest is 1."""
    power: float = 1.0
    """beta of the density w^-beta of the scale (iMF: 1 for B/2, 2 for larger ones)."""

    @property
    def active(self) -> bool:
        """Always."""
        return True

    @property
    def feeds(self) -> float:
        """The largest scale."""
        return self.highest

    def inputs(self, t: TimeTensor, r: TimeTensor, generator: torch.Generator) -> tuple[Guide, Guide | None]:
        """Scale, low and high of every row; low and high are uniform on either side of 1/2."""
        share, low, high = torch.rand(3, len(t), generator=generator, device=t.device)
        low, high = torch.where(r == t, 0.0, low / 2), torch.where(r == t, 1.0, (1 + high) / 2)
        if abs(self.power - 1) < 1e-6:
            w = self.highest**share
        else:
            w = (1 + share * (self.highest ** (1 - self.power) - 1)) ** (1 / (1 - self.power))
        g = torch.stack([w, low, high], 1)
        return g, resting(g, t)

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """The formula above: two gradient-free passes."""
        assert draw.g_v is not None, "the composer draws what this guidance feeds"
        w, point = draw.g_v[:, 0], draw.velocity_point
        ones = passes.remember("scale 1", lambda: torch.stack([w / w, 0 * w, w / w], 1), draw.g_v)
        v_c, v_u = passes.velocity(point), passes.velocity(point._replace(y=self._no_label(draw, passes), g=ones))
        return draw.v_path + over(1 - 1 / w, v_c) * (v_c - v_u)
