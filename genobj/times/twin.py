"""Times of TwinFlow (Cheng et al., arXiv 2512.05150): blocks of rows for jumps, velocities and the model's own samples.

Blocks lie one after the other in the order of the fields here; all but `adv` have round(share of the batch) rows and
`adv` the rest (if its share is zero, the last block that has one). Paper to here: e2e and one are its rows with r = 0,
mul those of many steps, any those of any step, adv the fake trajectory at t in [-1, 0].
"""

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field, model_validator

from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.types import TimeTensor

Part = Annotated[float, Field(ge=0)]


@final
class Twin(Pairs):
    """Row groups of TwinFlow: jumps from noise to data, velocities, any jumps, own samples at negative times."""

    citations: ClassVar[tuple[str, ...]] = ("cheng2025twinflow",)
    mixes: ClassVar[bool] = False

    e2e: Part = 1.0
    """Relative number of rows with t = 1, r = 0: the one-step map. These and adv are what the paper's lambda sets."""
    mul: Part = 1.0
    """Relative number of rows with r within a share `near` of t: the velocity."""
    any: Part = 1.0
    """Relative number of rows with r uniform on [0, t)."""
    one: Part = 0.0
    """Relative number of rows with r = 0 at any t (TwinFlow's LoRA training)."""
    adv: Part = 1.0
    """Relative number of rows with r = t < 0, for the model's own samples."""
    near: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Longest t - r of the rows `mul`, as a share of t."""

    @model_validator(mode="after")
    def _has_rows(self) -> "Twin":
        if not self._shares:
            raise ValueError("every share of pairs=twin is 0; type pairs.any=1")
        if self.equal_share:
            raise ValueError("pairs=twin has no equal_share; type pairs.mul for rows with r near t")
        return self

    @property
    def _shares(self) -> dict[str, float]:
        named = {"e2e": self.e2e, "mul": self.mul, "any": self.any, "one": self.one, "adv": self.adv}
        return {name: share for name, share in named.items() if share}

    @property
    def negative(self) -> str | None:
        """The rows adv, if there are some."""
        return "adv" if self.adv else None

    def groups(self, batch: int) -> dict[str, range]:
        """Rows of each group that has a share."""
        shares, begin, found = self._shares, 0, dict[str, range]()
        whole = sum(shares.values())
        for place, (name, share) in enumerate(shares.items(), 1):
            end = batch if place == len(shares) else min(begin + round(batch * share / whole), batch)
            found[name], begin = range(begin, end), end
        return found

    def refusal(self, batch: int) -> str | None:
        """Every group that has a share needs a row."""
        empty = [name for name, rows in self.groups(batch).items() if not rows]
        return f"{batch} rows leave none for {', '.join(empty)}; take larger batches" if empty else None

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[TimeTensor, TimeTensor]:
        """t from `times` and r, changed group by group: r = t < 0 for own samples, else 0 <= r <= t."""
        t = times.sample(batch, generator).clone()
        r = t - t * torch.rand(batch, generator=generator, device=generator.device)
        for name, found in self.groups(batch).items():
            rows = slice(found.start, found.stop)
            if name == "e2e":
                t[rows] = 1
            if name in ("e2e", "one"):
                r[rows] = 0
            if name == "mul":
                r[rows] = t[rows] - self.near * (t[rows] - r[rows])
            if name == "adv":
                t[rows] = -t[rows]
                r[rows] = t[rows]
        return t, r
