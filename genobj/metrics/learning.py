"""How a small extractor is trained: one network, one loop, everything from the seed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from genobj import seeds
from genobj.config.base import Config
from genobj.data.base import Batch, Data, Source
from genobj.images import from_uint8, to_uint8
from genobj.metrics.features import CHUNK
from genobj.metrics.trained import Architecture, Facts, SmallNet, save
from genobj.types import Samples

SHIFTS, FLIPS = 0x3E7A3, 0x3E7A4
"""Streams of `seeds` that belong to this file."""
UNLABELLED = "an extractor learns from labels, and this data has none; type {}"
LABELS = "how many there are, as in data.labels=10"


class Training(Config):
    """How an extractor is trained."""

    steps: Annotated[int, Field(gt=0)] = 2000
    """Optimiser steps; 2,000 of 128 colour images of 32 x 32 take five minutes of one CPU core."""
    batch: Annotated[int, Field(ge=2)] = 128
    """Images a step."""
    rate: Annotated[float, Field(gt=0)] = 4e-3
    """Peak learning rate of AdamW: it rises over the first fifth of the steps and falls to zero."""
    decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Label smoothing."""
    shift: Annotated[int, Field(ge=0)] | None = None
    """Largest shift of an image in pixels; unset: one for every eight rows."""
    flip: bool | None = None
    """Mirror half of the images left to right; unset: colour images only, since digits and letters have a side."""
    width: Annotated[int, Field(gt=0, le=512)] = 32
    """Channels of the first stage; the features are four times as many."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, order and augmentation."""


def train(
    settings: Training,
    data: Data,
    folder: Path,
    device: torch.device,
    described: dict[str, Any],
    show: Callable[[int, float], None] = lambda step, loss: None,
    complain: Callable[[str], None] = lambda complaint: None,
) -> Facts:
    """Train on the labelled training split, measure on held-out images, write the folder.

    described: the settings of the data, for the record; show: called with the step and its loss now and then; complain:
    told of every damaged file that was skipped.
    Raises ValueError for data without labels or that are no images.
    """
    network = _architecture(settings, data)
    source, augment = data.open(), _augmentation(settings, network.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = SmallNet(network).to(device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.decay, fused=True)
    for step in range(settings.steps):
        rows = range(step * settings.batch, (step + 1) * settings.batch)
        loss = _step(net, optimizer, source, rows, augment, settings, step / settings.steps, device)
        if (step + 1) % 50 == 0 or step + 1 == settings.steps:
            show(step + 1, float(loss))
    accuracy, count = _finished(net.eval(), source, settings, device)
    how = settings.model_dump(mode="json") | {"torch": torch.__version__, "device": device.type}
    for complaint in source.complaints():
        complain(complaint)
    known = {"accuracy": accuracy, "held_out": count, "unseen": source.unseen}
    return save(net, network, folder, **known, data=described, training=how)


def _architecture(settings: Training, data: Data) -> Architecture:
    if len(data.shape) != 3:
        raise ValueError(f"an extractor looks at images, and this data has shape {data.shape}")
    if data.classes < 2:
        raise ValueError(UNLABELLED.format("data.labelled=true" if "labelled" in type(data).model_fields else LABELS))
    channels, height, width = data.shape
    return Architecture(shape=(channels, height, width), classes=data.classes, width=settings.width)


def _augmentation(settings: Training, shape: tuple[int, int, int]) -> tuple[int, bool]:
    shift = min(shape[1:]) // 8 if settings.shift is None else settings.shift
    return shift, shape[0] == 3 if settings.flip is None else settings.flip


def _step(
    net: SmallNet,
    optimizer: torch.optim.Optimizer,
    source: Source,
    rows: range,
    augment: tuple[int, bool],
    settings: Training,
    done: float,
    device: torch.device,
) -> Tensor:
    x, y, _ = source.train(rows, settings.seed)
    if y is None:
        raise ValueError(UNLABELLED.format(LABELS))
    for group in optimizer.param_groups:
        group["lr"] = settings.rate * min(done / 0.2, 0.5 * (1 + math.cos(math.pi * max(done - 0.2, 0) / 0.8)))
    x = moved(from_uint8(to_uint8(x)), rows, settings.seed, *augment).to(device)
    loss = F.cross_entropy(net(x).logits, y.to(device), label_smoothing=settings.smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def moved(x: Samples, rows: range, seed: int, shift: int, flip: bool) -> Samples:
    """Images shifted by up to `shift` pixels each way (zeros come in) and mirrored; a function of (seed, row)."""
    count, _, height, width = x.shape
    draw = seeds.indexed(lambda n, source: torch.rand(n, 3, generator=source), rows, seed, SHIFTS)
    down, right = (draw[:, :2] * (2 * shift + 1)).long().T
    across = torch.arange(width).expand(count, -1)
    if flip:
        across = torch.where(draw[:, 2:] < 0.5, across.flip(1), across)
    padded = F.pad(x, (shift,) * 4)
    i = (torch.arange(height) + down[:, None])[:, None, :, None]
    j = (across + right[:, None])[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(x.shape[1])[:, None, None], i, j]


@torch.no_grad()
def _finished(net: SmallNet, source: Source, settings: Training, device: torch.device) -> tuple[float, int]:
    """Set the scale of the features by what was learnt; the share of held-out images recognised, and their number."""
    learnt, unseen = source.train(range(4 * CHUNK), settings.seed), source.held_out(10_000, settings.seed)
    features, _ = _looked(net, learnt, device)
    net.get_buffer("scale").copy_(features.square().mean().sqrt())
    _, right = _looked(net, unseen, device)
    return float(right.double().mean()), len(unseen.x)


def _looked(net: SmallNet, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    assert batch.y is not None
    looks = [net(from_uint8(to_uint8(some)).to(device)) for some in batch.x.split(CHUNK)]
    guesses = torch.cat([look.logits.argmax(1).cpu() for look in looks if look.logits is not None])
    return torch.cat([look.features for look in looks]), guesses == batch.y
