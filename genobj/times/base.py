"""Laws of one training time t in [0, 1]."""

import abc

import torch

from genobj.config.base import Config
from genobj.types import TimeTensor


class Times(Config, abc.ABC):
    """Subclasses draw times; the pair laws (pairs.py) draw (t, r) from them."""

    def at(self, progress: float) -> "Times":
        """The law after this share of the run, progress in [0, 1]; itself if it does not change."""
        return self

    @abc.abstractmethod
    def sample(self, batch: int, generator: torch.Generator) -> TimeTensor:
        """Times in [0, 1], shape (batch,), float32, on the generator's device."""
