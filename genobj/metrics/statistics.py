"""Statistics of a whole data set, in one pass and in constant memory: what `genobj stats` writes."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from genobj import seeds
from genobj.data.base import Batch, Source, Split
from genobj.images import Rounding
from genobj.metrics.features import CHUNK, Need, Observer, Seen, Space
from genobj.metrics.team import ALONE, Team
from genobj.types import Samples

LOTS = 0x3E7A5
"""Stream of `seeds` that belongs to this file."""


class Lots:
    """A random choice of rows out of a stream whose length nobody knows: those that draw the smallest lots.

    A row's lot is a function of the seed and of the sample's bytes, so that the choice is the same for any number of
    processes, also where files are skipped and nobody knows which number a row has.
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self.lots, self.rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0)

    def add(self, samples: Samples, rows: Tensor) -> None:
        """Offer the rows of these samples."""
        told = [hashlib.sha1(sample.numpy().tobytes(), usedforsecurity=False).digest() for sample in samples.cpu()]
        numbers = [int.from_bytes(one[:7], "big") for one in told]
        self.join(torch.tensor([seeds.mix(self.seed, LOTS, number) for number in numbers]), rows.cpu())

    def join(self, lots: Tensor, rows: Tensor) -> None:
        """Offer rows with their lots."""
        if len(lots):
            lots = torch.cat([self.lots, lots])
            rows = torch.cat([self.rows, rows]) if len(self.rows) else rows
            order = lots.argsort()[: self.count]
            self.lots, self.rows = lots[order], rows[order]

    def gathered(self, team: Team) -> Tensor | None:
        """The chosen rows of all processes; None but on the first."""
        whole = Lots(self.count, self.seed)
        for lots, rows in zip(team.gathered(self.lots), team.gathered(self.rows), strict=True):
            whole.join(lots, rows)
        return whole.rows if team.first else None


def statistics(
    source: Source,
    split: Split,
    space: Space,
    *,
    rounding: Rounding = "truncate",
    features: int = 0,
    seed: int = 0,
    team: Team = ALONE,
    decode: Callable[[Samples], Samples] = lambda x: x,
    show: Callable[[int], None] = lambda done: None,
) -> Seen | None:
    """Mean and covariance of the features of all images of a split, and the features of some; None but on process 0.

    features: how many to keep for kid and prdc, chosen by the seed. decode: what makes images of samples (latents).
    The mean and covariance of the places that sFID sees come along where the extractor shows them.
    ValueError for data without end or with fewer than two images.
    """
    needs: set[Need] = {"moments", "spatial"} if space.spatial else {"moments"}
    observer, lots, done = Observer(space, needs, rounding), Lots(features, seed), 0
    for batch in source.whole(split, CHUNK, team.rank, team.world):
        look = observer.add(Batch(decode(batch.x), batch.y))
        if features:
            lots.add(batch.x, look.features)
        done += team.world * len(batch.x)
        show(done)
    seen, rows = observer.seen(team), lots.gathered(team)
    if seen is None:
        return None
    return Seen(seen.n, seen.moments, seen.spatial, rows if features else None)
