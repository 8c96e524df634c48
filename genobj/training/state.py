"""What a run is at one moment: exactly what a checkpoint holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genobj.model import Model
from genobj.training.averages import Averages


@dataclass
class State:
    """Everything that changes during training.

    The order of the data and every random number are functions of (seed, step, seen), so neither has a state here.
    """

    model: Model
    averages: Averages
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Optimiser steps done."""
    seen: int = 0
    """Training samples consumed, over all devices."""
    seconds: float = 0.0
    """Wall time of these steps on the first process: data, gradients, optimiser and averages, no pictures, checkpoints
    or scores. Nobody waits for the device to know it: on GPUs it is right where the log has just waited."""

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """What each weights file holds, by its name: the live weights, and every average with the model's buffers."""
        live = self.model.state_dict()
        return {"model": live} | {file: live | values for file, values in self.averages.named().items()}
