"""One run of a study: trained, scored, or found finished; here, or in a process that does one after another."""

import gc
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from genobj.plugins import load_plugins
from genobj.run import Run, Stopped
from genobj.studies.plan import Job, on
from genobj.training.folder import held, steps, write
from genobj.training.health import Diverged

Beat = Callable[[int], None]
"""Told how many steps of a run are done."""
PATIENCE = 2.0
"""Seconds between two looks at a folder that another process writes."""
TOLD = 0.5
"""Seconds between two messages about progress."""


class Task(NamedTuple):
    """Work for a process: a run, or a part of it."""

    job: Job
    until: int | None = None
    """Step to stop at; None: train to the end, and score."""
    needs: frozenset[int] = frozenset()
    """Numbers of the tasks that have to be done before."""


class Message(NamedTuple):
    """What a process says."""

    kind: Literal["beat", "done", "failed", "stopped"]
    step: int = 0
    error: str = ""
    broken: bool = False
    """Whether the process ends with it: after a fault of a GPU nothing works any more."""


def ensure(task: Task, device: str | None = None, beat: Beat = lambda step: None) -> None:
    """Train and score what is not yet; at once if it is. Raises Stopped, Diverged, and what Run raises.

    A run that diverged is not tried again: Diverged is raised with its words.
    """
    with _claimed(task.job.folder):
        _ensure(task, device, beat)


def _ensure(task: Task, device: str | None, beat: Beat) -> None:
    job = task.job
    if job.scores.exists():
        return
    if job.failure.exists():
        raise Diverged(json.loads(job.failure.read_text(encoding="utf-8"))["error"])
    try:
        outcome = Run(on(job.experiment, device), job.folder, resume=True).go(beat=beat, until=task.until)
    except Stopped:
        if task.until is None or steps(job.folder)[-1] < task.until:
            raise
        return
    except Diverged as error:
        write(job.failure, json.dumps({"error": str(error)}) + "\n")
        raise
    write(job.scores, json.dumps([record.as_dict() for record in outcome.records], indent=1) + "\n")


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Alone with this run: another study that needs it, too, waits, and then finds what was done."""
    place = folder.parent / ".claims" / folder.name
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(place))
                break
            except ValueError:
                time.sleep(PATIENCE)
        yield


def work(connection: Connection, device: str | None, log: Path) -> None:
    """What a process of its own does: tasks, one after another, until there are no more or its parent is gone."""
    _quiet(log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells what to do about Ctrl-C
    threading.Thread(target=_outlive, daemon=True).start()
    threads = torch.get_num_threads()
    while (task := _next(connection)) is not None:
        torch.set_num_threads(threads)
        message = _done(task, device, connection)
        with suppress(OSError):  # nobody listens any more: what is saved is saved
            connection.send(message)
        if message.broken:
            return
        tidy(task)


def send(connection: Connection, task: Task) -> None:
    """Send a task; the other side loads its plugins before it unpacks their classes."""
    connection.send(([*task.job.experiment.plugins], pickle.dumps(task)))


def _next(connection: Connection) -> Task | None:
    try:
        plugins, packed = connection.recv()
    except EOFError:
        return None
    load_plugins(plugins)
    return pickle.loads(packed)


def _done(task: Task, device: str | None, connection: Connection) -> Message:
    """Do it, and say how it ended."""
    told = [0.0]

    def beat(step: int) -> None:
        if time.monotonic() - told[0] > TOLD:
            told[0] = time.monotonic()
            with suppress(OSError):  # the parent was killed; the run is about to be saved
                connection.send(Message("beat", step))

    try:
        ensure(task, device, beat)
        return Message("done")
    except Stopped:
        return Message("stopped")
    except Exception as error:
        broken = torch.cuda.is_initialized() and not isinstance(error, (ValueError, Diverged))
        return Message("failed", error=sentence(error), broken=broken)


def tidy(task: Task) -> None:
    """Leave the device to the next run."""
    gc.collect()
    if task.job.experiment.train.compile:
        torch.compiler.reset()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def sentence(error: BaseException) -> str:
    """What went wrong, in a line; with its class where that tells more than the words."""
    from pydantic import ValidationError

    from genobj.config.base import problems

    if isinstance(error, ValidationError):
        return ": ".join(part for part in next(problems(error)) if part)
    first = str(error).partition("\n")[0]
    return first if isinstance(error, (ValueError, Diverged)) and first else f"{type(error).__name__}: {first}"


def _outlive() -> None:
    """Save and stop if the parent is killed: nobody would hear of the rest."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _quiet(log: Path) -> None:
    """What libraries print goes into a file: the terminal belongs to the parent's progress."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.open("a", buffering=1, encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
