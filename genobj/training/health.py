"""Watches every step without waiting for the device: means for the log, spikes, non-finite losses by name."""

from collections.abc import Callable, Sequence
from math import fsum, isfinite, nan
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from genobj.composer import Loss
from genobj.config.base import Config

BLOCK = 1024
"""Steps whose rows are kept one by one; they are stacked then, so that a loop without a log does not fill memory."""
STEADY = 20
"""Steps until the usual size of a number is known."""
MEMORY = 100
"""Steps over which the usual size of a number is averaged."""


class HealthSettings(Config):
    """What is done about a run that goes wrong. None of it changes what a healthy run learns."""

    spike: Annotated[float, Field(gt=1)] = 10.0
    """A step is a spike if its loss or gradient norm is this many times the average over about the last 100 steps."""
    rollback: Annotated[int, Field(ge=0)] = 0
    """Times that a run which diverges may go back to its last good checkpoint and on with later data; 0: it stops."""
    watch: Annotated[float, Field(ge=0)] = 300.0
    """Seconds without progress after which the run says where it hangs; 0: never."""
    abort: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after these words until a run that still hangs is ended (exit code 1); 0: never."""

    @property
    def idle(self) -> frozenset[str]:
        """Nothing is ended that is not watched."""
        return frozenset() if self.watch else frozenset({"abort"})


CARE = HealthSettings()
"""What is done unless somebody asks for something else."""


class Diverged(RuntimeError):
    """Too many steps in a row without a finite loss and gradient."""


class Usual:
    """The usual size of a number that is seen once a step: a running mean of its absolute value."""

    def __init__(self, spike: float):
        self.spike = spike
        self._size, self._count = 0.0, 0

    def times(self, value: float) -> float:
        """How many times the usual size this value is; 0 while that is unknown. Then take the value in.

        A spike counts as `spike` times the usual size: one alone moves it little, a new level becomes usual in time.
        """
        value, known = abs(value), self._count >= STEADY and self._size > 0
        times = value / self._size if known else 0.0
        self._count += 1
        within = min(value, self.spike * self._size) if known else value
        self._size += (within - self._size) / min(self._count, MEMORY)
        return times


class Health:
    """A row of numbers per step (loss, objectives' terms and parts, gradient norm), looked at when a line is due.

    A step whose loss or gradient is not finite changes no weight: `bad` tells the fused optimiser to skip it.

    names: of the objectives. notes: of parts of their losses, which are shown and not judged. patience: bad steps in a
    row that are too many. spike: see HealthSettings. over_ranks: the mean of a tensor over all processes; all then read
    the same and decide alike.
    """

    def __init__(
        self,
        names: Sequence[str],
        device: torch.device,
        patience: int,
        spike: float = 10.0,
        over_ranks: Callable[[Tensor], Tensor] = lambda rows: rows,
        notes: Sequence[str] = (),
    ):
        self.names, self.patience, self.spike = ["loss", *names, "gradient", *notes], patience, spike
        self._judged = len(names) + 2
        self._over_ranks, self._zero = over_ranks, torch.zeros(self._judged, device=device)
        self._rows: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._line: list[list[float]] = []
        self._in_a_row = 0
        self._spikes: list[tuple[float, int]] = []
        self._loss, self._gradient = Usual(spike), Usual(spike)

    def watch(self, losses: Sequence[Loss], norm: Tensor) -> Tensor:
        """Take in one step: a loss per micro-batch, the norm of the whole gradient.

        Returns a new float32 scalar on the device: 1. if this process must skip the step, 0. if not. On several
        processes, take its maximum over all of them in place: a loss may be bad on one that left the gradient finite.
        """
        rows = [torch.stack([loss.total.detach(), *loss.terms.values(), norm, *loss.notes.values()]) for loss in losses]
        row = rows[0] if len(rows) == 1 else torch.stack(rows).mean(0)
        self._rows.append(row)
        if len(self._rows) == BLOCK:
            self._blocks, self._rows = [*self._blocks, torch.stack(self._rows)], []
        judged = row if len(row) == self._judged else row[: self._judged]
        bad = torch.dot(judged, self._zero)  # 0 if all is finite, else nan: 0 times inf is that too
        return bad.ne_(bad)  # only nan differs from itself

    def read(self, step: int) -> dict[str, float]:
        """What `step` steps have come to since the last call: means and extremes over the good ones, nan if none was.

        `skipped` and `spikes` are there if any were, `spike_step` is the number of the largest. This waits for the
        device. Diverged after `patience` bad steps in a row.
        """
        self._fetch(step)
        line, self._line = self._line, []
        good = [row for row in line if self._is_good(row)]
        if self._in_a_row >= self.patience:
            raise Diverged(
                f"step {step}: {', '.join(self._culprits(line))} not finite for {self._in_a_row} steps in a row; no "
                "weight was changed by them. Lower optim.lr, set optim.clip=1.0, or resume with health.rollback=1"
            )
        columns = dict(zip(self.names, zip(*good, strict=True), strict=True)) if good else {}
        said: dict[str, float] = {name: _mean(columns.get(name, ())) for name in self.names}
        if len(good) > 1:
            said |= {"loss_min": min(columns["loss"]), "loss_max": max(columns["loss"])}
            said |= {"gradient_max": max(columns["gradient"])}
        if skipped := len(line) - len(good):
            said["skipped"] = skipped
        if self._spikes:
            said |= {"spikes": len(self._spikes), "spike_step": max(self._spikes)[1]}
        self._spikes = []
        return said

    def sound(self, step: int) -> bool:
        """Whether the last of `step` steps was good; forgets nothing, and waits for the device.

        A checkpoint should wait for a sound step: those saved while steps are skipped would push out the good ones.
        """
        self._fetch(step)
        return self._in_a_row == 0

    def _fetch(self, step: int) -> None:
        """Bring the rows of the steps since the last look to the host, the same on every process."""
        if not self._rows and not self._blocks:
            return
        blocks = [*self._blocks, *([torch.stack(self._rows)] if self._rows else [])]
        rows: list[list[float]] = self._over_ranks(torch.cat(blocks)).tolist()
        self._rows, self._blocks = [], []
        self._line += rows
        for number, row in enumerate(rows, step - len(rows) + 1):
            if self._is_good(row):
                self._in_a_row = 0
                times = max(self._loss.times(row[0]), self._gradient.times(row[self._judged - 1]))
                if times > self.spike:
                    self._spikes.append((times, number))
            else:
                self._in_a_row += 1

    def _culprits(self, line: Sequence[Sequence[float]]) -> list[str]:
        """Objectives, and the gradient, that were not finite in the last steps of a line, all of them bad."""
        columns = zip(self.names, zip(*line[-self._in_a_row :], strict=True), strict=True)
        judged = list(columns)[: self._judged]
        broken = [name for name, column in judged if not all(map(isfinite, column))]
        return [name for name in broken if name != "loss"] or broken

    def _is_good(self, row: Sequence[float]) -> bool:
        """Whether loss, terms and gradient norm are finite."""
        return all(map(isfinite, row[: self._judged]))


def _mean(values: Sequence[float]) -> float:
    """The mean; nan if there is nothing, or something that is not finite."""
    return fsum(values) / len(values) if values and all(map(isfinite, values)) else nan
