"""TwinFlow (Cheng et al., 2025, arXiv:2512.05150): at times t < 0 the network is the flow to its own samples.

Four groups of rows (pairs=twin) share one forward:

    adv              x = sg( z' - u(z', 1, 0) ), fed (-t, -t), learns v_t of that x                 the fake flow
    mul, any, e2e    learn u* of RCGM of order N                                                    objectives/walk.py
    e2e              (t = 1, r = 0) learns sg( u - clamp(D, +-1) ) besides                          rectification

    D = u(x_s, -s, -s) - u(x_s, s, s),    x_s on the path from sg( x_1 - u ) to z'' at s ~ U(0, 1)
    L = mean w d(u, target) + rectify mean_e2e d(u, u - D),    w = tan( (1 - (t - r)) pi / 2.5 ) + 1, in adv 1

Where the model's samples follow the data both flows agree and D = 0: no teacher, no critic. Gradient-free passes: 1/4
for own samples, N, and 1/2 for D. The formulas are those of the authors' code, which does not guide rows with t = 1
(guidance.ends=open). Paper to here: F_theta -> u, target time tt -> r; lambda is set by the shares of pairs=twin.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from genobj.config.base import Pick
from genobj.distances.barron import Barron
from genobj.distances.base import Distance
from genobj.objectives.self_adversarial import SelfAdversarial, on_path
from genobj.parts import DISTANCES
from genobj.types import Draw, Losses, Passes, Samples, TimeTensor, over, whole


@final
class TwinFlow(SelfAdversarial):
    """TwinFlow: RCGM that also matches the flow to its own samples with that to data (one or a few steps)."""

    draws_noise: ClassVar[int] = 2
    notes: ClassVar[tuple[str, ...]] = ("fake", "rectification")

    distance: Annotated[Distance, Pick(DISTANCES, "barron")] = Barron()
    """Distance of both terms (published: Barron's with alpha = 1, c = 1e-3, or mse)."""
    image_free: bool = False
    """Learn from the model's own samples in the place of data: with guidance=frozen guidance.omega=0, of a teacher."""

    @property
    def groups(self) -> frozenset[str]:
        """Those that are treated in their own way."""
        return frozenset({"e2e", "adv"} if self.order else {"e2e", "mul", "adv"})

    @property
    def without_data(self) -> bool:
        """Where it is image-free."""
        return self.image_free

    def prepare(self, draw: Draw, passes: Passes) -> Draw:
        """Own samples as data in the rows adv, or in all."""
        rows = slice(0, len(draw.t)) if self.image_free else _rows(draw, "adv")
        part = draw.part(rows)
        end = self.end(part, part.noise[0])
        x = self.landed(part, end.x_t, self.ask(passes, end))
        x_t, v = on_path(part, x, part.z, part.t.abs())
        x, x_t, v = (_put(*one) for one in ((draw.x, rows, x), (draw.x_t, rows, x_t), (draw.v_path, rows, v)))
        return draw._replace(x=x, x_t=x_t, v_t=v, v_path=v)

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """u*, and the velocity in the rows adv."""
        if not self.order:
            return draw.v_t
        return torch.where(over(draw.t < 0, draw.x_t), draw.v_t, self.walked(draw, passes))

    def importance(self, draw: Draw) -> TimeTensor:
        """w, shape (batch,); of order 0, zero outside the rows mul and adv, which stand for all."""
        w = (((1 - draw.t + draw.r) * math.pi / 2.5).tan() + 1).where(draw.t >= 0, 1.0)
        if self.order:
            return w
        learnt = torch.zeros_like(w)
        for name in ("mul", "adv"):
            learnt[_rows(draw, name)] = 1
        return w * learnt / learnt.mean()

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Both terms, the second in proportion to its rows."""
        rows, base = _rows(draw, "e2e"), super().loss(out, draw, passes)
        u, part = out[self.head][rows], draw.part(rows)
        with torch.no_grad():
            better = u - self.bounded(self.apart(self.landed(part, part.x_t, u), part, passes, whole(part.g)))
        rectified, own = _whole(self.distance(u, better), rows, len(base)), _rows(draw, "adv")
        passes.note(fake=_whole(base[own], own, len(base)), rectification=rectified)
        return self.importance(draw) * base + self.rectify * rectified


def _rows(draw: Draw, group: str) -> slice:
    """The rows of a group; none if the law of (t, r) has no such group."""
    assert draw.groups is not None, "the composer tells the groups of rows"
    return draw.groups.get(group, slice(0, 0))


def _whole(losses: Tensor, rows: slice, batch: int) -> Losses:
    """Losses of a group put among zeros for the other rows, so that the mean is the group's."""
    return F.pad(losses * (batch / max(len(losses), 1)), (rows.start, batch - rows.stop))


def _put(old: Tensor, rows: slice, new: Tensor) -> Tensor:
    """The tensor with new rows."""
    return torch.cat([old[: rows.start], new, old[rows.stop :]])
