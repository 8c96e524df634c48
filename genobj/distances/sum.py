"""Several distances added: UCGM and FACM train velocities with the squared error plus the cosine."""

from functools import reduce
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field, WithJsonSchema

from genobj.config.base import Pick
from genobj.distances.base import Distance
from genobj.distances.cosine import Cosine
from genobj.distances.mse import MSE
from genobj.parts import DISTANCES
from genobj.types import Losses, Samples

_ANY = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}], "description": "A distance."})
"""The schema of a part is that of a distance, which may be a sum: written out it would have no end."""


@final
class Sum(Distance):
    """Distances added, by default the squared error and the cosine: FACM's velocities, UCGM's multi-step training."""

    citations: ClassVar[tuple[str, ...]] = ("peng2025facm",)

    parts: Annotated[tuple[Annotated[Distance, Pick(DISTANCES), _ANY], ...], Field(min_length=1)] = (MSE(), Cosine())
    """What is added: names, or tables with a `kind`."""

    def __call__(self, prediction: Samples, target: Samples) -> Losses:
        """The parts' sum, shape (batch,)."""
        return reduce(torch.add, [part(prediction, target) for part in self.parts])
