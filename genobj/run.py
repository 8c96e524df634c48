"""Start or resume an experiment in a folder: assemble, train, save, evaluate, draw."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genobj import hub
from genobj.evaluation import Generator, Record, Scorer
from genobj.experiment import FREE, Experiment
from genobj.pictures import columns, compare, curves
from genobj.training import checkpoint, diagnose, folder
from genobj.training.averages import Averages
from genobj.training.distributed import device_of, prepare, set_threads
from genobj.training.log import Line, Logger, writer
from genobj.training.loop import Hook, StepModule, train
from genobj.training.state import State
from genobj.types import Network

RUNS = Path("runs")
"""Where runs go if nobody says where."""
TILES = 100
"""Images in a panel at most."""
MANY = 1000
"""Held-out samples looked through for a row of every class."""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    folder: Path
    records: Sequence[Record]
    picture: Path
    diagnostics: Path | None = None
    """Picture of what `diagnose` logged, if it did."""


class Stopped(RuntimeError):
    """The run was asked to stop (Ctrl-C, SIGTERM) and saved its state."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are put into; a second one ends the process as usual."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Run:
    """One experiment in one folder.

    path: the folder; None makes a new one, runs/<name>-<hash>. resume: continue the newest checkpoint of the folder (or
    start, if it holds none). Raises ValueError for settings that do not fit the machine or the run in the folder; all
    that can be wrong is found before the folder is touched.
    """

    def __init__(self, experiment: Experiment, path: Path | None = None, *, resume: bool = False):
        self.experiment = experiment
        self.device = device_of(experiment.train.device)
        self.teacher = experiment.teacher(self.device)
        self.settings = experiment.model_settings()
        self.source = experiment.data.open()
        self.model = self.settings.build(experiment.seed).to(self.device).train()
        set_threads(experiment.train.threads, self.model)
        if experiment.log.tensorboard:
            writer()
        self.state = State(
            self.model,
            Averages(self.model, experiment.ema),
            experiment.optim.build(self.model.parameters()),
        )
        if resume and path is not None and (path / "config.toml").exists():
            self._go_on(path)
            self.folder = path
        else:
            tree = experiment.tree()
            self.folder = folder.create(path or folder.free(RUNS, experiment.run_name()), tree)
            folder.keep_plugins(self.folder, experiment.plugins)
        hub.describe(self.folder, self.settings, experiment.ema.decays)
        for log in ("metrics.jsonl", diagnose.LOG):
            folder.cut_log(self.folder / log, self.state.step)

    def go(self, show: Callable[[Line], None] = lambda line: None) -> Outcome:
        """Train to the end, then evaluate; `show` gets every line of the log. Raises health.Diverged."""
        e, state = self.experiment, self.state
        logger, step = Logger(self.folder, e.log, show), self.step_module()
        hooks = [
            Hook(e.log.every, logger, means=True),
            *self._diagnosis(step, logger),  # before the checkpoint, whose step's line must be there on resume
            Hook(e.checkpoint.every, lambda state, _: checkpoint.save(self.folder, state, e.checkpoint.keep)),
            Hook(e.pictures.every, lambda state, _: self._draw(f"samples/step_{state.step:08d}.png")),
        ]
        try:
            with stop_requests() as asked:
                hooks.append(Hook(1, lambda state, _: self._stop(state) if asked else None))
                train(state, step, self.source, e.train, e.optim, e.seed, hooks)
        finally:
            logger.close()
        hub.export(self.folder, state)
        return self._finish()

    def step_module(self) -> StepModule:
        """The network with its whole loss."""
        composer = self.experiment.composer(shared_masks=self.model.has_dropout)
        others = dict(self.teacher)
        if "ema" in composer.networks:
            others["ema"] = self.state.averages.network(self.model)
        return prepare(StepModule(self.model, others, composer), self.experiment.train)

    def _diagnosis(self, step: StepModule, logger: Logger) -> list[Hook]:
        e = self.experiment
        if not e.diagnose.every:
            return []
        total = e.train.steps * e.train.batch
        look = diagnose.Diagnosis(self.folder, e.diagnose, step, self.source, e.seed, total, logger.board)
        return [Hook(e.diagnose.every, look)]

    def _stop(self, state: State) -> None:
        """Save between two steps and leave."""
        checkpoint.save(self.folder, state, self.experiment.checkpoint.keep)
        raise Stopped(f"stopped after step {state.step}; go on with: genobj train --resume {self.folder}")

    def _go_on(self, path: Path) -> None:
        """Put the newest checkpoint, if there is one, into the state."""
        if changed := folder.differences(path, self.experiment.tree(), FREE):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ValueError(
                f"{path} is a run with other settings ({changed[0]}{more}); "
                "resume it with its own, or choose another --out"
            )
        if checkpoint.steps(path):
            checkpoint.load(path, self.state)

    def _network(self, weights: str) -> tuple[Network, str]:
        if weights == "live":
            return self.model, "live"
        return self.state.averages.network(self.model), f"ema_{self.experiment.ema.decays[0]:g}"

    def _draw(self, name: str) -> Path:
        """A picture with a panel per nfe beside the data; images of one class stand below each other."""
        training = self.model.training
        self.model.eval()
        net, _ = self._network(self.experiment.evaluation.weights)
        generator = Generator(net, self.settings, self.device)
        count = self.experiment.pictures.count
        count = count if len(self.settings.shape) == 1 else min(count, TILES)
        panels = {"data": self._real(count)}
        for n, sampler in self.experiment.evaluation.samplers(self.settings.horizons).items():
            panels[f"{n} NFE"] = generator(sampler, count, self.experiment.seed)[0].x
        compare(panels, columns(self.settings.classes)).savefig(self.folder / name)
        self.model.train(training)
        return self.folder / name

    def _real(self, count: int) -> Tensor:
        """Held-out samples; labels run through all classes as those of generated samples do."""
        x, y = self.source.held_out(max(count, MANY), self.experiment.seed)
        if y is None:
            return x[:count]
        rows = [x[y == label][: -(-count // self.settings.classes)] for label in range(self.settings.classes)]
        shortest = min(len(row) for row in rows)
        return torch.stack([row[:shortest] for row in rows], dim=1).flatten(0, 1)[:count]

    def _finish(self) -> Outcome:
        self.model.eval()
        net, weights = self._network(self.experiment.evaluation.weights)
        scorer = Scorer(self.experiment.evaluation, self.experiment.data, self.source)
        records = scorer(Generator(net, self.settings, self.device, self.experiment.evaluation.batch), weights)
        table = json.dumps([record.as_dict() for record in records], indent=1)
        folder.write(self.folder / "results.json", table + "\n")
        return Outcome(self.folder, records, self._draw("samples.png"), self._draw_diagnostics())

    def _draw_diagnostics(self) -> Path | None:
        """The curves of diagnostics.jsonl, also of looks before a resume that turned them off."""
        shown = diagnose.panels(self.folder)
        if not shown:
            return None
        curves(shown).savefig(self.folder / diagnose.PICTURE)
        return self.folder / diagnose.PICTURE
