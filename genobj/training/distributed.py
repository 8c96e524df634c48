"""Where a run lives: its devices, its threads, and how network and step are spread over them.

One process per device, started by torchrun. `ddp` gives every device the whole network and averages gradients; `fsdp2`
gives it a shard of every weight, gradient, moment and average, gathered block by block when needed; `hsdp` shards
within groups and averages between them (usually: within a node, between nodes).
"""

import os
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from inspect import signature
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from genobj.composer import Composer
from genobj.config.base import Config
from genobj.model import Model, ModelSettings
from genobj.training.loop import DEVICES, Train
from genobj.training.ranks import Ranks
from genobj.training.step import Step, StepModule

GRAPHS = 512
"""Compiled graphs of one piece of code in one process: a study compiles many networks."""
SMALL = 3_000_000
"""Parameters up to which one CPU thread is faster than several (measured on the toy networks)."""


class Distributed(Config):
    """How training is spread over the processes that torchrun starts, one per device."""

    strategy: Literal["auto", "none", "ddp", "fsdp2", "hsdp"] = "auto"
    """auto: ddp where there are several processes; none: one process on one device; ddp: the whole network on every
    device; fsdp2: weights, gradients, moments and averages in shards; hsdp: shards in each of `replicas` groups."""
    replicas: Annotated[int, Field(gt=0)] | None = None
    """Groups that hold a whole network each (hsdp); unset: one per node."""
    reshard: bool = True
    """Free gathered weights after every forward (fsdp2, hsdp): less memory; false saves traffic, one gather a step."""
    timeout: Annotated[int, Field(gt=0)] = 1800
    """Seconds after which a process that waits for the others gives up."""

    def chosen(self, world: int) -> str:
        """The strategy, with auto resolved for so many processes."""
        return self.strategy if self.strategy != "auto" else ("ddp" if world > 1 else "none")

    @property
    def shards(self) -> bool:
        """Whether no device holds the whole network."""
        return self.strategy in ("fsdp2", "hsdp")


def device_of(name: str, local: int = 0) -> torch.device:
    """The device called auto, cpu, cuda or cuda:N, for a node's process number `local`; ValueError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(DEVICES, name):
        raise ValueError(f"unknown device {name!r}; type auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        number = local if device.index is None else device.index
        if number >= torch.cuda.device_count():
            fewer = f", or start {torch.cuda.device_count()} processes" if local else ""
            raise ValueError(f"device {name}: this machine has no such GPU; type cpu{fewer}")
        return torch.device("cuda", number) if local or device.index is not None else device
    return device


def join(settings: Distributed, device: str) -> tuple[Ranks, torch.device]:
    """This process among the others, connected to them, and its device. ValueError for what cannot be."""
    launched, patience = "WORLD_SIZE" in os.environ, timedelta(seconds=settings.timeout)
    ranks = replace(Ranks.launched(), patience=patience)
    strategy = settings.chosen(ranks.world)
    if strategy == "none":
        if ranks.world > 1:
            raise ValueError(f"distributed.strategy=none, but there are {ranks.world} processes; type ddp or fsdp2")
        return Ranks(), device_of(device)
    if not launched:
        raise ValueError(
            f"distributed.strategy={strategy} needs processes; start them with: torchrun --standalone "
            "--nproc-per-node 2 -m genobj train ..., or type distributed.strategy=none"
        )
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"train.device={device}: every process takes the GPU of its number; type train.device=cuda")
    groups = settings.replicas or ranks.world // ranks.here
    if strategy == "hsdp" and ranks.world % groups:
        raise ValueError(f"distributed.replicas={groups} does not divide {ranks.world} processes; type a divisor")
    place = device_of(device, ranks.local)
    if place.type == "cuda":
        place = torch.device("cuda", ranks.local)
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=ranks.patience)
    return ranks, place


def leave() -> None:
    """Take leave of the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def set_threads(threads: int, model: nn.Module) -> None:
    """Use this many CPU threads; 0 is one for small networks and torch's own choice for others."""
    size = sum(p.numel() for p in model.parameters())
    if threads or size < SMALL:
        torch.set_num_threads(threads or 1)


def build(
    model: ModelSettings,
    seed: int,
    settings: Train,
    distributed: Distributed,
    ranks: Ranks,
    device: torch.device,
    start: Callable[[Model], None] | None = None,
) -> Model:
    """The network with fresh weights, the same however many devices there are, spread over them.

    In shards, it is made without memory; the first process alone makes weights, and everyone gets its part of them.
    start: fills a whole network on the CPU with the weights that the run begins with, in place of fresh ones.
    """

    def begun() -> Model:
        net = model.build(seed)
        if start is not None:
            start(net)
        return net

    if not distributed.shards:
        net = begun().to(device)
        _by_blocks(net, settings)
        return net
    # Our heads return views, into which nobody writes.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    with torch.device("meta"):
        net = model.build(seed)
    _by_blocks(net, settings)
    whole = begun().state_dict() if ranks.first else {}
    low = torch.bfloat16 if settings.precision == "bf16_pure" else None
    spread = partial(
        fully_shard,
        mesh=_mesh(distributed, ranks, device),
        reshard_after_forward=distributed.reshard,
        mp_policy=MixedPrecisionPolicy(low, torch.float32 if low else None, cast_forward_inputs=False),
    )
    for block in net.units:
        spread(block)
    spread(net)
    net.to_empty(device=device)
    net.in_shards = True
    set_model_state_dict(net, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return net


def build_frozen(
    model: ModelSettings,
    settings: Train,
    distributed: Distributed,
    ranks: Ranks,
    device: torch.device,
    start: Callable[[Model], None],
    shards: bool | None = None,
) -> Model:
    """A network that is asked and never trained, with the weights that `start` fills in.

    shards: whether it is spread over the devices, unset: as the trained one is. Its weights never change, so that only
    giving them back after every forward keeps it spread. ValueError if it shall be spread over one process.
    """
    spread = distributed.shards if shards is None else shards
    if spread and distributed.chosen(ranks.world) == "none":
        raise ValueError("teacher.shards=true needs several processes; leave it out")
    strategy = (distributed.strategy if distributed.shards else "fsdp2") if spread else "none"
    changed = distributed.model_copy(update={"strategy": strategy, "reshard": True})
    net = build(model, 0, settings.model_copy(update={"recompute": False}), changed, ranks, device, start)
    if settings.compile == "model":
        net.compile()
    return net.eval().requires_grad_(False)


def _mesh(distributed: Distributed, ranks: Ranks, device: torch.device) -> DeviceMesh:
    if distributed.strategy == "fsdp2":
        return init_device_mesh(device.type, (ranks.world,), mesh_dim_names=("shard",))
    groups = distributed.replicas or ranks.world // ranks.here
    sizes = (groups, ranks.world // groups)
    return init_device_mesh(device.type, sizes, mesh_dim_names=("replicate", "shard"))


def _by_blocks(net: Model, settings: Train) -> None:
    """Recomputation and compilation, block by block."""
    if settings.recompute:
        recompute(net)
    if settings.compile:  # each size, precision and gradient mode is a graph; beyond the limit torch stops compiling
        torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
        torch._dynamo.config.accumulated_recompile_limit = max(GRAPHS, torch._dynamo.config.accumulated_recompile_limit)
    if settings.compile in (True, "blocks"):
        for block in net.units or [net]:  # what has no blocks is small enough to be compiled whole
            block.compile()


def recompute(net: Model) -> None:
    """Keep no activations inside the repeated blocks of a network. ValueError if it has none."""
    if not net.units:
        raise ValueError("train.recompute=true: this backbone has no repeated blocks; leave it out")
    for block in net.units:
        _recompute(block, keep_state=net.has_dropout)


def _recompute(block: nn.Module, *, keep_state: bool) -> None:
    forward = block.forward

    def recomputed(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=keep_state)

    block.forward = recomputed


class Replicated(DistributedDataParallel):
    """A step whose gradients are averaged over the processes while the backward pass still runs."""

    module: StepModule

    @property
    def composer(self) -> Composer:
        """Of the step."""
        return self.module.composer

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """See StepModule.sync."""
        return nullcontext() if last else self.no_sync()


def prepare(step: StepModule, settings: Train, distributed: Distributed, ranks: Ranks) -> Step:
    """The step made ready for its devices."""
    if settings.compile == "model":
        step.model.compile()
    if distributed.chosen(ranks.world) != "ddp":
        return step
    # Buffers are constants; sending them around before every forward would also break forward-mode derivatives.
    newer = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    quiet: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    return Replicated(step, gradient_as_bucket_view=True, **quiet)
