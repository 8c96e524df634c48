"""TwinFlow's own terms on the whole batch (Cheng et al., 2025, arXiv:2512.05150, L_TwinFlow = L_adv + L_rectify).

    u = u(x_1, 1, 0) at x_1 = z,    x = sg( x_1 - u ),    x_t and v_t on the path from x to z
    L = d( u(x_t, -t, -t), v_t ) + rectify d( u, sg( u - D ) ) + d( u, u* )

for the t of the draw, whatever r is: L_base is another objective on the same head, and `weight` the paper's lambda. The
last term, u* of RCGM (objectives/walk.py) along the velocity at t = 1 of the draw's pair, is that of the authors'
tutorial, which is --objectives rcgm@u,fm@u,twin@u with objectives.fm.rows=all; guidance is that of the draw's point, as
there. objectives/twin_flow.py shares out the batch instead.
"""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from genobj.objectives.self_adversarial import SelfAdversarial, on_path
from genobj.types import Draw, Losses, Passes, Samples


@final
class WholeTwinFlow(SelfAdversarial):
    """TwinFlow's terms on every row, beside any objective of average velocities: two more forwards with gradients."""

    anchored: ClassVar[bool] = False
    negative: ClassVar[bool] = False
    at_draw: ClassVar[bool] = False
    draws_noise: ClassVar[int] = 1
    notes: ClassVar[tuple[str, ...]] = ("fake", "rectification", "jump")

    @property
    def scores_all(self) -> bool:
        """Always: its terms are about every row, whatever r is."""
        return True

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """u*."""
        return self.walked(draw, passes)

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """The fake flow, the rectification and, of order 1 or more, u* at (x_1, 1, 0), as in the authors' tutorial."""
        end = self.end(draw, draw.z)
        ahead = passes.learn(end)
        u = ahead[self.head]
        with torch.no_grad():
            x, past = self.landed(draw, end.x_t, u), -draw.t
            better = u - self.apart(x, draw, passes, draw.g)
            x_t, v = on_path(draw, x, draw.z, draw.t)
        fake = passes.learn(draw.point._replace(x_t=x_t, t=past, r=past))[self.head]
        learnt, rectified = self.distance(fake, v), self.distance(u, better)
        jump = torch.zeros_like(learnt)
        if self.order:
            v_t = draw.v_t + (on_path(draw, draw.x, draw.z, end.t)[1] - draw.v_path)
            jump = super().loss(ahead, draw._replace(x_t=end.x_t, t=end.t, r=end.r, v_t=v_t, equal=0), passes)
        passes.note(fake=learnt, rectification=rectified, jump=jump)
        return learnt + self.rectify * rectified + jump
