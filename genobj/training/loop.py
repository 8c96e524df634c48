"""The training loop. Read it from top to bottom; everything it calls is one screen long."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from genobj.composer import Composer, Loss, Networks
from genobj.config.base import Config
from genobj.data.base import Source
from genobj.model import Model
from genobj.seeds import mix
from genobj.training.health import Health
from genobj.training.optim import Optim, global_norm
from genobj.training.state import State
from genobj.types import Labels, Samples

DEVICES = r"auto|cpu|cuda(:\d+)?"
DRAWS, MASKS = 0x7A1, 0x7A2  # streams of random numbers


class Train(Config):
    """How long, how much at once, and on what."""

    steps: Annotated[int, Field(gt=0)] = 4000
    """Optimiser steps."""
    batch: Annotated[int, Field(gt=0)] = 256
    """Samples a step, over all devices and accumulation."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Samples at once on one device; gradients are accumulated over batch / micro_batch. Unset: the whole batch."""
    device: Annotated[str, Field(pattern=f"^({DEVICES})$")] = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 runs the forward with gradients under autocast; weights, times and derivatives stay float32."""
    compile: bool = False
    """Compile the network with torch.compile; pays on GPUs, costs start-up time."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 takes one for small networks (faster there) and torch's own choice for others."""
    patience: Annotated[int, Field(gt=0)] = 20
    """Stop after this many steps in a row whose loss is not finite (each is skipped)."""


class Hook(NamedTuple):
    """Something to do every `every` steps: log, draw, save."""

    every: int
    run: Callable[[State, dict[str, float]], object]
    means: bool = False
    """Whether it reads the mean losses, which waits for the device."""


class StepModule(nn.Module):
    """What is wrapped for several devices: the network and its whole loss, all passes inside."""

    def __init__(self, model: Model, others: Networks, composer: Composer):
        super().__init__()
        self.model, self.composer = model, composer
        self.networks: Networks = {"online": model, **others}

    def forward(self, x: Samples, y: Labels | None, generator: torch.Generator, progress: float = 0.0) -> Loss:
        """The loss of one micro-batch, `progress` being the share of the run that is over."""
        return self.composer(self.networks, x, y, generator, progress)


def train(
    state: State, step: StepModule, source: Source, settings: Train, optim: Optim, seed: int, hooks: Sequence[Hook] = ()
) -> State:
    """Minimise the composed loss until `settings.steps`; raises health.Diverged if it stays non-finite."""
    device = next(state.model.parameters()).device
    trained = [p for p in state.model.parameters() if p.requires_grad]
    generator = torch.Generator(device)
    health = Health(list(step.composer.objectives), device, settings.patience)
    micro = settings.micro_batch or settings.batch
    parts, total = settings.batch // micro, settings.steps * settings.batch

    while state.step < settings.steps:
        # One optimiser step: accumulate, clip, step, average.
        losses: list[Loss] = []
        for part in range(parts):
            x, y = source.train(state.seen + part * micro, micro, seed)
            generator.manual_seed(mix(seed, DRAWS, state.step, part))  # noise, times, dropped labels
            if step.composer.shared_masks:
                torch.manual_seed(mix(seed, MASKS, state.step, part))  # dropout
            loss = step(moved(x, device), None if y is None else moved(y, device), generator, state.seen / total)
            (loss.total / parts).backward()
            losses.append(loss)
        bad = health.watch(losses, global_norm(trained, optim.clip))
        for group in state.optimizer.param_groups:
            group["lr"] = optim.rate(state.seen, total)
        state.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused step leaves the weights alone
        state.optimizer.step()
        for p in trained:
            p.grad = None
        state.averages.update(state.step)
        state.step, state.seen = state.step + 1, state.seen + settings.batch

        # Then the world may look: log, draw, save.
        due = [hook for hook in hooks if state.step % hook.every == 0 or state.step == settings.steps]
        means = health.read(state.step) if any(hook.means for hook in due) else {}
        for hook in due:
            hook.run(state, means)
    return state


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for a GPU to take it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
