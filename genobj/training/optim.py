"""The optimiser and its learning rate over the run."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from genobj.config.base import Config

Beta = Annotated[float, Field(ge=0, lt=1)]


class Optim(Config):
    """AdamW with warm-up and decay; rates follow the samples seen, not the steps."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Samples seen until the peak rate is reached, linearly."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls from its peak to `final` at the end of the run."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Rate at the end, as a share of the peak (linear and cosine)."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW on the trainable parameters, fused."""
        trained = [p for p in parameters if p.requires_grad]
        return torch.optim.AdamW(
            trained, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def rate(self, seen: int, total: int) -> float:
        """Learning rate of a step that starts after `seen` of `total` samples."""
        if seen < self.warmup:
            return self.lr * (seen + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.lr
        done = min((seen - self.warmup) / max(total - self.warmup, 1), 1.0)
        share = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.lr * (self.final + (1 - self.final) * share)


@torch.no_grad()
def global_norm(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
    """Norm of the whole gradient, before it is clipped to `limit` (0: not clipped); no host synchronisation."""
    trained = list(parameters)
    gradients = [p.grad for p in trained if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if limit > 0:
        nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return norm
