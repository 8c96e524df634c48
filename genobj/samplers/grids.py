"""Grids of times that a sampler walks along, from noise (near t = 1) to data (t = 0)."""

import abc
from itertools import pairwise
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field, model_validator

from genobj.config.base import Config
from genobj.paths.base import Path
from genobj.paths.linear import Linear

Gap = Annotated[float, Field(ge=0, lt=1)]
_STRAIGHT = Linear()


class Grid(Config, abc.ABC):
    """Subclasses place the times; a sampler asks for as many as it has steps."""

    @abc.abstractmethod
    def times(self, steps: int) -> list[float]:
        """Decreasing times in [0, 1], steps + 1 of them, the last one 0; grids of noise levels: on the linear path."""

    def along(self, path: Path, steps: int) -> list[float]:
        """The times on this path, which settles those of noise levels; levels that it lacks lie at its ends."""
        return self.times(steps)

    @property
    def rest(self) -> float:
        """Share of the way that the grid leaves to a last jump to data; 0: its steps lead there by themselves."""
        return 0.0


def _even(steps: int) -> list[float]:
    """1, 1 - 1/steps, ..., 0."""
    return [(steps - i) / steps for i in range(steps + 1)]


@final
class Uniform(Grid):
    """Steps of equal length from 1 to 0."""

    def times(self, steps: int) -> list[float]:
        """1, 1 - 1/steps, ..., 0."""
        return _even(steps)


@final
class Karras(Grid):
    """EDM's grid in sigma (rho = 7), at the times where the path has these noise levels."""

    citations: ClassVar[tuple[str, ...]] = ("karras2022edm",)

    rho: Annotated[float, Field(gt=0)] = 7.0
    """Curvature: larger values put more of the times near data."""
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    """Noise level of the last time before 0."""
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    """Noise level of the first time."""

    @model_validator(mode="after")
    def _ordered(self) -> "Karras":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")
        return self

    def times(self, steps: int) -> list[float]:
        """sigma / (1 + sigma), then 0."""
        return self.along(_STRAIGHT, steps)

    def along(self, path: Path, steps: int) -> list[float]:
        """Karras et al., arXiv 2206.00364, Eq. (5), then 0; one step starts at sigma_max."""
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigmas = [(high + i / max(steps - 1, 1) * (low - high)) ** self.rho for i in range(steps)]
        return [*map(path.at_level, sigmas), 0.0]


@final
class Kumaraswamy(Grid):
    """UCGM's warped grid 1 - (1 - (1 - k^a)^b)^c, k uniform; a = b = c = 1 is uniform."""

    citations: ClassVar[tuple[str, ...]] = ("sun2025ucgm",)

    a: Annotated[float, Field(gt=0)] = 1.17
    """First exponent; the defaults are those of UCGM's multi-step models."""
    b: Annotated[float, Field(gt=0)] = 0.8
    """Second exponent."""
    c: Annotated[float, Field(gt=0)] = 1.1
    """Third exponent."""
    gaps: tuple[Gap, Gap] = (0.0, 0.0)
    """Ends of k: it runs from the first gap to 1 minus the second, and then jumps to data; UCGM's walks start at the
    first gap, which is no time of exact noise. A second gap of 0 leaves out that jump."""

    @model_validator(mode="after")
    def _apart(self) -> "Kumaraswamy":
        if sum(self.gaps) >= 1:
            raise ValueError(f"gaps must leave room between them, got {list(self.gaps)}")
        return self

    @property
    def rest(self) -> float:
        """The second gap."""
        return self.gaps[1]

    def times(self, steps: int) -> list[float]:
        """Kumaraswamy's distribution function on a uniform grid (UCGM, arXiv 2505.07447)."""
        if self.gaps == (0, 0):
            return [1 - (1 - (1 - (1 - t) ** self.a) ** self.b) ** self.c for t in _even(steps)]
        first, last = self.gaps
        k = torch.linspace(first, 1 - last, steps if last else steps + 1, dtype=torch.float64)[:steps]
        return [*(1 - (1 - (1 - k**self.a) ** self.b) ** self.c).tolist(), 0.0]


@final
class Levels(Grid):
    """The even grid of Shortcut models, for 1, 2, 4, ... steps only: jumps of 2^-k, as they were trained."""

    citations: ClassVar[tuple[str, ...]] = ("frans2024shortcut",)

    def times(self, steps: int) -> list[float]:
        """1, 1 - 2^-k, ..., 0; ValueError if `steps` is no power of two."""
        if steps & (steps - 1):
            below = 1 << (steps.bit_length() - 1)
            raise ValueError(f"{steps} steps are no power of two: type steps={below} or steps={2 * below}")
        return _even(steps)


@final
class Shifted(Grid):
    """SD3's grid s t / (1 + (s - 1) t): more of the steps near noise, for large images."""

    citations: ClassVar[tuple[str, ...]] = ("esser2024sd3",)

    shift: Annotated[float, Field(gt=0)] = 3.0
    """Factor on sigma = t / (1 - t); 1 is uniform."""

    def times(self, steps: int) -> list[float]:
        """Esser et al., arXiv 2403.03206, Eq. (23)."""
        return [self.shift * t / (self.shift * t + (1 - t)) for t in _even(steps)]


@final
class Listed(Grid):
    """Times, or noise levels, given one by one."""

    points: tuple[float, ...] = (1.0,)
    """Decreasing times in (0, 1], one a step; the final 0 may be left out."""
    sigmas: tuple[float, ...] = ()
    """Decreasing noise levels in the place of times, which are then where the path has them; empty: points."""

    @model_validator(mode="after")
    def _decreasing(self) -> "Listed":
        if self.sigmas and self.points != (1.0,):
            raise ValueError("points are times and sigmas noise levels of the same steps: type one of the two")
        places = self._with_zero()
        if len(places) < 2 or any(a <= b for a, b in pairwise(places)) or (not self.sigmas and places[0] > 1):
            if self.sigmas:
                raise ValueError(f"sigmas must decrease towards 0, got {list(self.sigmas)}")
            raise ValueError(f"points must decrease from at most 1 towards 0, got {list(self.points)}")
        return self

    def times(self, steps: int) -> list[float]:
        """The points and 0; ValueError if there are more or fewer than `steps`."""
        return self.along(_STRAIGHT, steps)

    def along(self, path: Path, steps: int) -> list[float]:
        """The points, or the times of the levels, and 0; ValueError if there are more or fewer than `steps`."""
        places = self._with_zero()
        if len(places) != steps + 1:
            raise ValueError(f"{steps} steps do not fit {len(places) - 1} listed times: type steps={len(places) - 1}")
        return [*map(path.at_level, places[:-1]), 0.0] if self.sigmas else places

    def _with_zero(self) -> list[float]:
        given = self.sigmas or self.points
        return [*given] if given[-1:] == (0.0,) else [*given, 0.0]
