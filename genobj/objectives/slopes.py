"""How steep a critic is, by differences: no second derivatives (APT, arXiv 2501.08316), on some rows alone.

    |grad D(x)|^2 = E_n [ (D(x + sigma n) - D(x - sigma n)) / 2 sigma ]^2 + O(sigma^2),    n ~ N(0, I)

StyleGAN2 penalises the slope in one step of 16, weighed up (lazily); here one row of a few is, in every step.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from genobj.config.base import Config
from genobj.types import Losses, Passes, Point, Samples


class SlopePenalty(Config):
    """gamma/2 times the squared slope of the critic, at real samples (R1) and at the model's own (R2)."""

    gamma: Annotated[float, Field(ge=0)] = 0.1
    """Factor; 0: no penalty."""
    sigma: Annotated[float, Field(gt=0)] = 0.01
    """Step of the differences that measure the slope."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.125
    """Share of the rows, at the end of the batch or of each part of it (device, micro-batch), on which it is measured
    (at least one): however it is rounded there, the penalty is unbiased. Below 1 these rows stand for all, and
    the objective scores all (no mixture)."""

    def __call__(self, points: Sequence[Point], n: Samples, head: str, passes: Passes) -> Losses:
        """The penalty (batch,), summed over the points; in float32, as every difference. n: (batch, *shape) noise.

        Two judgements of the chosen rows of all points, so that both ends of a difference share their dropout masks.
        """
        batch = len(n)
        if not self.gamma:
            return n.new_zeros(batch)
        count = max(round(self.share * batch), 1)
        rows = slice(batch - count, None)
        columns = zip(*(Point(p.x_t.detach(), *p[1:]) for p in points), strict=True)
        middle = Point(*(_stacked(column, rows) for column in columns))  # type: ignore[arg-type]
        step = self.sigma * torch.cat([n[rows]] * len(points))
        ends = (middle._replace(x_t=x) for x in (middle.x_t + step, middle.x_t - step))
        up, down = (passes.judge(end, head, precise=True)[0] for end in ends)
        squares = ((up - down) / (2 * self.sigma)).square().view(len(points), count).sum(0)
        return F.pad(self.gamma / 2 * batch / count * squares, (batch - count, 0))


def _stacked(values: tuple[Tensor | None, ...], rows: slice) -> Tensor | None:
    """These rows of all tensors, one below the other; None where there are none."""
    given = [value[rows] for value in values if value is not None]
    return torch.cat(given) if given else None
