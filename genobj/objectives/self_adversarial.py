"""Objectives that set the flow to the model's own samples, at times t < 0, against the flow to data (TwinFlow).

    D = u(x_s, -s, -s) - u(x_s, s, s),    x_s at s ~ U(0, 1) on the path from x = sg( x_1 - u(x_1, 1, 0) ) / b(0) to z''

with b the path's data_scale (b(0) = 1 on most). Both velocities are marginal ones, so that D is proportional to the
difference of two scores, and to learn u - D is distribution matching with one network. Cheng et al., TwinFlow, arXiv
2512.05150. Paper to here: F_theta -> u.
"""

import abc
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from genobj.objectives.walk import Walk
from genobj.types import Draw, Guide, Horizon, Passes, Point, Samples, TimeTensor, resting


class SelfAdversarial(Walk, abc.ABC):
    """Own samples as data, and the difference of the two flows at them; subclasses say in which rows."""

    horizon: ClassVar[Horizon] = "interval"
    negative: ClassVar[bool] = True
    backward: ClassVar[bool] = True
    draws_chance: ClassVar[bool] = True
    citations: ClassVar[tuple[str, ...]] = ("cheng2025twinflow", "sun2025rcgm")

    head: str = "u"
    """Head that learns u(x_t, t, r) and, at negative times, the velocity to the model's own samples."""
    order: Annotated[int, Field(ge=0)] = 2
    """N: jumps of the walk that jumps are compared with, a pass each; 0: no jump is compared, velocities are learnt."""
    rectify: Annotated[float, Field(ge=0)] = 0.2
    """Weight of the rectification, meant over its rows (published: .5, OpenUni .75, from pretrained models). Above the
    share of these rows in the batch it can outweigh u*, whose pull has the same bound: from scratch .5 ran away."""

    def end(self, draw: Draw, z: Samples) -> Point:
        """Where noise z is jumped from to data: t = 1, r = 0."""
        one = torch.ones_like(draw.t)
        return draw.point._replace(x_t=on_path(draw, 0 * z, z, one)[0], t=one, r=torch.zeros_like(one))

    def landed(self, draw: Draw, x_1: Samples, u: Samples) -> Samples:
        """Own samples: where the jumps u from x_1 land, in the size of data, shaped like x_1."""
        return draw.interpolant.landed(x_1, u, torch.ones_like(draw.t))

    def apart(self, x: Samples, draw: Draw, passes: Passes, g: Guide | None) -> Samples:
        """How far the fake flow's velocity lies from the real one's where own samples x are noised, shaped like x.

        g: what the fake flow was fed where it was learnt.
        """
        assert draw.chance is not None, "the composer draws what objectives declare"
        s = draw.chance.to(x.dtype)
        real = draw.point._replace(x_t=on_path(draw, x, draw.noise[-1], s)[0], t=s, r=s, g=resting(draw.g, s))
        fake, true = (out[self.head] for out in passes(real._replace(t=-s, r=-s, g=g), real))
        return fake - true


def on_path(draw: Draw, x: Samples, z: Samples, t: TimeTensor) -> tuple[Samples, Samples]:
    """x_t and dx_t/dt on the draw's path."""
    return draw.interpolant.point(x, z, t), draw.interpolant.velocity(x, z, t)
