"""Improved consistency training, iCT (Song and Dhariwal, 2023, arXiv:2310.14189), in the time of the linear path.

    L = E  ( sqrt( || f(x_t, t) - sg f(x_q, q) ||^2 + c^2 ) - c ) / (sigma_t - sigma_q),    f = x_t - t u
    sigma_i = ( lowest^(1/7) + i / N (highest^(1/7) - lowest^(1/7)) )^7,   N = 10, 20, 40, ..., 1280

sigma_q is one of N steps below sigma_t. The paper draws sigma_t from the N levels with the probabilities that a
log-normal law gives the steps between them; here sigma_t follows that law itself (times=logit_normal, mean -1.1,
standard deviation 2) and i need not be whole. Below the first level q is 0. No official code exists.
"""

from typing import Annotated, ClassVar

from genobj.objectives.lower_noise import KarrasGrid
from genobj.schedules import Doubling, Number, within


class ImprovedConsistency(KarrasGrid):
    """Improved consistency training: neighbours on a grid of noise levels that grows finer."""

    citations: ClassVar[tuple[str, ...]] = ("song2023ict",)

    steps: Annotated[Number, within(1.0)] = Doubling(start=10.0, end=1280.0)
    """N: a number or a schedule."""

    def count(self, progress: float) -> float:
        """N."""
        return self.steps(progress)
