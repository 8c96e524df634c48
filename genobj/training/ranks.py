"""The processes of a run: who this one is, and the few words they exchange besides gradients."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; alone by default."""

    rank: int = 0
    """Number of this process over all nodes."""
    world: int = 1
    """Processes over all nodes."""
    local: int = 0
    """Number of this process on its node, hence its GPU."""
    here: int = 1
    """Processes on this node."""
    patience: timedelta = timedelta(minutes=30)
    """How long a process waits for the others."""

    @classmethod
    def launched(cls) -> "Ranks":
        """As torchrun tells in the environment (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE)."""
        names = {"rank": "RANK", "world": "WORLD_SIZE", "local": "LOCAL_RANK", "here": "LOCAL_WORLD_SIZE"}
        found: dict[str, Any] = {key: int(os.environ[name]) for key, name in names.items() if name in os.environ}
        return cls(**found)

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def once(self, work: Callable[[], T]) -> T:
        """What `work` gives on the first process, on every process; what it raises is raised on all."""
        if self.world == 1:
            return work()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = work()
            except Exception as error:  # the others wait for word, whatever it is
                box[1] = _sendable(error)
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over all processes, on all of them."""
        if self.world == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world

    def worst(self, value: Tensor) -> Tensor:
        """Largest of a number over all processes, on all of them; nobody waits for a device."""
        if self.world > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return value


ALONE = Ranks()
"""One process on one device."""


def _sendable(error: Exception) -> Exception:
    """The error, or its words if it cannot be pickled."""
    try:
        pickle.dumps(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def hosts(ranks: Ranks) -> dist.ProcessGroup | None:
    """A way for the hosts to talk without their devices; None for one process alone."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=ranks.patience)) if ranks.world > 1 else None


class Wish:
    """Whether some process wants to stop: asked on every step, answered with what was said a step before.

    Nobody waits for a device: the exchange runs between the hosts while the step does.
    """

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.group = hosts(ranks)
        self._said: tuple[Any, Tensor] | None = None

    def __call__(self, mine: bool) -> bool:
        """Tell whether this process wants to; learn whether any did, the same on every process."""
        if self.group is None:
            return mine
        answer = False
        if self._said is not None:
            work, flag = self._said
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor(float(mine))
        self._said = dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True), flag
        return answer
