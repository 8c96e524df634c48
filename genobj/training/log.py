"""What a run writes down: JSON lines always, TensorBoard if asked."""

import json
import logging
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from pydantic import Field

from genobj.config.base import Config
from genobj.training.disk import naming
from genobj.training.state import State

Line = Mapping[str, float | int]
COLUMNS = frozenset({"step", "seen", "loss", "gradient", "loss_min", "loss_max", "gradient_max"}) | {
    "skipped",
    "spikes",
    "spike_step",
    "lr",
    "seconds",
    "samples_per_second",
}
"""Keys of a line besides the objectives' names."""

SHOWN = 10
"""Complaints about data that are shown; the file has all."""


class Log(Config):
    """How often losses are logged, and where to."""

    every: Annotated[int, Field(gt=0)] = 50
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard events too (pip install 'genobj[tensorboard]')."""


class Logger:
    """A hook that writes what health.Health says about the steps since its last line, the rate, the seconds of
    training and the throughput (that of the wall clock, all that happened in between included).

    Raises OSError, with the file's name, where it cannot write.
    """

    def __init__(self, folder: Path, settings: Log, show: Callable[[Line], None] = lambda line: None):
        self.path, self.events = folder / "metrics.jsonl", folder / "tensorboard"
        self.file = self.path.open("ab", buffering=0)  # nothing is left behind that closing would write once more
        with naming(self.events):
            self.board = writer()(str(self.events)) if settings.tensorboard else None
        self.show = show
        self._last: tuple[float, int] | None = None

    def __call__(self, state: State, means: Mapping[str, float]) -> None:
        """Write one line for this step."""
        line = {"step": state.step, "seen": state.seen, **means, "lr": state.optimizer.param_groups[0]["lr"]}
        line["seconds"] = state.seconds
        now = perf_counter()
        if self._last is not None:
            line["samples_per_second"] = (state.seen - self._last[1]) / max(now - self._last[0], 1e-9)
        self._last = now, state.seen
        with naming(self.path):
            self._write(json.dumps({key: _plain(value) for key, value in line.items()}) + "\n")
        if self.board is not None:
            with naming(self.events):
                for key, value in line.items():
                    self.board.add_scalar(key, value, state.step)
        self.show(line)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            with naming(self.events):
                self.board.close()

    def _write(self, line: str) -> None:
        rest = line.encode()
        while rest:  # a nearly full disk takes a part, then refuses the rest
            rest = rest[self.file.write(rest) :]


class Complaints:
    """Files that data skips: each is a warning (the first SHOWN ones) and a line of data_errors.log, once in a run.

    A resumed run goes on with what was told. Raises OSError, with the file's name, where it cannot write.
    """

    def __init__(self, folder: Path):
        self.path = folder / "data_errors.log"
        self._told = self._lines()

    def __call__(self, complaint: str) -> None:
        """Write down one complaint."""
        line = " ".join(complaint.split())
        if line in self._told:
            return
        self._told.add(line)
        with naming(self.path), self.path.open("a") as file:
            file.write(line + "\n")
        if len(self._told) <= SHOWN:
            last = f"; further ones are in {self.path}" if len(self._told) == SHOWN else ""
            logging.getLogger("genobj").warning(f"skipped: {line}{last}")

    def total(self) -> int:
        """Files that were skipped so far, by all processes of the run."""
        return len(self._lines())

    def _lines(self) -> set[str]:
        return set(self.path.read_text().splitlines()) if self.path.exists() else set()


def _plain(value: float | int) -> float | int | None:
    """Six digits; null for what is not finite, which JSON has no word for."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if isfinite(value) else None


def writer() -> Any:
    """TensorBoard's SummaryWriter; ValueError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("log.tensorboard=true needs TensorBoard: pip install 'genobj[tensorboard]'") from None
    return SummaryWriter
