"""Where a run lives: its device, its threads, and how the step is wrapped for them."""

import re
from typing import Literal

import torch
from torch import nn

from genobj.config.base import Config
from genobj.training.loop import DEVICES, StepModule, Train

SMALL = 3_000_000
"""Parameters up to which one CPU thread is faster than several (measured on the toy networks)."""


class Distributed(Config):
    """How training is spread over devices."""

    strategy: Literal["none"] = "none"
    """none: one process on one device."""


def device_of(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:N; ValueError if there is none of that name here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(DEVICES, name):
        raise ValueError(f"unknown device {name!r}; type auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: this machine has no such GPU; type cpu")
    return device


def set_threads(threads: int, model: nn.Module) -> None:
    """Use this many CPU threads; 0 is one for small networks and torch's own choice for others."""
    size = sum(p.numel() for p in model.parameters())
    if threads or size < SMALL:
        torch.set_num_threads(threads or 1)


def prepare(step: StepModule, settings: Train) -> StepModule:
    """The step made ready for this machine."""
    if settings.compile:
        step.model.compile()
    return step
