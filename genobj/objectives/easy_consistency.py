"""Easy consistency tuning, ECT (Geng et al., 2024, arXiv:2406.14548), in the time of the linear path.

    L = E  w ( sqrt( || f(x_t, t) - sg f(x_q, q) ||^2 + c^2 ) - c ),    f = x_t - t u,    w = 1 / (sigma_t - sigma_q)
    sigma_q = sigma_t ( 1 - Q^-(stage + 1) (1 + k sigmoid(-b sigma_t)) ),   at least 0

Paper to here: sigma = t / (1 - t), and the law of sigma with (P_mean, P_std) is times=logit_normal with that mean and
standard deviation (-1.1, 2). Norms are of the whole sample. Stages shrink the step from denoising (sigma_q = 0 for
most t) to consistency.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from genobj.config.base import Pick
from genobj.distances.base import Distance
from genobj.distances.pseudo_huber import PseudoHuber
from genobj.objectives.lower_noise import LowerNoise
from genobj.parts import DISTANCES
from genobj.schedules import Number, Stairs, within
from genobj.types import TimeTensor


class EasyConsistency(LowerNoise):
    """Easy consistency tuning: a curriculum from denoising to consistency, in noise levels."""

    citations: ClassVar[tuple[str, ...]] = ("geng2024ect",)

    distance: Annotated[Distance, Pick(DISTANCES, "pseudo_huber")] = PseudoHuber(c=0.0)
    """Distance between the two ends f (CIFAR-10: c = 0, ImageNet 64: c = 0.06)."""
    stage: Annotated[Number, within(0.0)] = Stairs(start=0.0, end=7.0, count=8)
    """Stage of the curriculum: a number or a schedule (CIFAR-10: 0 to 7)."""
    base: Annotated[float, Field(gt=1)] = 2.0
    """Q, by which the step shrinks from stage to stage (CIFAR-10: 2, ImageNet 64: 4)."""
    k: Annotated[float, Field(ge=0)] = 8.0
    """How much longer the step is at small noise."""
    b: Annotated[float, Field(gt=0)] = 1.0
    """Noise level, inverse, at which that ends."""
    weighting: Literal["step", "edm"] = "step"
    """w: 1 / (sigma_t - sigma_q), or EDM's 1 / sigma^2 + 1 / sigma_data^2 (ImageNet 64)."""
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the data in EDM's weight."""

    def lower(self, sigma: TimeTensor, progress: float) -> TimeTensor:
        """The second formula above."""
        step = self.base ** -(self.stage(progress) + 1) * (1 + self.k * torch.sigmoid(-self.b * sigma))
        return sigma * (1 - step).clamp(min=0)

    def pull(self, sigma: TimeTensor, sigma_q: TimeTensor) -> TimeTensor:
        """w."""
        return 1 / (sigma - sigma_q) if self.weighting == "step" else sigma**-2 + self.sigma_data**-2
