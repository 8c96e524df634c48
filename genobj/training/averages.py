"""Averages of the weights, in float32, all parameters updated in one fused call for each average.

An average forgets either at a constant rate (a decay) or in proportion to the run so far (a width: EDM2's
power-function profiles, see profiles.py). Snapshots of two widths give every other width after the run (posthoc.py).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from genobj.config.base import Config
from genobj.model import Model, Reweighted
from genobj.schedules import Number, within
from genobj.training.profiles import Width, decay, exponent
from genobj.training.shards import local

Decay = Annotated[float, Field(ge=0, lt=1)]


class EMA(Config):
    """Which averages are kept."""

    decays: Annotated[tuple[Decay, ...], Field(min_length=1)] = (0.9999,)
    """One average per decay (held down early in a run by `warmup`); the first samples, and objectives may use it."""
    warmup: bool = True
    """Lower the decays to (1 + n) / (10 + n) after n steps while that is smaller: short runs forget their start."""
    follows: Annotated[Number, within(2.0)] | None = None
    """Number N of noise levels that the first average, which objectives may use, keeps step with: its decay is
    mu^(N_0 / (N - 1)), with mu the first of `decays` (its name) and N_0 the first N, without `warmup` (CT)."""
    widths: tuple[Width, ...] = ()
    """One more average per width: it weighs step t of T by t^gamma, with this standard deviation as a share of T
    (EDM2's sigma_rel, which keeps 0.05 and 0.1)."""
    snapshot_every: Annotated[int, Field(gt=0)] | None = None
    """Steps between snapshots of `widths`, from which `genobj average` makes averages of other widths; unset: none."""
    snapshot_type: Literal["float32", "float16"] = "float32"
    """Numbers in snapshots; float16 halves them and rounds at 5e-4 of each value."""

    @field_validator("decays", "widths")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{value:g}" for value in values}) < len(values):
            raise ValueError("values that agree to six digits would share a file; type different ones")
        return values

    @model_validator(mode="after")
    def _snapshots_have_widths(self) -> "EMA":
        if self.snapshot_every and len(self.widths) < 2:
            raise ValueError("snapshots need two widths to be of use; type ema.widths=[0.05,0.1]")
        return self

    @property
    def idle(self) -> frozenset[str]:
        """The type of numbers in snapshots that nobody takes."""
        return frozenset() if self.snapshot_every else frozenset({"snapshot_type"})


class Averages:
    """average <- kept average + (1 - kept) weights, after every step."""

    def __init__(self, model: nn.Module, settings: EMA):
        live = dict(model.named_parameters())

        def copies() -> dict[str, Tensor]:
            return {name: p.detach().float().clone() for name, p in live.items()}

        self.warmup, self.follows = settings.warmup, settings.follows
        self.values = {decay: copies() for decay in settings.decays}
        """Averages by decay."""
        self.profiles = {width: copies() for width in settings.widths}
        """Averages by width."""
        self._exponents = {width: exponent(width) for width in settings.widths}
        self._lists = {key: [local(v) for v in values.values()] for key, values in self.values.items()}
        self._profile_lists = {key: [local(v) for v in values.values()] for key, values in self.profiles.items()}
        self._weights = [local(p.detach()) for p in live.values()]
        self._twin: Model | None = None
        self._low = any(p.dtype != torch.float32 for p in self._weights)

    @torch.no_grad()
    def update(self, step: int, progress: float = 0.0) -> None:
        """Move every average towards the live weights after `step` earlier steps, this share of the run."""
        weights = [p.float() for p in self._weights] if self._low else self._weights
        limit = (1 + step) / (10 + step) if self.warmup else 1.0
        for kept, values in self._lists.items():
            _move(values, weights, self._decay(kept, limit, progress))
        for width, values in self._profile_lists.items():
            _move(values, weights, decay(self._exponents[width], step))

    def _decay(self, kept: float, limit: float, progress: float) -> float:
        """Of the average of this name."""
        if self.follows is None or kept != next(iter(self.values)):
            return min(kept, limit)
        return kept ** (self.follows(0.0) / (self.follows(progress) - 1))

    def named(self) -> dict[str, dict[str, Tensor]]:
        """Every average by the name of its file: ema_0.9999, ema_width_0.05."""
        decays = {f"ema_{decay:g}": values for decay, values in self.values.items()}
        return decays | {f"ema_width_{width:g}": values for width, values in self.profiles.items()}

    @torch.no_grad()
    def adopt(self, twin: Model) -> None:
        """Keep the first average as the weights of `twin`, a network that is spread over devices as the trained one is.

        A network in shards cannot run with the weights of another.
        """
        first = next(iter(self.values))
        for name, p in twin.named_parameters():
            p.copy_(self.values[first][name])
            self.values[first][name] = p.detach()
        self._lists[first] = [local(value) for value in self.values[first].values()]
        self._twin = twin.eval().requires_grad_(False)

    def network(self, model: Model) -> "Model | Reweighted":
        """A network with the first average as its weights: `model` with others, without copying them, or the twin."""
        return self._twin or Reweighted(model, next(iter(self.values.values())))


def _move(values: list[Tensor], weights: list[Tensor], kept: float) -> None:
    torch._foreach_lerp_(values, weights, 1 - kept)  # pyright: ignore[reportPrivateImportUsage]
