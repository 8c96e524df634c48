"""The training loop. Read it from top to bottom; everything it calls is one screen long."""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from genobj.composer import Loss
from genobj.config.base import Config
from genobj.data.base import Source
from genobj.seeds import mix
from genobj.training.feed import Feed, warned
from genobj.training.health import CARE, Health, HealthSettings
from genobj.training.optim import Optim, global_norm
from genobj.training.ranks import ALONE, Ranks
from genobj.training.state import State
from genobj.training.step import Step
from genobj.training.watchdog import Phase, nowhere

DEVICES = r"auto|cpu|cuda(:\d+)?"
DRAWS, MASKS = 0x7A1, 0x7A2  # streams of random numbers


class Train(Config):
    """How long, how much at once, and on what."""

    steps: Annotated[int, Field(gt=0)] = 4000
    """Optimiser steps."""
    batch: Annotated[int, Field(gt=0)] = 256
    """Samples a step, over all devices and accumulation."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Samples at once on one device, which accumulates gradients until its share is done. Unset: its whole share."""
    device: Annotated[str, Field(pattern=f"^({DEVICES})$")] = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    precision: Literal["float32", "bf16", "bf16_pure"] = "float32"
    """bf16 runs the forward with gradients under autocast, bf16_pure in bf16 from layer to layer with a copy of the
    weights (less traffic on GPUs); weights, times and derivatives stay float32."""
    compile: bool | Literal["blocks", "model"] = False
    """torch.compile for every repeated block of the network (true, blocks) or for the whole (model): pays on GPUs,
    starts slowly."""
    recompute: bool = False
    """Keep no activations inside the repeated blocks, compute them again for gradients: less memory, a pass more."""
    prefetch: Annotated[int, Field(ge=0)] | None = None
    """Batches read ahead of time, by a thread or by the workers; unset: 2 on GPUs, 0 on CPUs, 2 for each worker."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read batches, on every device; 0: the run itself does. They pay where images are decoded."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 takes one for small networks (faster there) and torch's own choice for others."""
    patience: Annotated[int, Field(gt=0)] = 20
    """Stop after this many steps in a row whose loss is not finite (each is skipped)."""

    def rounds(self, world: int = 1) -> int:
        """Micro-batches of a step on each of `world` devices; ValueError where the batch cannot be shared out."""
        if self.batch % world:
            raise ValueError(f"train.batch={self.batch} cannot be shared by {world} devices; type a multiple of that")
        micro = self.micro_batch or self.batch // world
        if self.batch % (micro * world):
            what = f"train.micro_batch={micro}" + (f" times {world} devices" if world > 1 else "")
            raise ValueError(f"train.batch={self.batch} is not a multiple of {what}")
        return self.batch // (micro * world)


class Hook(NamedTuple):
    """Something to do every `every` steps: log, draw, save."""

    every: int
    run: Callable[[State, dict[str, float]], object]
    means: bool = False
    """Whether it reads the mean losses, which waits for the device."""
    sound: bool = False
    """Whether it is left out while steps are being skipped: a checkpoint of them would push out a good one."""
    phase: Phase = "hook"
    """What the watchdog calls it."""


def train(
    state: State,
    step: Step,
    source: Source,
    settings: Train,
    optim: Optim,
    seed: int,
    hooks: Sequence[Hook] = (),
    ranks: Ranks = ALONE,
    care: HealthSettings = CARE,
    at: Callable[[Phase, int], object] = nowhere,
    complain: Callable[[str], object] = warned,
) -> State:
    """Minimise the composed loss until `settings.steps`; raises health.Diverged if it stays non-finite.

    at: told the phase and the steps done, see Watchdog.at. complain: told about files that data skips.
    """
    device = next(state.model.parameters()).device
    trained = [p for p in state.model.parameters() if p.requires_grad]
    generator = torch.Generator(device)
    objectives, notes = list(step.composer.objectives), step.composer.notes
    health = Health(objectives, device, settings.patience, care.spike, ranks.mean, notes)
    rounds, total = settings.rounds(ranks.world), settings.steps * settings.batch
    parts = rounds * ranks.world
    ahead = settings.prefetch if settings.prefetch is not None else 2 * (device.type == "cuda" and not settings.workers)
    own = rows(state.seen, total, settings.batch, parts, ranks)

    with Feed(source, own, seed, device, ahead, settings.workers, complain) as feed:
        since = perf_counter()
        while state.step < settings.steps:
            # One optimiser step: accumulate, clip, step, average.
            losses: list[Loss] = []
            for number in range(rounds):
                at("data", state.step)
                x, y, a = next(feed)
                at("step", state.step)
                part = number * ranks.world + ranks.rank
                generator.manual_seed(mix(seed, DRAWS, state.step, 0))  # noise, times, dropped labels: of the batch
                if step.composer.shared_masks:
                    torch.manual_seed(mix(seed, MASKS, state.step, part))  # dropout
                with step.sync(number == rounds - 1):
                    loss = step(x, y, generator, state.seen / total, part, parts, a)
                    (loss.total / rounds).backward()
                losses.append(loss)
            bad = ranks.worst(health.watch(losses, global_norm(trained, optim.clip)))
            for group in state.optimizer.param_groups:
                group["lr"] = optim.rate(state.seen, total) * group.get("factor", 1.0)
            state.optimizer.found_inf = bad  # type: ignore[attr-defined]  # it leaves everything alone then
            state.optimizer.step()
            for p in trained:
                p.grad = None
            state.averages.update(state.step, state.seen / total)
            state.step, state.seen = state.step + 1, state.seen + settings.batch

            # Then the world may look: log, draw, save.
            due = [hook for hook in hooks if state.step % hook.every == 0 or state.step == settings.steps]
            if due:
                at("log", state.step)
            if any(hook.sound for hook in due) and not health.sound(state.step):
                due = [hook for hook in due if not hook.sound]
            means = health.read(state.step) if any(hook.means for hook in due) else {}
            state.seconds += perf_counter() - since
            for hook in due:
                at(hook.phase, state.step)
                hook.run(state, means)
            since = perf_counter()
    return state


def rows(first: int, total: int, batch: int, parts: int, ranks: Ranks) -> Iterator[range]:
    """Numbers of the samples that this process takes, micro-batch by micro-batch: every so many of each batch.

    Interleaved, so that what lies at the front of a batch (rows with r = t) is shared out evenly.
    """
    for start in range(first, total, batch):
        for part in range(ranks.rank, parts, ranks.world):
            yield range(start + part, start + batch, parts)
