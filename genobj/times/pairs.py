"""Laws of a pair (t, r) with 0 <= r <= t <= 1: where the trained average velocity ends.

A share rho of the rows (`equal_share`) gets r = t, so that a flow-map head keeps learning the velocity (DuMo,
arXiv 2602.17682, Eq. 5; MeanFlow, arXiv 2505.13447, Sec. 4.3). As a prefix of the batch the share has a static shape
and derivative passes run on the remaining rows only.
"""

import abc
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from genobj.config.base import Config, Pick
from genobj.parts import TIMES
from genobj.times.base import Times
from genobj.times.logit_normal import LogitNormal
from genobj.types import Horizon, TimeTensor


class Pairs(Config, abc.ABC):
    """Subclasses draw t and r; rows with r = t are set here."""

    equal_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share rho of the batch with r = t, where the target is the velocity (MeanFlow: 0.75 ImageNet, 0.25 CIFAR-10)."""
    share_by: Literal["prefix", "bernoulli"] = "prefix"
    """Which rows: 'prefix' the first int(rho * batch), 'bernoulli' each with probability rho."""
    equal_times: Annotated[Times, Pick(TIMES)] | None = None
    """Law of t on the rows with r = t; unset: as on the others (SoFlow draws them from another)."""

    rest: ClassVar[Horizon] = "interval"
    """Where r lies on the other rows: at t (instant), at 0 (data) or between (interval)."""

    own_times: ClassVar[bool] = False
    """Whether t does not follow the experiment's law of times."""

    mixes: ClassVar[bool] = True
    """Whether an equal share can be mixed in."""

    def at(self, progress: float) -> "Pairs":
        """The law after this share of the run, progress in [0, 1]: with its own laws of times at that moment."""
        laws = {name: value for name, value in self if isinstance(value, Times)}
        moved = {name: law.at(progress) for name, law in laws.items()}
        return self if moved == laws else self.model_copy(update=moved)

    @property
    def anchors(self) -> bool:
        """Whether some rows have r = t."""
        return self.equal_share > 0

    @property
    def negative(self) -> str | None:
        """The group at negative times, r = t < 0, for the model's own samples in the place of data; None: no such rows.

        Some objective has to ask for it.
        """
        return None

    @property
    def gap(self) -> float:
        """t - r on the rows of the equal share."""
        return 0.0

    @property
    def together(self) -> int:
        """How many rows share their times: rows i, i + batch / together, ... do; parts of a batch keep them whole."""
        return 1

    def prefix(self, batch: int) -> int:
        """How many rows at the front belong to the equal share whatever is drawn."""
        return int(self.equal_share * batch) if self.share_by == "prefix" else 0

    def groups(self, batch: int) -> Mapping[str, range]:
        """Rows of a batch by what they are for, blocks one after the other; none by default."""
        return {}

    def refusal(self, batch: int) -> str | None:
        """Why this cannot be drawn for so few rows at once (with what to type instead), or None."""
        if self.equal_share and self.share_by == "prefix" and not self.prefix(batch):
            return f"equal_share={self.equal_share:g} of {batch} rows is none; type pairs.share_by=bernoulli"
        return None

    @abc.abstractmethod
    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t and r <= t, each (batch,), before the equal share."""

    def sample(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t and r, each (batch,), with 0 <= r <= t <= 1."""
        t, r = self.draw(times, batch, generator)
        equal = self._equal(batch, generator)
        if self.equal_times is not None:
            t = torch.where(equal, self.equal_times.sample(batch, generator), t)
        return t, torch.where(equal, t, r)

    def _equal(self, batch: int, generator: torch.Generator) -> Tensor:
        """Mask (batch,) of the rows with r = t."""
        if self.share_by == "prefix":
            return torch.arange(batch, device=generator.device) < self.prefix(batch)
        return torch.rand(batch, generator=generator, device=generator.device) < self.equal_share


@final
class Zero(Pairs):
    """r = 0: jumps to data (consistency, DuMo)."""

    rest: ClassVar[Horizon] = "data"

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t from `times`, r = 0."""
        t = times.sample(batch, generator)
        return t, torch.zeros_like(t)


@final
class Equal(Pairs):
    """r = t: velocities only (flow matching)."""

    rest: ClassVar[Horizon] = "instant"

    @property
    def anchors(self) -> bool:
        """Always."""
        return True

    def prefix(self, batch: int) -> int:
        """All rows."""
        return batch

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t from `times`, r = t."""
        t = times.sample(batch, generator)
        return t, t


@final
class Below(Pairs):
    """r uniform on [0, t): the law of t is kept as it is given."""

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t from `times`, r = t U."""
        t = times.sample(batch, generator)
        return t, t * torch.rand(batch, generator=generator, device=generator.device)


@final
class Sorted(Pairs):
    """t and r are the larger and the smaller of two independent times (MeanFlow on ImageNet)."""

    citations: ClassVar[tuple[str, ...]] = ("geng2025meanflow",)

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """Maximum and minimum of two draws from `times` (MeanFlow, arXiv 2505.13447, Sec. 4.3)."""
        first, second = times.sample(batch, generator), times.sample(batch, generator)
        return torch.maximum(first, second), torch.minimum(first, second)


@final
class Capped(Pairs):
    """r has a law of its own and is cut off at t (MeanFlow on CIFAR-10, v1 settings)."""

    citations: ClassVar[tuple[str, ...]] = ("geng2025meanflow",)

    law: Annotated[Times, Pick(TIMES, "logit_normal")] = LogitNormal(mean=-4.0, std=1.6)
    """Law of r before it is cut off; rows where it lies above t have r = t beyond the equal share."""

    @property
    def anchors(self) -> bool:
        """Always: r is cut off at t now and then."""
        return True

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t from `times`, r = min(r, t); cutting before or after the equal share is the same."""
        t = times.sample(batch, generator)
        return t, torch.minimum(self.law.sample(batch, generator), t)
