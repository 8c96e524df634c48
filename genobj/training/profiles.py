"""Power-function averages (EDM2, arXiv 2312.02696, Sec. 3): how they weigh the past, and combinations of several.

A profile of length T and exponent gamma weighs the moment t by p(t) = (gamma + 1) t^gamma / T^(gamma + 1) on [0, T].
Its width is the standard deviation of t under p, as a share of T (the paper's sigma_rel).
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

Width = Annotated[float, Field(gt=0, lt=0.2886)]
"""Below 1 / sqrt(12), the width of the plain mean of all steps (gamma = 0)."""


class Profile(NamedTuple):
    """A power function over the steps up to `end`."""

    end: int
    """Steps that the average has seen; above 0."""
    width: float
    """Standard deviation of the weighted steps as a share of `end`."""


def exponent(width: float) -> float:
    """gamma for a width: the largest root of (gamma + 2)^2 (gamma + 3) width^2 = gamma + 1."""
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def decay(gamma: float, step: int) -> float:
    """What a step keeps of the average after `step` earlier ones: (1 - 1 / t)^(gamma + 1) with t = step + 1."""
    return (step / (step + 1)) ** (gamma + 1)


def products(first: Sequence[Profile], second: Sequence[Profile]) -> np.ndarray:
    """Integrals of p q over time for every pair, (first, second), float64."""
    ends, others = np.array([p.end for p in first])[:, None], np.array([q.end for q in second])[None]
    powers = np.array([exponent(p.width) for p in first])[:, None]
    others_powers = np.array([exponent(q.width) for q in second])[None]
    shorter = np.minimum(ends, others)
    scale = (powers + 1) * (others_powers + 1) / (powers + others_powers + 1)
    # shorter^(a + b + 1) / (end^(a + 1) other^(b + 1)), by shares of 1: the powers themselves overflow
    return scale * (shorter / ends) ** (powers + 1) * (shorter / others) ** (others_powers + 1) / shorter


class Combination(NamedTuple):
    """Coefficients of stored profiles, and how well their sum meets the wanted one."""

    coefficients: np.ndarray
    """One for each stored profile, float64; their sum is 1."""
    error: float
    """Norm of what is missing of the wanted profile, as a share of its norm."""


def combine(stored: Sequence[Profile], wanted: Profile) -> Combination:
    """The sum of stored profiles that is nearest to the wanted one in L2 (Sec. 3.2), their weights adding up to 1."""
    inner, outer = products(stored, stored), products(stored, [wanted])[:, 0]
    unit = np.sqrt(np.diag(inner))  # profiles of length 1: better conditioned
    found = np.linalg.lstsq(inner / np.outer(unit, unit), outer / unit, rcond=1e-13)[0] / unit
    found = found / found.sum()
    whole = float(products([wanted], [wanted])[0, 0])
    missing = whole - 2 * found @ outer + found @ inner @ found
    return Combination(found, float(np.sqrt(max(missing, 0) / whole)))
