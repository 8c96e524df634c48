"""Exponential moving averages of the weights, in float32, all updated in one fused call each."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from genobj.config.base import Config
from genobj.types import Guide, Horizon, Labels, Samples, TimeTensor


class EMA(Config):
    """Which averages are kept."""

    decays: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)] = (0.9999,)
    """One average per decay (held down early in a run by `warmup`); the first samples, and objectives may use it."""
    warmup: bool = True
    """Lower the decay to (1 + n) / (10 + n) after n steps while that is smaller: short runs forget their start."""

    @field_validator("decays")
    @classmethod
    def _distinct(cls, decays: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{decay:g}" for decay in decays}) < len(decays):
            raise ValueError("decays that agree to six digits would share a file; type different ones")
        return decays


class Averages:
    """average <- decay average + (1 - decay) weights, after every step."""

    def __init__(self, model: nn.Module, settings: EMA):
        live = dict(model.named_parameters())
        self.warmup = settings.warmup
        self.values = {decay: {k: p.detach().float().clone() for k, p in live.items()} for decay in settings.decays}
        self._lists = {decay: list(values.values()) for decay, values in self.values.items()}
        self._weights = [p.detach() for p in live.values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move every average towards the live weights after `step` earlier steps."""
        limit = (1 + step) / (10 + step) if self.warmup else 1.0
        for decay, values in self._lists.items():
            decay = min(decay, limit)
            torch._foreach_lerp_(values, self._weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def network(self, model: nn.Module) -> "AveragedNetwork":
        """`model` with the first average in place of its weights, without copying them."""
        return AveragedNetwork(model, next(iter(self.values.values())))


class AveragedNetwork:
    """A network that runs with other weights than the module it borrows."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]):
        self.model, self.weights = model, dict(weights)

    @property
    def horizons(self) -> Mapping[str, Horizon]:
        """Of the borrowed model."""
        return self.model.horizons  # type: ignore[return-value]

    @property
    def sees_r(self) -> frozenset[str]:
        """Of the borrowed model."""
        return self.model.sees_r  # type: ignore[return-value]

    @property
    def fed(self) -> float:
        """Of the borrowed model."""
        return self.model.fed  # type: ignore[return-value]

    def __call__(
        self,
        x_t: Samples,
        t: TimeTensor,
        *,
        r: TimeTensor | None = None,
        y: Labels | None = None,
        g: Guide | None = None,
    ) -> dict[str, Tensor]:
        """See types.Network."""
        return torch.func.functional_call(self.model, self.weights, (x_t, t), {"r": r, "y": y, "g": g})
