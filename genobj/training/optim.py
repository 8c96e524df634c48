"""The optimiser and its learning rate over the run."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genobj.config.base import Config
from genobj.model import Model
from genobj.training.optim_8bit import SMALL, AdamW8bit
from genobj.training.optim_adam import AdamW, Guarded, RAdam
from genobj.training.optim_muon import Muon, hidden_matrices
from genobj.training.shards import gathered, local

Beta = Annotated[float, Field(ge=0, lt=1)]


class HeadOptim(Config):
    """How the weights of one head are optimised, where that differs from the rest."""

    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; it follows the same schedule. Unset: that of the rest."""
    betas: tuple[Beta, Beta] | None = None
    """Decay of the first and second moment (critics: 0 and 0.99); unset: those of the rest."""


class Optim(Config):
    """Optimiser with warm-up and decay; rates follow the samples seen, not the steps."""

    kind: Literal["adamw", "radam", "muon", "adamw8bit"] = "adamw"
    """adamw, radam (rectified, decoupled decay), muon (orthogonal momentum for the hidden matrices of linear layers,
    AdamW for embeddings, convolutions, biases, norms and what takes in or puts out samples) or adamw8bit (AdamW with
    moments of 8 bits; needs bitsandbytes)."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate; muon's updates are scaled so that AdamW's rate suits them."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the first and second moment."""
    momentum: Beta = 0.95
    """Decay of muon's momentum."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Samples seen until the peak rate is reached, linearly."""
    schedule: Literal["constant", "linear", "cosine", "power", "inverse_sqrt"] = "constant"
    """How the rate falls after the warm-up: to `final` at the end of the run (linear, cosine, power), or as
    1 / sqrt(samples seen / `reference`) from `reference` on (inverse_sqrt: EDM2, arXiv 2312.02696)."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Rate at the end, as a share of the peak (linear, cosine and power)."""
    power: Annotated[float, Field(gt=0)] = 2.0
    """Exponent of the share of the run that is left (power; 1 is linear)."""
    reference: Annotated[int, Field(gt=0)] | None = None
    """Samples seen until the rate starts to fall (inverse_sqrt)."""
    heads: dict[str, HeadOptim] | None = None
    """Rates and betas of single heads, as in heads.critic.lr = 2e-4; unset: those of the rest."""

    @model_validator(mode="after")
    def _reference_belongs_to_inverse_sqrt(self) -> "Optim":
        if (self.schedule == "inverse_sqrt") != (self.reference is not None):
            wanted = (
                "schedule='inverse_sqrt' needs the samples at which the rate starts to fall; type optim.reference=N"
            )
            raise ValueError(wanted if self.reference is None else "reference is for optim.schedule=inverse_sqrt only")
        return self

    @property
    def idle(self) -> frozenset[str]:
        """Settings of other optimisers and schedules."""
        unused = {
            "momentum": self.kind != "muon",
            "final": self.schedule in ("constant", "inverse_sqrt"),
            "power": self.schedule != "power",
        }
        return frozenset(name for name, is_unused in unused.items() if is_unused)

    def build(self, network: Model) -> Guarded:
        """The optimiser of a network's trainable parameters. ValueError if the kind does not fit the network."""
        settings = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        if self.kind == "muon":
            special = {id(p) for p in hidden_matrices(network)}
            return Muon(self._groups(network, special, "matrices"), momentum=self.momentum, **settings)
        if self.kind == "adamw8bit":
            special = {id(p) for p in network.parameters() if p.numel() >= SMALL}
            return AdamW8bit(self._groups(network, special, "packed"), **settings)
        return (AdamW if self.kind == "adamw" else RAdam)(self._groups(network, set(), "special"), **settings)

    def _groups(self, network: Model, special: set[int], mark: str) -> list[dict[str, Any]]:
        """Trainable parameters of the rest and of every head with settings of its own, each in the two groups below."""
        own = {name: list(network.heads[name].parameters()) for name in self.heads or {}}
        apart = {id(p) for parameters in own.values() for p in parameters}
        groups = _groups([p for p in network.parameters() if p.requires_grad and id(p) not in apart], special, mark)
        for name, given in (self.heads or {}).items():
            told = {"factor": given.lr / self.lr} if given.lr else {}
            told |= {"betas": given.betas} if given.betas else {}
            groups += [g | told for g in _groups([p for p in own[name] if p.requires_grad], special, mark)]
        return groups

    def rate(self, seen: int, total: int) -> float:
        """Learning rate of a step that starts after `seen` of `total` samples."""
        return self.lr * min((seen + 1) / (self.warmup + 1), 1.0) * self._share(seen, total)

    def _share(self, seen: int, total: int) -> float:
        """What the schedule leaves of the peak rate."""
        if self.schedule == "constant":
            return 1.0
        if self.reference is not None:
            return 1 / math.sqrt(max(seen / self.reference, 1.0))
        done = min(max(seen - self.warmup, 0) / max(total - self.warmup, 1), 1.0)
        left = (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1 - done
        return self.final + (1 - self.final) * (left**self.power if self.schedule == "power" else left)


def _groups(trained: list[nn.Parameter], special: set[int], mark: str) -> list[dict[str, Any]]:
    """Two groups of parameters, the first with a mark that says how it is updated; no empty ones."""
    first, second = [p for p in trained if id(p) in special], [p for p in trained if id(p) not in special]
    groups: list[dict[str, Any]] = [{"params": first, mark: True}, {"params": second}]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def global_norm(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Norm of the whole gradient, before it is clipped to `limit` (0: not clipped); no host synchronisation."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    norm = gathered(torch.linalg.vector_norm(torch.stack(norms)))
    if limit > 0:
        shards, factor = [local(g) for g in gradients], (limit / (norm + 1e-6)).clamp_(max=1.0)
        torch._foreach_mul_(shards, factor)  # pyright: ignore[reportPrivateImportUsage]
    return norm
