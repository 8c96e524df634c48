"""Groups of rows with the same (t, r): what is compared is then a distribution, not a sample (IMM).

Zhou et al., Inductive Moment Matching, arXiv 2503.07565, Alg. 1. Paper to here: M is the size of a group, s is r.
"""

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, model_validator

from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.types import TimeTensor


@final
class Grouped(Pairs):
    """Groups that share t, stretched to [low, high], and r uniform on [low, t) (IMM)."""

    citations: ClassVar[tuple[str, ...]] = ("zhou2025imm",)

    size: Annotated[int, Field(ge=2)] = 4
    """M: rows of a group. Rows g, g + G, g + 2 G, ... of a batch with G groups belong together, so that a batch that is
    shared out row by row (devices, micro-batches) keeps its groups whole."""
    low: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Earliest time (IMM: 0 on ImageNet, 0.006 on CIFAR-10)."""
    high: Annotated[float, Field(gt=0, le=1)] = 0.994
    """Latest time: the law of times on [0, 1] is stretched to [low, high]."""
    share_by: Literal["prefix", "bernoulli"] = "bernoulli"
    """Which groups have r = t: each with probability rho. 'prefix' does not fit groups."""

    @model_validator(mode="after")
    def _in_order(self) -> "Grouped":
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} must lie below high={self.high:g}; swap them")
        if self.share_by == "prefix":
            raise ValueError("groups are spread over the batch, a prefix would cut them; type pairs.share_by=bernoulli")
        return self

    @property
    def together(self) -> int:
        """The rows of a group share their times."""
        return self.size

    def refusal(self, batch: int) -> str | None:
        """Groups are whole."""
        if batch % self.size:
            return f"{batch} rows are no whole groups of {self.size}; type train.batch={self._near(batch)}"
        return super().refusal(batch)

    def _near(self, batch: int) -> int:
        below = batch // self.size * self.size
        return max(self.size, min(below, below + self.size, key=lambda whole: abs(whole - batch)))

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t from `times`, r = low + (t - low) U, of so many groups."""
        t = self.low + (self.high - self.low) * times.sample(batch, generator)
        share = torch.rand(batch, generator=generator, device=generator.device)
        return t, torch.minimum(self.low + (t - self.low) * share, t)

    def sample(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t and r, each (batch,), with 0 <= r <= t <= 1; group after group, as often as a group has rows."""
        if refusal := self.refusal(batch):
            raise ValueError(f"pairs: {refusal}")
        t, r = super().sample(times, batch // self.size, generator)
        return t.repeat(self.size), r.repeat(self.size)
