"""Noise levels that are even in sigma^(1 / rho), and the law of times by which every one is equally likely (CT).

Song et al., Consistency Models, arXiv 2303.01469, Sec. 5 and App. C, with the grid of Karras et al., arXiv 2206.00364,
Eq. (5). sigma = t / (1 - t) is the noise level on the linear path.
"""

import math
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field, model_validator

from genobj.config.base import Config
from genobj.schedules import Constant, Number, within
from genobj.times.base import Times
from genobj.types import TimeTensor


class KarrasSpacing(Config):
    """Noise levels that are even in sigma^(1 / rho)."""

    lowest: Annotated[float, Field(gt=0)] = 0.002
    """Lowest level, to which the first step leads."""
    highest: Annotated[float, Field(gt=0)] = 80.0
    """Highest level."""
    rho: Annotated[float, Field(gt=0)] = 7.0
    """Curvature of the grid."""

    @model_validator(mode="after")
    def _in_order(self) -> "KarrasSpacing":
        if self.lowest >= self.highest:
            raise ValueError(f"lowest={self.lowest:g} must lie below highest={self.highest:g}; swap them")
        return self

    @property
    def roots(self) -> tuple[float, float]:
        """sigma^(1 / rho) of the lowest and of the highest level."""
        return self.lowest ** (1 / self.rho), self.highest ** (1 / self.rho)


@final
class KarrasLevels(KarrasSpacing, Times):
    """Levels of a grid that is even in sigma^(1/7), all equally likely: consistency training."""

    citations: ClassVar[tuple[str, ...]] = ("song2023consistency", "karras2022edm")

    levels: Annotated[Number, within(2.0)] | None = None
    """N, a number or a schedule: sigma is one of the N - 1 levels above the lowest. Unset: any level in between."""

    def at(self, progress: float) -> "KarrasLevels":
        """The law after this share of the run, progress in [0, 1]."""
        if self.levels is None or isinstance(self.levels, Constant):
            return self
        return self.model_copy(update={"levels": Constant(value=self.levels(progress))})

    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1], shape (batch,); of a schedule, those at the end of the run (see `at`)."""
        share = 1 - torch.rand(batch, generator=generator, device=generator.device, dtype=torch.float64)  # in (0, 1]
        if self.levels is not None:
            steps = math.floor(self.levels(1.0)) - 1
            share = (share * steps).ceil() / steps
        low, high = self.roots
        sigma = (low + share * (high - low)) ** self.rho
        return (sigma / (1 + sigma)).float()
