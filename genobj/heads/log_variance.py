"""A learned log-variance: how uncertain a loss term is at every (t, r) (Kendall et al., arXiv 1705.07115; EDM2).

The term L becomes exp(-s) L + s, whose minimum over s is at s = log E[L | t, r]: every time then pulls alike.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genobj.backbones.base import Features, Trunk
from genobj.heads.base import Head
from genobj.types import TimeTensor


class LogVariance(Head):
    """One number a sample, s(t, r): made for objectives with `uncertainty = true`."""

    citations: ClassVar[tuple[str, ...]] = ("kendall2018uncertainty", "karras2024edm2")
    scalar: ClassVar[bool] = True

    def build(self, trunk: Trunk, channels: int, *, sees_r: bool) -> nn.Module:
        """See Head.build."""
        return LogVarianceHead(sees_r)


class LogVarianceHead(nn.Module):
    """Sines and cosines of t (and of t - r), one hidden layer, zero at initialisation."""

    def __init__(self, sees_r: bool, width: int = 64, waves: int = 4):
        super().__init__()
        self.sees_r, self.waves = sees_r, waves
        self.inner, self.outer = nn.Linear(2 * waves * (1 + sees_r), width), nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, features: Features, t: TimeTensor, r: TimeTensor | None) -> Tensor:
        """(batch,)."""
        times = torch.stack([t, t - r], 1) if self.sees_r and r is not None else t[:, None]
        angles = (times[..., None] * torch.arange(1, self.waves + 1, device=t.device)).flatten(1)
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(waves)))[:, 0]
