"""Shortcut models (Frans et al., 2024, arXiv:2410.12557): one long jump equals two half jumps.

    u(x_t, t, r) = ( u(x_t, t, m) + u(x_m, m, r) ) / 2,   m = (t + r) / 2,   x_m = x_t - (t - m) u(x_t, t, m)    Eq. (4)

Paper to here: time runs the other way, s -> -u, d is t - r. The paper's grid is pairs=dyadic; other laws of (t, r) give
the continuous form. Rows on the finest step (r = t, or t - r = draw.gap) learn the velocity: nothing else ties u to it.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from genobj.objectives.base import Regression
from genobj.types import Draw, Horizon, Passes, Point, Samples, Weights, over


class Shortcut(Regression):
    """Shortcut: learn long jumps from the network's own half jumps (any number of steps)."""

    horizon: ClassVar[Horizon] = "interval"
    anchored: ClassVar[bool] = False
    citations: ClassVar[tuple[str, ...]] = ("frans2024shortcut",)

    head: str = "u"
    """Head that learns u(x_t, t, r)."""
    weights: Weights = "ema"
    """Network that makes the half jumps; the paper's is an average of decay .999."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Bound on the entries of midpoints and targets (official: 4, on latents of unit scale); unset: none."""
    scale: Annotated[float, Field(ge=0)] = 1.0
    """Classifier-free guidance of the half jumps of the shortest jumps (official: 1.5); longer ones inherit it."""

    @property
    def networks(self) -> frozenset[Weights]:
        """The network of the half jumps."""
        return frozenset({self.weights})

    @property
    def guides(self) -> bool:
        """Whether half jumps are guided."""
        return self.scale != 1

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """Eq. (4), and the velocity on the finest step."""
        t, middle, bound = draw.t, (draw.t + draw.r) / 2, self.clip or float("inf")
        first = self._jump(draw, passes, draw.point._replace(r=middle))
        x_m = (draw.x_t - over(t - middle, first) * first).clamp(-bound, bound)
        second = self._jump(draw, passes, draw.point._replace(x_t=x_m, t=middle))
        halves = ((first + second) / 2).clamp(-bound, bound)
        return torch.where(over(t - draw.r <= draw.gap, halves), draw.v_t, halves)

    def _jump(self, draw: Draw, passes: Passes, point: Point) -> Samples:
        u = self.ask(passes, point, weights=self.weights, skip=draw.equal)
        if draw.null is None or not self.guides:
            return u
        rows = (draw.groups or {}).get("shortest", slice(draw.equal, len(u)))
        free = passes(point._replace(y=draw.null).part(rows), weights=self.weights)[0][self.head]
        more = torch.where(draw.t - draw.r <= 2 * draw.gap, self.scale - 1, 0.0).to(u.dtype)[rows]
        return torch.cat([u[: rows.start], u[rows] + over(more, free) * (u[rows] - free), u[rows.stop :]])
