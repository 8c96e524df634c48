"""What is wrapped for several devices: a module whose forward is the whole loss of a step.

DDP and FSDP2 then see every forward that needs them: gradient-free ones, tangents and several with gradients alike.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from genobj.composer import Composer, Loss, Networks
from genobj.model import Model
from genobj.types import Augment, Labels, Samples


class StepModule(nn.Module):
    """The network and its whole loss, all passes inside."""

    def __init__(self, model: Model, others: Networks, composer: Composer):
        super().__init__()
        self.model, self.composer = model, composer
        self.networks: Networks = {"online": model, **others}

    def forward(
        self,
        x: Samples,
        y: Labels | None,
        generator: torch.Generator,
        progress: float = 0.0,
        part: int = 0,
        parts: int = 1,
        a: Augment | None = None,
    ) -> Loss:
        """The loss of one micro-batch: part `part` of `parts` of a batch, after `progress` of the run."""
        return self.composer(self.networks, x, y, generator, progress, part, parts, a)

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """Around a micro-batch: gradients are exchanged after the last one only."""
        if self.model.in_shards:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]  # of FSDPModule
        return nullcontext()


@runtime_checkable
class Step(Protocol):
    """A StepModule, or what wraps it for several devices."""

    @property
    def composer(self) -> Composer:
        """What makes the loss."""
        ...

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """See StepModule.sync."""
        ...

    def __call__(
        self,
        x: Samples,
        y: Labels | None,
        generator: torch.Generator,
        progress: float,
        part: int,
        parts: int,
        a: Augment | None,
    ) -> Loss:
        """See StepModule.forward."""
        ...
