"""What a run writes down: JSON lines always, TensorBoard if asked."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from pydantic import Field

from genobj.config.base import Config
from genobj.training.state import State

Line = Mapping[str, float | int]
COLUMNS = frozenset({"step", "seen", "loss", "gradient", "skipped", "lr", "samples_per_second"})
"""Keys of a line besides the objectives' names."""


class Log(Config):
    """How often losses are logged, and where to."""

    every: Annotated[int, Field(gt=0)] = 50
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard events too (pip install 'genobj[tensorboard]')."""


class Logger:
    """A hook that writes the mean losses since its last line, the learning rate and the throughput."""

    def __init__(self, folder: Path, settings: Log, show: Callable[[Line], None] = lambda line: None):
        self.file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self.board = writer()(str(folder / "tensorboard")) if settings.tensorboard else None
        self.show = show
        self._last: tuple[float, int] | None = None

    def __call__(self, state: State, means: Mapping[str, float]) -> None:
        """Write one line for this step."""
        line = {"step": state.step, "seen": state.seen, **means, "lr": state.optimizer.param_groups[0]["lr"]}
        now = perf_counter()
        if self._last is not None:
            line["samples_per_second"] = (state.seen - self._last[1]) / max(now - self._last[0], 1e-9)
        self._last = now, state.seen
        self.file.write(json.dumps({key: _plain(value) for key, value in line.items()}) + "\n")
        if self.board is not None:
            for key, value in line.items():
                self.board.add_scalar(key, value, state.step)
        self.show(line)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def _plain(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def writer() -> Any:
    """TensorBoard's SummaryWriter; ValueError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("log.tensorboard=true needs TensorBoard: pip install 'genobj[tensorboard]'") from None
    return SummaryWriter
