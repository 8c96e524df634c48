"""Start or resume an experiment in a folder: assemble, train, save, evaluate, draw."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from genobj import hub
from genobj.assembly import Assembly
from genobj.autoencoders import pixels
from genobj.config.load import fingerprint
from genobj.evaluation import Generator, Scorer
from genobj.experiment import FREE, Experiment
from genobj.metrics.records import Record
from genobj.metrics.team import ALONE as FIRST
from genobj.metrics.team import Team
from genobj.pictures import columns, compare, curves
from genobj.training import checkpoint, diagnose, folder, posthoc, rollback
from genobj.training.disk import explained, naming
from genobj.training.distributed import leave
from genobj.training.health import Diverged
from genobj.training.log import Complaints, Line, Logger, writer
from genobj.training.loop import Hook, train
from genobj.training.ranks import Wish
from genobj.training.state import State
from genobj.training.step import Step, StepModule
from genobj.training.watchdog import Watchdog
from genobj.types import Network

RUNS = Path("runs")
"""Where runs go if nobody says where."""
SCORES = "scores.jsonl"
"""In the run folder: a line per score during training, {"step", "seen", "seconds", "records"}."""
TILES = 100
"""Images in a panel at most."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What asks a run to stop: Ctrl-C, torchrun and most schedulers, and Slurm's --signal=USR1@120."""
REQUEUE = "requeue"
"""File in the folder of a run that was asked to stop and wants to be started again."""
AGAIN = 1.0
"""Seconds after which a second Ctrl-C is one that somebody pressed."""
Tell = Callable[[str, int, int], None]
"""Told what is sampled, how much of it is done, and of how much."""
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
    skipped: int = 0
    """Damaged files that data left out; data_errors.log names them."""


class Stopped(RuntimeError):
    """The run was asked to stop by a signal and saved its state."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that signals to stop are put into; Ctrl-C ends the process as usual if it is pressed again.

    Others may come twice: to every process from a scheduler, and once more from torchrun, which passes them on.
    """
    asked, first = list[int](), list[float]()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and asked and monotonic() - first[0] > AGAIN:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        first.append(monotonic())
        asked.append(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():  # what was asked to stop is about to: to be asked again changes nothing
            if not asked:
                signal.signal(number, handler)
            elif number != signal.SIGINT:  # that one gives way to the usual handler by itself, see note
                signal.signal(number, signal.SIG_IGN)


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def nothing(state: State, means: dict[str, float]) -> None:
    """A hook that does nothing: what the first process alone does is waited for by none of the others."""


class Run(Assembly):
    """One experiment in one folder.

    path: the folder; None makes a new one, runs/<name>-<hash>. resume: continue the newest checkpoint of the folder (or
    start, if it holds none). Raises ValueError for settings that do not fit the machine or the run in the folder; all
    that can be wrong is found before the folder is touched.
    """

    def __init__(self, experiment: Experiment, path: Path | None = None, *, resume: bool = False):
        going_on = resume and path is not None and bool(folder.steps(path))
        super().__init__(experiment, fresh=not going_on)
        if experiment.log.tensorboard:
            writer()
        self.ranks.once(self._decodes)
        self.network = hub.description(self.settings, experiment.ema.decays)
        self.ranks.once(self._scorer().check)
        if experiment.evaluation.every:
            self.ranks.once(self._scorer(while_training=True).check)
        self.folder = self.ranks.once(lambda: self._folder(path, resume))
        if resume and self.ranks.once(lambda: bool(folder.steps(self.folder))):
            checkpoint.load(self.folder, self.state, self.network, self.ranks)
        self.ranks.once(self._tidy)
        self._alone = False

    def _decodes(self) -> None:
        """ValueError now, not at a picture, if the autoencoder is missing."""
        if self.settings.autoencoder is not None:
            pixels(self.settings, torch.zeros(1, *self.settings.shape), self.device)

    def _folder(self, path: Path | None, resume: bool) -> Path:
        """The run's folder, a new one unless it is to be resumed."""
        e = self.experiment
        if resume and path is not None and (path / "config.toml").exists():
            self._same_settings(path)
            with folder.held(path):  # it is going to be tidied
                pass
        else:
            path = folder.create(path or folder.free(RUNS, e.run_name()), e.tree())
            folder.keep_plugins(path, e.plugins)
        return path

    def _tidy(self) -> None:
        """Nothing in the folder is later than the state."""
        (self.folder / REQUEUE).unlink(missing_ok=True)
        folder.write(self.folder / folder.SETTINGS, self.network)
        for log in ("metrics.jsonl", SCORES, diagnose.LOG, rollback.LOG):
            folder.cut_log(self.folder / log, self.state.step)
        posthoc.cut(self.folder, self.state.step)

    def go(
        self,
        show: Callable[[Line], None] = lambda line: None,
        tell: Tell = silent,
        beat: Callable[[int], None] = lambda step: None,
        *,
        until: int | None = None,
    ) -> Outcome:
        """Train to the end, then evaluate; `show` gets every line of the log. Raises health.Diverged.

        tell: told by the evaluation what it samples, how many samples are done and of how many. beat: told every step's
        number when it is done. until: a step (counted from the start of training) after which to save and raise
        Stopped, as if a signal had asked for it; the last step and later ones are no reason to stop.

        OSError, with what is safe and how to go on, if a disk refuses. ValueError if `until` is below 1.
        """
        if until is not None and until < 1:
            raise ValueError(f"until={until}: there is no such step; the first one is 1")
        with folder.held(self.folder) if self.ranks.first else nullcontext(), explained(self.folder):
            self._train(show, beat, until)
            hub.export(self.folder, self.state, self.ranks)
            return self._finish(tell)

    def _train(self, show: Callable[[Line], None], beat: Callable[[int], None], until: int | None) -> None:
        if until is not None and until <= self.state.step < self.experiment.train.steps:
            raise self._stopped()  # it came from a checkpoint of this very step
        e, first = self.experiment, self.ranks.first
        logger, step = Logger(self.folder, e.log, show) if first else None, self.step_module()
        save = checkpoint.Saver(self.folder, e.checkpoint, self.network, self.ranks, self.device)
        wish = Wish(self.ranks)
        self.complaints = Complaints(self.folder)
        hooks = [
            Hook(e.log.every, logger or nothing, means=True, phase="log"),
            *self._diagnosis(step, logger),  # these two before the checkpoint: a resumed run does not pass here again
            *self._snapshots(),
            *self._scores(),
            Hook(e.checkpoint.every, lambda state, _: save(state), sound=True, phase="checkpoint"),
            Hook(e.pictures.every, lambda state, _: self._draw(self._picture())),
        ]
        try:
            with stop_requests() as asked, Watchdog(self.folder, e.health, self.ranks) as watchdog:
                hooks.append(Hook(1, lambda state, _: beat(state.step)))
                hooks.append(Hook(1, lambda state, _: self._stop(state, save, until, wish(bool(asked)))))
                if e.pictures.start and not self.state.step:
                    self._draw(self._picture())
                ready = self.ready(step)
                while not self._trained(ready, hooks, save, watchdog):
                    pass
                save.finish()
        finally:
            if logger is not None:
                logger.close()

    def _trained(self, step: Step, hooks: Sequence[Hook], save: checkpoint.Saver, watchdog: Watchdog) -> bool:
        """Train on: whether to the end, or to where the run had to go back. Raises Diverged if it may not."""
        e, state, ranks = self.experiment, self.state, self.ranks
        try:
            at, told = watchdog.at, self.complaints
            train(state, step, self.source, e.train, e.optim, e.seed, hooks, ranks, e.health, at, told)
        except Diverged as diverged:
            save.finish()
            rollback.go_back(
                self.folder,
                state,
                diverged,
                e.health.rollback,
                lambda at: checkpoint.load(self.folder, state, self.network, ranks, at),
                lambda: save(state),
                ranks,
            )
            return False
        return True

    def _snapshots(self) -> list[Hook]:
        ema = self.experiment.ema
        if ema.snapshot_every is None:
            return []
        return [
            Hook(ema.snapshot_every, lambda state, _: posthoc.save(self.folder, state, ema.snapshot_type, self.ranks))
        ]

    def _diagnosis(self, step: StepModule, logger: Logger | None) -> list[Hook]:
        e = self.experiment
        if not e.diagnose.every or logger is None:
            return []
        total = e.train.steps * e.train.batch
        compiled = bool(e.train.compile)
        look = diagnose.Diagnosis(
            self.folder, e.diagnose, step, self.source, e.seed, total, logger.board, compiled=compiled
        )
        return [Hook(e.diagnose.every, look)]

    def _scores(self) -> list[Hook]:
        """Scores before the end; those of the last step are the end's own.

        All processes take part, and one scorer serves them all: it looks at the real samples once.
        """
        e = self.experiment
        if not e.evaluation.every:
            return []
        team = Team.joined(self.ranks.rank, self.ranks.world)
        scorer = self._scorer(team, while_training=True)

        def score(state: State, _: object) -> None:
            if state.step < e.train.steps:
                with self._sampling(e.evaluation.batch) as (generator, weights):
                    records = scorer(generator, weights)
                if self.ranks.first:
                    self._note_scores(records)

        return [Hook(e.evaluation.every, score)]

    def _note_scores(self, records: Sequence[Record]) -> None:
        """A line of scores.jsonl."""
        state = self.state
        line = {"step": state.step, "seen": state.seen, "seconds": round(state.seconds, 3)}
        line["records"] = [record.as_dict() for record in records]
        with naming(self.folder / SCORES), (self.folder / SCORES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _stop(self, state: State, save: checkpoint.Saver, until: int | None, asked: bool) -> None:
        """Save between two steps and leave, if somebody asks for it or `until` is reached before the end."""
        if not asked and not (until == state.step < self.experiment.train.steps):
            return
        save(state)
        save.finish()
        self.ranks.once((self.folder / REQUEUE).touch)
        raise self._stopped()

    def _stopped(self) -> Stopped:
        return Stopped(f"stopped and saved after step {self.state.step}; go on with: {self._again()}")

    def _again(self) -> str:
        """The command that resumes this run."""
        command = f"genobj train --resume {self.folder}"
        if self.ranks.world == 1:
            return command
        if self.ranks.here < self.ranks.world:
            return f"the same torchrun, and {command}"
        return f"torchrun --standalone --nproc-per-node {self.ranks.world} -m {command}"

    def _same_settings(self, path: Path) -> None:
        """ValueError if the run in this folder learns something else."""
        if changed := folder.differences(path, self.experiment.tree(), FREE):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ValueError(
                f"{path} is a run with other settings ({changed[0]}{more}); "
                "resume it with its own, or choose another --out"
            )

    def _network(self, weights: str) -> tuple[Network, str]:
        name = "live" if weights == "live" else f"ema_{self.experiment.ema.decays[0]:g}"
        if self._alone and self.experiment.distributed.shards:  # the others have left with their shards
            return hub.load(self.folder, weights, self.device).model, name
        net = self.model if weights == "live" else self.state.averages.network(self.model)
        low = self.model.in_shards and self.experiment.train.precision == "bf16_pure"
        return net.lowered() if low else net, name

    @contextmanager
    def _sampling(self, batch: int = 1024) -> Iterator[tuple[Generator, str]]:
        """What samples with the weights of the settings, and their name; mode and random numbers come back as were."""
        training, gpus = self.model.training, [self.device] if self.device.type == "cuda" else []
        self.model.eval()
        try:
            with torch.random.fork_rng(gpus):
                net, weights = self._network(self.experiment.evaluation.weights)
                yield Generator(net, self.settings, self.device, batch), weights
        finally:
            self.model.train(training)

    def _picture(self) -> str:
        """Name of the picture of this step."""
        return f"samples/step_{self.state.step:08d}.png"

    def _draw(self, name: str) -> Path:
        """A picture with a panel per nfe beside the data; images of one class stand below each other."""
        if not self.ranks.first and not self.experiment.distributed.shards:
            return self.folder / name
        count = self.experiment.pictures.count
        count = count if len(self.settings.shape) == 1 else min(count, TILES)
        panels = {"data": self._real(count)}
        with self._sampling() as (generator, _):
            for n, sampler in self.experiment.evaluation.samplers(self.settings.horizons).items():
                drawn, nfe = generator(sampler, count, self.experiment.seed)
                panels[f"{nfe if sampler.adaptive else n} NFE"] = drawn.x
        if self.ranks.first:
            shown = {heading: pixels(self.settings, x, self.device) for heading, x in panels.items()}
            compare(shown, columns(self.settings.classes)).savefig(self.folder / name)
        return self.folder / name

    def _real(self, count: int) -> Tensor:
        """Held-out samples; labels of images run through all classes as those of generated ones do."""
        x, y, _ = self.source.held_out(max(count, MANY), self.experiment.seed)
        if y is None or len(self.settings.shape) == 1:
            return x[:count]
        rows = [x[y == label][: -(-count // self.settings.classes)] for label in range(self.settings.classes)]
        shortest = min(len(row) for row in rows)
        return torch.stack([row[:shortest] for row in rows], dim=1).flatten(0, 1)[:count]

    def _scorer(self, team: Team = FIRST, tell: Tell = silent, *, while_training: bool = False) -> Scorer:
        """What measures the samples at the end, or before."""
        e, settings = self.experiment, self.experiment.evaluation
        if while_training:
            settings = settings.model_copy(update={"count": settings.every_count})
        learnt = fingerprint(e.learns(besides=frozenset()))
        return Scorer(settings, e.data, self.source, device=self.device, team=team, config=learnt, show=tell)

    def _finish(self, tell: Tell) -> Outcome:
        """Measure, with all processes unless their networks are in shards; then the first one draws."""
        together = self.ranks.world > 1 and not self.experiment.distributed.shards
        if not together:
            leave()
            self._alone = True
            if not self.ranks.first:
                return Outcome(self.folder, (), self.folder / "samples.png")
        team = Team.joined(self.ranks.rank, self.ranks.world) if together else FIRST
        with self._sampling(self.experiment.evaluation.batch) as (generator, weights):
            records = self._scorer(team, tell if self.ranks.first else silent)(generator, weights)
        leave()
        if not self.ranks.first:
            return Outcome(self.folder, (), self.folder / "samples.png")
        table = json.dumps([record.as_dict() for record in records], indent=1)
        folder.write(self.folder / "results.json", table + "\n")
        for told in self.source.complaints():
            self.complaints(told)
        picture, diagnostics = self._draw("samples.png"), self._draw_diagnostics()
        return Outcome(self.folder, records, picture, diagnostics, self.complaints.total())

    def _draw_diagnostics(self) -> Path | None:
        """The curves of diagnostics.jsonl, also of looks before a resume that turned them off."""
        shown = diagnose.panels(self.folder)
        if not shown:
            return None
        curves(shown).savefig(self.folder / diagnose.PICTURE)
        return self.folder / diagnose.PICTURE
