"""What a step costs before it is run: passes, parameters, FLOPs and memory, counted on the meta device."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genobj.composer import Composer, Loss
from genobj.experiment import Experiment
from genobj.heads.projection import Projection
from genobj.model import Model
from genobj.passes import Count, TrainedNetwork
from genobj.teacher import on_path
from genobj.training.distributed import recompute
from genobj.types import Draw, Weights


class Taught(NamedTuple):
    """A frozen network as it was counted."""

    source: str
    """The folder, as it was typed."""
    parameters: int
    """Its own, or, where the folder is not here, as many as the trained network has."""
    is_here: bool
    """Whether the folder is here."""


@dataclass(frozen=True)
class Cost:
    """The plan of one optimiser step."""

    passes: Count
    parameters: dict[str, int]
    """Of the trunk and of every head."""
    flops: int
    """Floating-point operations of one step (matrix products and convolutions, a multiply-add counts two)."""
    memory: dict[str, int]
    """Estimated bytes: weights, gradients, optimizer, averages, activations kept for the backward pass; a teacher's
    weights."""
    teacher: "Taught | None" = None
    """The frozen network, if a step asks for one."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers of passes are whole where they can be."""
        total = sum(self.parameters.values())
        first = next(iter(self.parameters))
        heads = {k: v for k, v in self.parameters.items() if k != first}
        passes = {k: int(v) if v == int(v) else round(v, 4) for k, v in self.passes._asdict().items()}
        return {
            "passes": passes,
            "parameters": {"total": total, "trunk": self.parameters[first], "heads": heads},
            "flops": self.flops,
            "memory": {**self.memory, "total": sum(self.memory.values())},
            **({"teacher": self.teacher._asdict()} if self.teacher else {}),
        }


def measure(experiment: Experiment) -> Cost:
    """Build the network without memory, take one step of it and count."""
    settings = experiment.model_settings()
    if experiment.init is not None:
        experiment.init.check(settings)
    with torch.device("meta"):
        model = settings.build()
    if experiment.train.recompute:
        recompute(model)
    micro = experiment.train.micro_batch or experiment.train.batch
    teacher, taught = _teacher(experiment, model)
    activations = _Kept(model)
    with FlopCounterMode(display=False) as counter, activations:
        loss = one_step(experiment, model, micro, teacher=teacher)
        loss.total.backward()
    parameters = {"trunk": _size(model.trunk)} | {name: _size(head) for name, head in model.heads.items()}
    weights = 4 * sum(parameters.values())
    trained = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "averages": weights * (len(experiment.ema.decays) + len(experiment.ema.widths)),
        "activations": activations.bytes,
    }
    if taught is not None:
        memory["teacher"] = 4 * taught.parameters
    flops = counter.get_total_flops() * (experiment.train.batch // micro)
    return Cost(loss.passes, parameters, flops, memory, taught)


def _teacher(experiment: Experiment, model: Model) -> tuple[TrainedNetwork, Taught | None]:
    """The frozen network without memory; the model itself stands in for one whose folder is not here (yet)."""
    frozen, settings = experiment.frozen, experiment.model_settings()
    if frozen is None:
        return model, None
    if frozen.is_here:
        settings = experiment.teacher_settings() or settings
    elif not {"instant", "ends", "interval"} & {*settings.horizons.values()}:  # it gives no velocity
        more = {"heads": settings.heads | {"v": Projection()}, "horizons": settings.horizons | {"v": "instant"}}
        settings = settings.model_copy(update=more)
    with torch.device("meta"):
        net = settings.build()
    return on_path(net, settings.path, experiment.path), Taught(frozen.source, _size(net), frozen.is_here)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def one_step(
    experiment: Experiment,
    model: Model,
    batch: int,
    progress: float = 0.5,
    teacher: TrainedNetwork | None = None,
) -> Loss:
    """The loss of a step on empty tensors, by default of the middle of the run, where schedules are on their way.

    Other networks are stood in for by the model itself, the frozen one where no teacher is given.
    """
    composer = experiment.composer(shared_masks=model.has_dropout)
    networks: dict[Weights, TrainedNetwork] = dict.fromkeys(composer.networks, model)
    if "frozen" in networks:
        networks["frozen"] = teacher or model
    return composer.loss(networks, _empty_draw(experiment, composer, batch)._replace(progress=progress))


def _empty_draw(experiment: Experiment, composer: Composer, batch: int) -> Draw:
    """Shapes of a draw, and what of it decides which passes are run."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    shape = (batch, *experiment.data.shape)
    t, r, v = empty(batch), empty(batch), empty(*shape)
    interval = "interval" in composer.horizons.values()
    draw = Draw(empty(*shape), empty(*shape), t, r, empty(*shape), v, v, chance=empty(batch))
    noise = max(objective.draws_noise for objective in composer.objectives.values())
    draw = draw._replace(
        noise=tuple(empty(*shape) for _ in range(noise)), groups=composer.groups(batch), path=composer.path
    )._replace(together=composer.pairs.together)
    draw = draw._replace(equal=composer.pairs.prefix(batch) if interval else 0, gap=composer.pairs.gap)
    if composer.classes:
        y, null = (torch.empty(batch, dtype=torch.long, device="meta") for _ in range(2))
        draw = draw._replace(y=y, null=null, dropped=torch.empty(batch, dtype=torch.bool, device="meta"))
    return draw._replace(g=empty(batch, 3), g_v=empty(batch, 3)) if composer.guidance.feeds else draw


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Adds up what autograd keeps for the backward pass, weights aside."""

    def __init__(self, model: Model):
        super().__init__(self._keep, lambda kept: kept)
        self.bytes = 0
        self._weights = {id(p.untyped_storage()) for p in model.parameters()}
        self._seen: dict[int, Any] = {}

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor
