"""The exact classifier of toys whose law is known: no network, the posterior of Bayes' rule."""

import hashlib

import torch

from genobj.data.toys import MixtureToy, Points
from genobj.metrics.features import Extractor, Look, Space


class Exact(Extractor):
    """Looks at points of a toy: the features are the points, the logits the exact log probabilities of the classes."""

    data: MixtureToy
    """The toy, labelled or not."""

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """It sees points of the plane only."""
        return None if shape == self.data.shape else f"{type(self.data).__name__} is a law of points, not of {shape}."

    @property
    def classes(self) -> int:
        """Classes that the law knows, also where the data is without labels."""
        return self.data.groups

    def open(self, device: torch.device) -> Space:
        """A space without weights; its hash is that of the toy's settings."""

        def look(x: Points) -> Look:
            return Look(x, self.data.class_log_posterior(x))

        told = f"{type(self.data).__name__} {self.data.model_dump_json(exclude_none=True)}"
        return Space("exact", hashlib.sha256(told.encode()).hexdigest(), 2, look, device, rounded=False)
