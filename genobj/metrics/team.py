"""Several processes that measure together: each looks at its share, the first one adds up."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=30)
"""How long they wait for each other: the first one may compute for hours alone, and if one dies, torchrun ends all."""


@dataclass(frozen=True)
class Team:
    """This process among those that measure; alone by default.

    Work is shared in whole chunks: chunk c belongs to process c modulo `world`. A network then sees the same batches
    however many processes there are, so that samples are the same to the last bit.
    """

    rank: int = 0
    world: int = 1
    group: Any = None
    """Their way to talk (a torch.distributed group on CPUs); None: the usual one, with its own patience."""

    @classmethod
    def joined(cls, rank: int, world: int) -> "Team":
        """Those that torchrun started, already connected; all of them call this. One process alone needs nothing."""
        return cls(rank, world, dist.new_group(backend="gloo", timeout=PATIENCE) if world > 1 else None)

    @property
    def first(self) -> bool:
        """Whether this process adds up."""
        return self.rank == 0

    def chunks(self, count: int, size: int) -> Iterator[range]:
        """The ranges of this process out of `count` rows in chunks of `size`, in rounds.

        Every process gets equally many, empty ones at the end, so that all can exchange something in each round.
        """
        for start in range(0, count, size * self.world):
            mine = start + size * self.rank
            yield range(min(mine, count), min(mine + size, count))

    def gathered(self, mine: Tensor) -> list[Tensor]:
        """Everybody's tensors in the order of ranks, on the CPU of the first process; an empty list elsewhere.

        Tensors may differ in their first size only.
        """
        mine = mine.detach().cpu().contiguous()
        if self.world == 1:
            return [mine]
        if not self.first:
            dist.send(torch.tensor(len(mine)), 0, group=self.group)
            if mine.numel():
                dist.send(mine, 0, group=self.group)
            return []
        return [mine, *(self._from(rank, mine) for rank in range(1, self.world))]

    def _from(self, rank: int, like: Tensor) -> Tensor:
        count = torch.tensor(0)
        dist.recv(count, rank, group=self.group)
        theirs = like.new_empty(int(count), *like.shape[1:])
        if theirs.numel():
            dist.recv(theirs, rank, group=self.group)
        return theirs

    def whole(self, mine: Tensor, size: int) -> Tensor | None:
        """Rows in the order of their numbers out of everybody's chunks of `size`; None but on the first process."""
        shares = [share.split(size) for share in self.gathered(mine)]
        if not shares:
            return None
        rounds = max(len(share) for share in shares)
        return torch.cat([share[i] for i in range(rounds) for share in shares if i < len(share)])


ALONE = Team()
"""One process."""
