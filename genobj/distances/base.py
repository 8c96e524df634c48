"""Distances between a prediction and its target, one number a sample."""

import abc

from genobj.config.base import Config
from genobj.types import Losses, Samples


class Distance(Config, abc.ABC):
    """Subclasses write one formula; arithmetic is float32 or better whatever comes in."""

    @abc.abstractmethod
    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """Loss of every sample, shape (batch,). Gradients flow through `prediction` only."""
