"""Watches every step on the device, without waiting for it: means for the log, non-finite losses by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genobj.composer import Loss


class Diverged(RuntimeError):
    """Too many steps in a row without a finite loss and gradient."""


class Health:
    """Running sums of loss, terms and gradient norm, and which of them were not finite.

    A step whose loss or gradient is not finite changes no weight: `bad` tells the fused optimiser to skip it.
    """

    def __init__(self, names: list[str], device: torch.device, patience: int):
        self.names, self.patience = ["loss", *names, "gradient"], patience
        self._sum = torch.zeros(len(self.names), device=device)
        self._broken = torch.zeros(len(self.names), device=device)
        self._in_a_row = torch.zeros((), device=device)
        self._steps = 0

    def watch(self, losses: Sequence[Loss], norm: Tensor) -> Tensor:
        """Take in one step (a loss per micro-batch); 1. if it must be skipped, 0. if not, as a scalar tensor."""
        parts = [torch.stack([loss.total.detach(), *loss.terms.values(), norm]) for loss in losses]
        now = parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)
        broken = now.isfinite().logical_not_()
        any_broken = broken.any()
        bad = any_broken.float()
        self._sum += now.masked_fill(any_broken, 0.0)
        self._broken += broken
        self._in_a_row = (self._in_a_row + 1) * bad
        self._steps += 1
        return bad

    def read(self, step: int) -> dict[str, float]:
        """Means since the last call (this waits for the device); Diverged after `patience` bad steps in a row."""
        total, broken, in_a_row = self._sum.tolist(), self._broken.tolist(), int(self._in_a_row.item())
        skipped = int(max(broken))
        means: dict[str, float] = {
            name: value / max(self._steps - skipped, 1) for name, value in zip(self.names, total, strict=True)
        }
        culprits = [name for name, count in zip(self.names, broken, strict=True) if count and name != "loss"]
        if in_a_row >= self.patience:
            raise Diverged(
                f"step {step}: {', '.join(culprits)} not finite for {in_a_row} steps in a row; no weight was changed "
                "by them. Lower optim.lr or set optim.clip=1.0"
            )
        self._sum.zero_()
        self._broken.zero_()
        self._steps = 0
        return means | ({"skipped": skipped} if skipped else {})
