"""SplitMeanFlow (Guo et al., 2025, arXiv:2507.16884): the jump over [r, t] is the sum of its two parts.

    (t - r) u(x_t, t, r) = (t - q) u(x_t, t, q) + (q - r) u(x_q, q, r),    q = t - a (t - r),  a ~ U(0, 1)

It is the identity that every average velocity fulfils, without a derivative; a = 1/2 is Shortcut. Like Shortcut it
ties nothing to the data: rows with r = t (or t - r = draw.gap) have to.
"""

from typing import ClassVar

import torch

from genobj.objectives.base import Regression
from genobj.types import Draw, Horizon, Passes, Samples, Weights, over


class SplitMeanFlow(Regression):
    """SplitMeanFlow: learn jumps from two parts of random lengths."""

    horizon: ClassVar[Horizon] = "interval"
    anchored: ClassVar[bool] = False
    draws_chance: ClassVar[bool] = True
    citations: ClassVar[tuple[str, ...]] = ("guo2025split",)

    head: str = "u"
    """Head that learns u(x_t, t, r)."""
    weights: Weights = "online"
    """Network that makes the two parts."""

    @property
    def networks(self) -> frozenset[Weights]:
        """The network of the two parts."""
        return frozenset({self.weights})

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """a u(x_t, t, q) + (1 - a) u(x_q, q, r), and the velocity on the finest step."""
        assert draw.chance is not None, "the composer draws a number per row"
        q = draw.t - draw.chance * (draw.t - draw.r)
        first = self.ask(passes, draw.point._replace(r=q), weights=self.weights, skip=draw.equal)
        x_q = draw.x_t - over(draw.t - q, first) * first
        second = self.ask(passes, draw.point._replace(x_t=x_q, t=q), weights=self.weights, skip=draw.equal)
        a = over(draw.chance, first)
        return torch.where(over(draw.t - draw.r <= draw.gap, first), draw.v_t, a * first + (1 - a) * second)
