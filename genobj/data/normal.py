"""Normal data of any shape: for benchmarks and costs of models whose data are elsewhere, and for exact tests."""

from typing import Annotated

import torch
from pydantic import Field

from genobj import seeds
from genobj.data.base import HELD_OUT, REFERENCE, TRAIN, Batch, Data, Source

Positive = Annotated[int, Field(gt=0)]


class Normal(Data):
    """Normal data of any shape, labels at random: for cost, benchmarks and exact tests."""

    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2,)
    """Shape of one sample, e.g. [4, 32, 32] for the latents of 256 x 256 images."""
    labels: Annotated[int, Field(ge=0)] = 0
    """Number of labels, which mean nothing."""
    std: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of every element."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As set."""
        return self.sizes

    @property
    def classes(self) -> int:
        """As set."""
        return self.labels

    def open(self) -> Source:
        """A source of fresh draws."""
        return _NormalSource(self)


class _NormalSource(Source):
    def __init__(self, settings: Normal):
        self.settings = settings

    def train(self, rows: range, seed: int) -> Batch:
        return self._rows(rows, seed, TRAIN)

    def held_out(self, count: int, seed: int) -> Batch:
        return self._rows(range(count), seed, HELD_OUT)

    def reference(self, count: int, seed: int) -> Batch:
        return self._rows(range(count), seed, REFERENCE)

    def _rows(self, rows: range, seed: int, stream: int) -> Batch:
        x = self.settings.std * seeds.noise(self.settings.sizes, rows, seed, stream)
        if not self.settings.labels:
            return Batch(x, None)

        def draw(n: int, generator: torch.Generator) -> torch.Tensor:
            return torch.randint(self.settings.labels, (n,), generator=generator)

        return Batch(x, seeds.indexed(draw, rows, seed, stream, 1))
