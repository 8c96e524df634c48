"""An objective scores heads on one shared draw."""

import abc
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genobj.config.base import Config, Pick
from genobj.distances.base import Distance
from genobj.distances.mse import MSE
from genobj.parts import DISTANCES
from genobj.types import Draw, Horizon, Losses, Passes, Samples, Weights


class Objective(Config, abc.ABC):
    """Override this only for an objective that is not a regression of one head."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor on this term (beta and 1 - beta in DuMo Eq. 9)."""

    @property
    @abc.abstractmethod
    def trains(self) -> Mapping[str, Horizon]:
        """The heads this objective trains and the horizon that it gives them."""

    @property
    def networks(self) -> frozenset[Weights]:
        """Networks that the gradient-free passes use besides the live one."""
        return frozenset()

    def refusal(self, *, guided: bool) -> str | None:
        """Why these settings make no sense in this run (with what to type instead), or None."""
        return None

    @abc.abstractmethod
    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Loss of every sample, shape (batch,), from the one forward `out` at (x_t, t, r, y) of the draw."""


class Regression(Objective, abc.ABC):
    """Regress one head onto a target that carries no gradient: nearly every objective of flow maps."""

    horizon: ClassVar[Horizon] = "instant"
    """Where the trained average velocity ends: instant (r = t), data (r = 0) or interval (r given)."""

    head: str
    """Head that this objective trains."""
    distance: Annotated[Distance, Pick(DISTANCES, "mse")] = MSE()
    """Distance between prediction and target."""

    @property
    def trains(self) -> Mapping[str, Horizon]:
        """One head, with the class's horizon."""
        return {self.head: self.horizon}

    @abc.abstractmethod
    def target(self, draw: Draw, passes: Passes) -> Samples:
        """What the head should say at (x_t, t, r), shaped like x_t; called without gradients."""

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """distance(prediction, target), sample by sample."""
        with torch.no_grad():
            target = self.target(draw, passes)
        prediction = out[self.head]
        if target.shape != prediction.shape or not target.is_floating_point():
            got, wanted = f"{tuple(target.shape)} {target.dtype}", f"{tuple(prediction.shape)} {prediction.dtype}"
            raise ValueError(f"{type(self).__name__}.target gave {got}, head {self.head!r} is {wanted}")
        return self.distance(prediction, target)
