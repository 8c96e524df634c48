"""How fast a recipe trains on the machine at hand, and where the time of a step goes.

What is timed is `training.loop.train` itself, between two log lines: data, draws, passes, backward, optimizer, averages
and the watch over their health. Rounds of several experiments are interleaved, since machines are shared. A step's
FLOPs are counted on one real step, the device's rate is that of the best of a few square matrix products.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genobj import cost
from genobj.assembly import Assembly
from genobj.composer import Loss
from genobj.data.normal import Normal
from genobj.experiment import Experiment
from genobj.passes import Count, StepPasses
from genobj.training.distributed import join
from genobj.training.feed import Feed
from genobj.training.loop import train
from genobj.training.step import Step, StepModule

PARTS: tuple[str, ...] = ("data", "passes without gradient", "forward and backward", "optimizer", "averages", "rest")
"""Where the time of a step goes; draws, targets, losses, their norm and the watch over them are the rest."""
WARM_UP = 3
"""Steps before the first round."""
SPLITS = 3
"""Rounds at most in which the parts of a step are timed; medians count."""
LONGEST = 200
"""Steps of a round at most, if their number is chosen here."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"median": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Report:
    """What was measured of one experiment."""

    name: str
    machine: dict[str, Any]
    """Device, torch version, CPU threads, precision, compile, and whether noise stood in for the data."""
    batch: int
    steps: int
    """Of a round."""
    wall: tuple[float, ...]
    """Seconds a step in every round, by the clock on the wall."""
    busy: tuple[float, ...]
    """The same in CPU time on one thread of a CPU, where other processes do not count; elsewhere as `wall`."""
    passes: Count
    parameters: int
    flops: int
    """Of one step."""
    rate: float
    """FLOP/s of a matrix product on this device in this precision."""
    parts: dict[str, float]
    """Seconds of a step by part, from rounds of their own."""
    memory: int | None
    """Peak bytes: allocated on a GPU; resident, of the whole process, on a CPU; None where it cannot be told."""

    @property
    def step(self) -> Spread:
        """Seconds a step."""
        return Spread.of(self.wall)

    @property
    def utilisation(self) -> float:
        """Share of the device's rate that the network's FLOPs make up."""
        return self.flops / statistics.median(self.busy) / self.rate

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, seconds and bytes."""
        total = sum(self.parts.values())
        return {
            "name": self.name,
            **self.machine,
            "batch": self.batch,
            "parameters": self.parameters,
            "rounds": len(self.wall),
            "steps_per_round": self.steps,
            "warm_up_steps": WARM_UP,
            "seconds_per_step": self.step.as_dict(),
            "busy_seconds_per_step": Spread.of(self.busy).as_dict(),
            "steps_per_second": 1 / self.step.median,
            "samples_per_second": self.batch / self.step.median,
            "passes": self.passes._asdict(),
            "flops_per_step": self.flops,
            "matmul_flops_per_second": self.rate,
            "utilisation": self.utilisation,
            "split_seconds": self.parts,
            "split": {name: seconds / total for name, seconds in self.parts.items()},
            "peak_memory": self.memory,
        }


def ratio(first: Report, second: Report) -> Spread:
    """Time of a step of `first` over that of `second`: ratio of the medians, quartiles over the interleaved rounds."""
    spread = Spread.of([a / b for a, b in zip(first.busy, second.busy, strict=True)])
    return Spread(statistics.median(first.busy) / statistics.median(second.busy), spread.low, spread.high)


def measure(
    experiments: Mapping[str, Experiment],
    *,
    rounds: int = 9,
    steps: int = 0,
    limit: float = 600.0,
    show: Callable[[str], object] = lambda line: None,
) -> list[Report]:
    """Time the experiments in turn, `rounds` times `steps` steps each; nothing is written.

    steps: 0 takes as many as fit into about a second (up to LONGEST). limit: seconds that all of it may take by the
    least estimate. show: gets a line on what is going on. Raises ValueError for what cannot be run here.
    """
    if not experiments or rounds < 1 or steps < 0:
        raise ValueError(f"bench takes a recipe, rounds >= 1 and steps >= 0, got rounds={rounds} and steps={steps}")
    threads = torch.get_num_threads()
    runs: list[Timed] = []
    try:
        for name, experiment in experiments.items():
            torch.set_num_threads(threads)
            device = join(experiment.distributed, experiment.train.device)[1]
            show(f"{name}: matrix products on {device}")
            rate = matmul_rate(device, experiment.train.precision)
            if refusal := too_much(experiment, device, rate, rounds * max(steps, 1), limit):
                raise ValueError(f"{name} {refusal}")
            show(f"{name}: warm-up")
            runs.append(Timed(name, experiment, rate, steps))
        for number in range(rounds):
            for run in runs:
                show(f"{run.name}: round {number + 1} of {rounds}")
                run.go()
        for run in runs * min(rounds, SPLITS):
            show(f"{run.name}: where a step's time goes")
            run.split()
        return [run.report() for run in runs]
    finally:
        torch.set_num_threads(threads)


class Timed:
    """One experiment, put together as a run is but without a folder, and the times of its rounds.

    Building it takes a step for counting FLOPs, and WARM_UP more.
    """

    def __init__(self, name: str, experiment: Experiment, rate: float, steps: int = 0):
        self.name, self.experiment, self.rate = name, experiment, rate
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.assembly = whole = _assembled(experiment)
        self.device, self.model, self.state = whole.device, whole.model, whole.state
        self.threads, self.clock = torch.get_num_threads(), _clock(self.device)
        step = whole.step_module()
        self.step: Step = step
        self.passes, self.flops = self._count(step)
        self.step = whole.ready(step)
        self.wall: list[float] = []
        self.busy: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.take(WARM_UP)
        self.steps = steps or max(1, min(LONGEST, round(1 / self._seconds(2)[0])))

    def go(self) -> None:
        """One round."""
        torch.set_num_threads(self.threads)
        wall, busy = self._seconds(self.steps)
        self.wall.append(wall)
        self.busy.append(busy)

    def split(self) -> None:
        """A round in which the calls that the loop makes are timed one by one, without waiting for the device."""
        torch.set_num_threads(self.threads)
        line = Timeline(self.device, self.clock)
        asked = [(StepPasses, name, "passes without gradient") for name in ("__call__", "velocity", "tangent")]
        with line.watch(
            (Feed, "__next__", "data"),
            *asked,
            (StepPasses, "main", "forward and backward"),
            (Tensor, "backward", "forward and backward"),
            (self.state.optimizer, "step", "optimizer"),
            (self.state.averages, "update", "averages"),
        ):
            self.take(self.steps)
        self.parts.append({name: seconds / self.steps for name, seconds in line.seconds().items()})

    def report(self) -> Report:
        """What was measured."""
        settings = self.experiment.train
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        machine = {"device": name, "torch": torch.__version__, "threads": self.threads}
        machine |= {"precision": settings.precision, "compile": settings.compile}
        machine |= {"data": "noise of its size" if self.experiment.data.missing else "its own"}
        size = sum(p.numel() for p in self.model.parameters())
        parts = {name: statistics.median(found[name] for found in self.parts) for name in PARTS}
        return Report(
            self.name,
            machine,
            settings.batch,
            self.steps,
            tuple(self.wall),
            tuple(self.busy),
            self.passes,
            size,
            self.flops,
            self.rate,
            parts,
            peak_memory(self.device),
        )

    def _count(self, step: StepModule) -> tuple[Count, int]:
        """Passes and FLOPs of a step on this device, counted as it runs, operation by operation."""
        seen: list[Any] = []
        handle = step.register_forward_hook(lambda module, inputs, loss: seen.append(loss))
        with FlopCounterMode(display=False) as counter:
            self.take(1)
        handle.remove()
        assert isinstance(seen[0], Loss)
        return seen[0].passes, counter.get_total_flops()

    def take(self, steps: int) -> None:
        """Train for some steps."""
        e = self.experiment
        settings = e.train.model_copy(update={"steps": self.state.step + steps})
        whole = self.assembly
        train(whole.state, self.step, whole.source, settings, e.optim, e.seed, ranks=whole.ranks, care=e.health)

    def _seconds(self, steps: int) -> tuple[float, float]:
        """Seconds a step, by the clock on the wall and by this run's."""
        _finish(self.device)
        wall, busy = time.perf_counter(), self.clock()
        self.take(steps)
        _finish(self.device)
        return (time.perf_counter() - wall) / steps, (self.clock() - busy) / steps


class Timeline:
    """Marks of when which part began: seconds on a CPU, events in the stream of a GPU, which nobody waits for."""

    def __init__(self, device: torch.device, clock: Callable[[], float]):
        self._mark: Callable[[], Any] = _event if device.type == "cuda" else clock
        self._open = ["rest"]
        self._marks: list[tuple[Any, str]] = []

    @contextmanager
    def watch(self, *calls: tuple[object, str, str]) -> Iterator[None]:
        """Time these attributes of objects or classes, each for a part; within another's it takes the time over."""
        with ExitStack() as stack:
            for owner, name, part in calls:
                stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name), part)))
            self._marks.append((self._mark(), "rest"))
            yield
            self._marks.append((self._mark(), "rest"))

    def seconds(self) -> dict[str, float]:
        """Time of every part."""
        if isinstance(self._marks[0][0], torch.cuda.Event):
            torch.cuda.synchronize()
        found = dict.fromkeys(PARTS, 0.0)
        for (start, part), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            found[part] += start.elapsed_time(end) / 1000 if isinstance(start, torch.cuda.Event) else end - start
        return found

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._open.append(part)
            self._marks.append((self._mark(), part))
            try:
                return call(*arguments, **named)
            finally:
                self._open.pop()
                self._marks.append((self._mark(), self._open[-1]))

        return timed


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the best of a few square matrix products in the precision of a run (float32, or bf16...)."""
    kind = torch.float32 if precision == "float32" else torch.bfloat16
    sizes, repeats = ((4096, 8192), 10) if device.type == "cuda" else ((512, 1024), 1)
    clock, best = _clock(device), 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        for _ in range(5):
            _finish(device)
            start = clock()
            for _ in range(repeats):
                torch.matmul(a, b)
            _finish(device)
            best = max(best, repeats * 2 * size**3 / (clock() - start))
    return best


def too_much(experiment: Experiment, device: torch.device, rate: float, steps: int, limit: float) -> str | None:
    """Why this would not fit into memory or time here, with what to type instead, or None; estimated, nothing is run.

    rate: FLOP/s; steps: that shall be timed; limit: seconds. The time is the least possible, at that rate.
    """
    expected, settings = cost.measure(experiment), experiment.train
    memory, most = sum(expected.memory.values()), memory_of(device)
    if most and memory > most:
        told = f"needs about {memory / 2**30:.1f} GiB of memory, and {device} has {most / 2**30:.1f} GiB"
        fixed = memory - expected.memory["activations"]
        if fixed > most:
            return f"{told}; type a smaller backbone, as in backbone=dit-b/2, and leave its settings out"
        rows = (settings.micro_batch or settings.batch) * (most - fixed) / expected.memory["activations"]
        return f"{told}; type {_smaller(experiment, rows)}"
    seconds = expected.flops * (steps + WARM_UP + 3) / rate
    if seconds > limit:
        rows = settings.batch * limit / seconds
        return (
            f"takes {seconds / 60:.0f} minutes or more: {steps} steps of {expected.flops:.1e} FLOPs at {rate:.1e} "
            f"a second on {device}; type {_smaller(experiment, rows)}, fewer --rounds, a GPU (train.device=cuda), "
            f"or --limit {-(-seconds // 60) * 2:.0f}"
        )
    return None


def _smaller(experiment: Experiment, rows: float) -> str:
    """Settings of a batch that has at most about `rows` rows."""
    batch = 2 ** max(int(rows).bit_length() - 1, 0)
    told = f"train.batch={batch}"
    return f"{told} train.micro_batch={batch}" if experiment.train.micro_batch else told


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a device, 0 where they cannot be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    known = "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 0


def peak_memory(device: torch.device) -> int | None:
    """Most bytes so far: allocated on a GPU, resident in this process on a CPU; None where nobody tells (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _assembled(experiment: Experiment) -> Assembly:
    """The experiment, put together; noise of the same size stands in for data that are not on this machine."""
    if experiment.data.missing is None:
        return Assembly(experiment)
    noise = Normal(sizes=experiment.data.shape, labels=experiment.data.classes)
    return Assembly(experiment.model_copy(update={"data": noise}))


def _clock(device: torch.device) -> Callable[[], float]:
    """CPU time on one thread, where others on the machine do not count; else the clock on the wall."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
