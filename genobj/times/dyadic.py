"""Jumps of length 2^-k that start on a grid (Shortcut models, Frans et al., arXiv 2410.12557, Sec. 3).

Paper to here: time runs the other way, d = t - r is the step, T = 2^levels the finest number of steps, and a level k
stands for d = 2^-k. Rows of the equal share carry the finest level, where the target is the velocity.
"""

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.types import TimeTensor


@final
class Dyadic(Pairs):
    """t - r is a power of two and t a multiple of it (Shortcut); the law of t is not used."""

    citations: ClassVar[tuple[str, ...]] = ("frans2024shortcut",)
    own_times: ClassVar[bool] = True

    equal_share: Annotated[float, Field(ge=0, le=1)] = 0.875
    """Share of the batch that learns the velocity; the rest learns jumps from two half jumps (official: 7/8)."""
    levels: Annotated[int, Field(ge=1, le=20)] = 7
    """log2 of the finest number of steps (official: 7, that is 128 steps)."""
    biased: bool = False
    """Give half of the jumps to the two longest lengths, a quarter each, instead of equal shares to all."""
    finest: Literal["velocity", "step"] = "velocity"
    """What r is on rows of the equal share: t ('velocity'), or t - 2^-levels as in the official code ('step')."""

    @property
    def gap(self) -> float:
        """t - r on the rows of the equal share."""
        return 2.0**-self.levels if self.finest == "step" else 0.0

    def groups(self, batch: int) -> dict[str, range]:
        """The shortest jumps, which alone are guided."""
        start, levels = self.prefix(batch), self.lengths(batch)
        return {"shortest": range(start, start + int((levels[start:] == self.levels - 1).sum()))}

    def refusal(self, batch: int) -> str | None:
        """Every length needs a row."""
        jumps = batch - self.prefix(batch)
        if self.equal_share < 1 and jumps < self.levels:
            return f"{jumps} of {batch} rows are jumps, of {self.levels} lengths; take larger batches, or fewer levels"
        return super().refusal(batch)

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t and r = t - 2^-k for the levels of `lengths`."""
        return self._on_grid(self.lengths(batch), generator)

    def sample(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t and r, each (batch,), with 0 <= r <= t <= 1; the equal share is on the finest grid."""
        equal = self._equal(batch, generator)
        levels = self.lengths(batch).to(generator.device)
        t, r = self._on_grid(torch.where(equal, float(self.levels), levels), generator)
        if self.equal_times is not None:
            t = torch.where(equal, self.equal_times.sample(batch, generator).clamp(min=self.gap), t)
        return t, torch.where(equal, t - self.gap, r)

    def _on_grid(self, levels: Tensor, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t uniform on the multiples of 2^-level in (0, 1], and one step below."""
        step = 2.0 ** -levels.to(generator.device)
        place = torch.rand(len(levels), generator=generator, device=generator.device)
        t = step * (1 + (place / step).floor())
        return t, t - step

    def lengths(self, batch: int) -> Tensor:
        """Level k of every row, float32: the equal share first, then from short jumps to long ones."""
        equal = self.prefix(batch)
        jumps, top = batch - equal, self.levels
        if self.biased and top > 2:
            each = jumps // 2 // (top - 2)
            counts = [*[each] * (top - 2), jumps // 4, jumps // 4]
        else:
            counts = [jumps // top] * top
        counts[-1] += jumps - sum(counts)
        levels = torch.arange(top - 1, -1, -1).repeat_interleave(torch.tensor(counts))
        return torch.cat([torch.full((equal,), top), levels]).float()
