"""Improved consistency training, iCT (Song and Dhariwal, 2023, arXiv:2310.14189), in the time of the linear path.

    L = E  ( sqrt( || f(x_t, t) - sg f(x_q, q) ||^2 + c^2 ) - c ) / (sigma_t - sigma_q),    f = x_t - t u
    sigma_i = ( lowest^(1/7) + i / N (highest^(1/7) - lowest^(1/7)) )^7,   N = 10, 20, 40, ..., 1280

sigma_q is one of N steps below sigma_t. The paper draws sigma_t from the N levels with the probabilities that a
log-normal law gives the steps between them; here sigma_t follows that law itself (times=logit_normal, mean -1.1,
standard deviation 2) and i need not be whole. Below the first level q is 0. No official code exists.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator

from genobj.objectives.lower_noise import LowerNoise
from genobj.schedules import Doubling, Number, within
from genobj.types import TimeTensor


class ImprovedConsistency(LowerNoise):
    """Improved consistency training: neighbours on a grid of noise levels that grows finer."""

    citations: ClassVar[tuple[str, ...]] = ("song2023ict",)

    steps: Annotated[Number, within(1.0)] = Doubling(start=10.0, end=1280.0)
    """N: a number or a schedule."""
    lowest: Annotated[float, Field(gt=0)] = 0.002
    """sigma_0."""
    highest: Annotated[float, Field(gt=0)] = 80.0
    """sigma_N."""
    rho: Annotated[float, Field(gt=0)] = 7.0
    """Curvature of the grid (Karras et al.)."""

    @model_validator(mode="after")
    def _levels_are_in_order(self) -> "ImprovedConsistency":
        if self.lowest >= self.highest:
            raise ValueError(f"lowest={self.lowest:g} must lie below highest={self.highest:g}; swap them")
        return self

    def lower(self, sigma: TimeTensor, progress: float) -> TimeTensor:
        """One step down the grid."""
        low, high = self.lowest ** (1 / self.rho), self.highest ** (1 / self.rho)
        root = sigma ** (1 / self.rho) - (high - low) / self.steps(progress)
        return torch.where(root > low, root.clamp(min=low) ** self.rho, 0.0)
