"""Where a run lives: its device, its threads, and how the step is wrapped for them."""

from typing import Literal

import torch
from torch import nn

from genobj.config.base import Config
from genobj.training.loop import StepModule, Train

SMALL = 3_000_000
"""Parameters up to which one CPU thread is faster than several (measured on the toy networks)."""


class Distributed(Config):
    """How training is spread over devices."""

    strategy: Literal["none"] = "none"
    """none: one process on one device."""


def device_of(settings: Train) -> torch.device:
    """The device that settings ask for; ValueError if this machine has none."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"train.device={settings.device}: this machine has no such GPU; type train.device=cpu")
    return device


def set_threads(settings: Train, model: nn.Module) -> None:
    """Use the number of CPU threads that settings ask for."""
    size = sum(p.numel() for p in model.parameters())
    if settings.threads or size < SMALL:
        torch.set_num_threads(settings.threads or 1)


def prepare(step: StepModule, settings: Train) -> StepModule:
    """The step made ready for this machine."""
    if settings.compile:
        step.model.compile()
    return step
