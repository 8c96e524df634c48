"""Continuous-time consistency, sCM (Lu and Song, 2024, arXiv:2410.11081): sCT from data, sCD from a teacher.

    L = E || F - sg(F + g / (||g|| + c)) ||^2,    g = cos^2 (dx - F) - w cos sin (x + dF)       Alg. 1
    g = (1 - w) (1 - t)^2 / rho (v_t - u) + w (1 - t) rho (v_t - u - t du/dt)                   the same here

Paper to here: tan = t / (1 - t), rho = 1 / (sin + cos), x = x_t / rho, F = ((1 - 2t) x_t / rho + rho u) / s, where s is
the standard deviation of data and noise (path.noise_std). sCD's v_t is a teacher's: guidance=frozen guidance.omega=0.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from genobj.objectives.normalised import NormalisedTangent
from genobj.schedules import Number, Straight, within
from genobj.types import Draw, Horizon, Losses, Passes, Samples, TimeTensor, over


class ContinuousConsistency(NormalisedTangent):
    """sCM: consistency in continuous time, every pull of the same length (sCT, sCD)."""

    horizon: ClassVar[Horizon] = "data"
    straight: ClassVar[bool] = True
    citations: ClassVar[tuple[str, ...]] = ("lu2024scm",)

    head: str = "u"
    """Head that learns u_t."""
    warmup: Annotated[Number, within(0.0, 1.0)] = Straight(start=0.0, end=1.0, until=0.025)
    """w, the part that the derivative has in g (the paper: from 0 to 1 in the first 10000 of 400000 steps)."""
    form: Literal["trig", "linear"] = "trig"
    """The formulas above; or FACM's code: g = sin(pi t / 2) (v_t - u - w t du/dt), and rho = 1 elsewhere."""
    by_sigma: bool = False
    """Divide the loss by sigma = s tan besides (FastGen); a learned log-variance undoes it."""
    by_elements: bool = False
    """Divide the loss by the number of elements besides (FastGen); a learned log-variance undoes it."""

    def pull(self, u: Samples, draw: Draw, passes: Passes) -> Samples:
        """g, in the units of the data."""
        t, w, lag = over(draw.t, u), self.warmup(draw.progress), draw.v_t - u
        curve = t * self.derivative(draw, passes, self.head, skip=draw.equal)
        if self.form == "linear":
            return (torch.pi / 2 * t).sin() * (lag - w * curve)
        rho = torch.hypot(t, 1 - t)
        return (1 - w) * (1 - t).square() / rho * lag + w * (1 - t) * rho * (lag - curve)

    def size(self, draw: Draw) -> TimeTensor:
        """s / rho."""
        s = draw.interpolant.noise_scale(torch.ones_like(draw.t))
        return s / torch.hypot(draw.t, 1 - draw.t) if self.form == "trig" else s

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """The distance between F and its target, per sample."""
        loss = super().loss(out, draw, passes)
        if self.by_sigma:
            loss = loss * draw.interpolant.data_scale(draw.t) / draw.interpolant.noise_scale(draw.t.clamp(min=1e-6))
        return loss / draw.x[0].numel() if self.by_elements else loss
