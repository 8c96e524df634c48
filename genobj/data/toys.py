"""Two-dimensional toys with endless fresh draws, all at mean zero and unit variance by their exact moments.

Mixtures of Gaussians are divided by the standard deviation of each axis, the other toys by one number that keeps their
shape; never by moments of a sample. The noise settings are lengths *before* this division. Two moons, the 8 Gaussians,
the circles and the checkerboard know their exact density. Two moons and the 8 Gaussians can have labels: which moon or
Gaussian a point was drawn from.
"""

import abc
import math
from collections.abc import Callable
from functools import cache
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from genobj import seeds
from genobj.data.base import HELD_OUT, REFERENCE, TRAIN, Batch, Data, Source
from genobj.data.mixture import Mixture
from genobj.types import Labels, TimeTensor

Points = Float[Tensor, "batch 2"]
Positive = Annotated[float, Field(gt=0)]
Drawing = Callable[[int, torch.Generator], Tensor]
"""Makes so many rows with a generator."""


class Fresh(Source):
    """Endless independent draws. Training, held-out and reference samples come from streams that never meet.

    label: labels of the points that `draw` makes with an equal generator; None if they have none.
    """

    def __init__(self, draw: Drawing, label: Drawing | None = None):
        self.draw, self.label = draw, label

    def train(self, rows: range, seed: int) -> Batch:
        """These draws of the training stream."""
        return self._batch(rows, seed, TRAIN)

    def held_out(self, count: int, seed: int) -> Batch:
        """The first `count` draws of the held-out stream."""
        return self._batch(range(count), seed, HELD_OUT)

    def reference(self, count: int, seed: int) -> Batch:
        """The first `count` draws of a third stream, so that held-out against reference is the floor of a metric."""
        return self._batch(range(count), seed, REFERENCE)

    def _batch(self, rows: range, seed: int, stream: int) -> Batch:
        labels = None if self.label is None else seeds.indexed(self.label, rows, seed, stream)
        return Batch(seeds.indexed(self.draw, rows, seed, stream), labels)


class Toy(Data, abc.ABC):
    """Subclasses draw standardised points."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Two coordinates."""
        return (2,)

    @abc.abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh standardised samples, float32."""

    def open(self) -> Fresh:
        """A source of fresh draws."""
        return Fresh(self.draw)


class MixtureToy(Toy, abc.ABC):
    """Subclasses are mixtures of Gaussians: density, marginal velocity and most probable label are exact."""

    labelled: bool | None = None
    """Give every point the number of the moon or Gaussian that it was drawn from; the points stay the same. Unset:
    without labels."""

    @field_validator("labelled")
    @classmethod
    def _unset(cls, value: bool | None) -> bool | None:
        """Without labels is one and the same experiment, however it was said."""
        return value or None

    @property
    @abc.abstractmethod
    def law(self) -> Mixture:
        """The standardised mixture, one class after the other with equally many components each."""

    @property
    @abc.abstractmethod
    def groups(self) -> int:
        """Number of classes that the components fall into."""

    @property
    def classes(self) -> int:
        """Number of labels, 0 for points without."""
        return self.groups if self.labelled else 0

    def open(self) -> Fresh:
        """A source of fresh draws."""
        return Fresh(self.draw, self._labels if self.labelled else None)

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh standardised samples, float32."""
        return self.law.draw(count, generator)

    def _labels(self, count: int, generator: torch.Generator) -> Labels:
        """Labels of what `draw` makes with an equal generator."""
        return self.law.components(count, generator) // (len(self.law.centres) // self.groups)

    def class_log_posterior(self, x: Points) -> Float[Tensor, "batch classes"]:
        """Exact log probability of every class at x, labelled or not."""
        return self.law.log_posterior(x).unflatten(1, (self.groups, -1)).logsumexp(dim=2)

    def log_density(self, x: Points) -> Float[Tensor, " batch"]:
        """Exact log density of the standardised law at x."""
        return self.law.log_density(x)

    def velocity(
        self,
        x_t: Points,
        noise_scale: TimeTensor,
        data_scale: TimeTensor,
        noise_rate: TimeTensor,
        data_rate: TimeTensor,
    ) -> Points:
        """Exact marginal velocity at x_t on a path with these scales and rates (what flow matching learns)."""
        return self.law.velocity(x_t, noise_scale, data_scale, noise_rate, data_rate)


class Moons(MixtureToy):
    """Two interleaved half moons: 512 Gaussians on two half circles, density known."""

    noise: Positive = 0.06
    """Standard deviation across the half circles, whose radius is 1, before standardisation."""

    @property
    def law(self) -> Mixture:
        """256 centres per half circle, equally spaced in angle, ends included; first the upper one."""
        return _two_moons(self.noise)

    @property
    def groups(self) -> int:
        """Two moons: 0 is the upper one."""
        return 2


class Gaussians(MixtureToy):
    """Eight Gaussians on a circle: separate modes, density known."""

    modes: Annotated[int, Field(ge=2)] = 8
    """Number of Gaussians, equally spaced on the circle."""
    noise: Positive = 0.075
    """Standard deviation of each Gaussian, on a circle of radius 1, before standardisation."""

    @property
    def law(self) -> Mixture:
        """The first centre lies on the positive horizontal axis, the others follow against the clock."""
        return _ring(self.modes, self.noise)

    @property
    def groups(self) -> int:
        """Every Gaussian is a class."""
        return self.modes


class Checkerboard(Toy):
    """Uniform on the dark squares of a 4 x 4 checkerboard: sharp edges, density known."""

    squares: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    """Squares along one side of the board, an even number."""

    @property
    def _side(self) -> float:
        # Each coordinate alone is uniform on [0, squares], variance squares^2 / 12: side of a square afterwards.
        return math.sqrt(12) / self.squares

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh standardised samples, float32."""
        square = torch.randint(self.squares**2 // 2, (count,), generator=generator)
        row, place = square // (self.squares // 2), square % (self.squares // 2)
        corner = torch.stack([2 * place + row % 2, row], dim=1)
        return self._side * (corner + torch.rand(count, 2, generator=generator) - self.squares / 2)

    def log_density(self, x: Points) -> Float[Tensor, " batch"]:
        """Exact log density of the standardised law at x; minus infinity on the light squares and outside."""
        square = (x / self._side + self.squares / 2).floor()
        dark = ((square >= 0) & (square < self.squares)).all(dim=1) & (square.sum(dim=1) % 2 == 0)
        return torch.where(dark, -math.log(self.squares**2 / 2 * self._side**2), -math.inf).to(x.dtype)


class SwissRoll(Toy):
    """A spiral of one and a half turns with Gaussian noise: the section of the Swiss roll."""

    noise: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of the noise, on a roll whose radius goes from 4.7 to 14.1, before standardisation."""

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh standardised samples, float32."""
        angle = math.pi * (1.5 + 3 * torch.rand(count, generator=generator))
        roll = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
        # Integrals of a cos a, a sin a and a^2 over a uniform on [3 pi / 2, 9 pi / 2].
        mean = (2.0, 2 / (3 * math.pi))
        variance = (9.75 * math.pi**2 - mean[0] ** 2 - mean[1] ** 2) / 2 + self.noise**2
        return _scaled(roll + self.noise * torch.randn(count, 2, generator=generator), mean, variance)


class Circles(Toy):
    """Two concentric circles with Gaussian noise, density known."""

    inner: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Radius of the inner circle; the outer has radius 1."""
    noise: Positive = 0.05
    """Standard deviation of the noise, before standardisation."""

    @property
    def _spread(self) -> float:
        # E|x|^2 = (1 + inner^2) / 2 + 2 noise^2, shared by two axes; the mean is zero by symmetry.
        return math.sqrt((1 + self.inner**2) / 4 + self.noise**2)

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh standardised samples, float32."""
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        radius = torch.tensor([1.0, self.inner])[torch.randint(2, (count,), generator=generator)]
        circle = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        return (circle + self.noise * torch.randn(count, 2, generator=generator)) / self._spread

    def log_density(self, x: Points) -> Float[Tensor, " batch"]:
        """Exact log density of the standardised law at x.

        A circle of radius R with noise s has density exp(-(|x| - R)^2 / 2 s^2) i0e(|x| R / s^2) / (2 pi s^2), where
        i0e is the exponentially scaled Bessel function of order zero.
        """
        length = x.norm(dim=1)[:, None] * self._spread
        radius, square = torch.tensor([1.0, self.inner]).to(x), self.noise**2
        terms = torch.special.i0e(length * radius / square).log() - (length - radius).square() / (2 * square)
        return terms.logsumexp(dim=1) - math.log(4 * math.pi * square / self._spread**2)


class Pinwheel(Toy):
    """Five spiral arms: modes that are long, bent and close at the hub."""

    arms: Annotated[int, Field(ge=3)] = 5
    """Number of arms."""
    radial: Positive = 0.3
    """Standard deviation along an arm, whose centre is at radius 1, before standardisation."""
    tangential: Positive = 0.1
    """Standard deviation across an arm, before standardisation."""
    twist: float = 0.25
    """How much an arm bends: the angle grows with twist times the exponential of the radius."""

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh standardised samples, float32."""
        arm = torch.randint(self.arms, (count,), generator=generator)
        along, across = torch.randn(2, count, generator=generator)
        along, across = 1 + self.radial * along, self.tangential * across
        angle = 2 * math.pi / self.arms * arm + self.twist * along.exp()
        cos, sin = angle.cos(), angle.sin()
        points = torch.stack([cos * along - sin * across, sin * along + cos * across], dim=1)
        # Rotations keep |x|; three or more arms make the mean zero and the covariance isotropic.
        return _scaled(points, (0.0, 0.0), (1 + self.radial**2 + self.tangential**2) / 2)


def _scaled(points: Points, mean: tuple[float, float], variance: float) -> Points:
    return (points - torch.tensor(mean)) / math.sqrt(variance)


@cache
def _two_moons(noise: float) -> Mixture:
    angle = torch.linspace(0, math.pi, 256, dtype=torch.float64)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
    return Mixture(torch.cat([upper, lower]), torch.full((2,), noise, dtype=torch.float64)).standardised()


@cache
def _ring(modes: int, noise: float) -> Mixture:
    angle = 2 * math.pi / modes * torch.arange(modes, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    return Mixture(circle, torch.full((2,), noise, dtype=torch.float64)).standardised()
