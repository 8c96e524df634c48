"""Objectives whose every pull has the same length, however steep the derivative is: tangent normalisation (sCM)."""

import abc
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from genobj.objectives.tangent import Tangent
from genobj.types import Draw, Losses, Passes, Samples, TimeTensor, over


class NormalisedTangent(Tangent, abc.ABC):
    """Subclasses say where u is pulled to, g: it learns u + size g / (||g|| + c), with weight 1 / size^2.

    u in the target is that of the network which is differentiated (derivative.weights).
    """

    floor: Annotated[float, Field(gt=0)] = 0.1
    """c, the length of g below which the pull fades."""
    norm: Literal["l2", "rms"] = "l2"
    """||g|| of a sample: the root of the sum of its squares (sCM), or of their mean (FastGen, FACM's code)."""

    @abc.abstractmethod
    def pull(self, u: Samples, draw: Draw, passes: Passes) -> Samples:
        """g, shaped like x_t; u is what the head says at the draw's point."""

    @abc.abstractmethod
    def size(self, draw: Draw) -> TimeTensor:
        """By how much u is larger than what is pulled by one, shape (batch,)."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """u + size g / (||g|| + c)."""
        u = self.ask(passes, draw.point, weights=self.derivative.weights)
        g = self.pull(u, draw, passes)
        length = g.flatten(1).norm(dim=1)
        length = length if self.norm == "l2" else length * g[0].numel() ** -0.5
        return u + over(self.size(draw) / (length + self.floor), g) * g

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """The distance over size^2, per sample."""
        return super().loss(out, draw, passes) / self.size(draw).square()
