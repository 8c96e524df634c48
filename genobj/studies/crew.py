"""Tasks shared out to processes: in order, as what they need is done; a process that dies takes one task with it."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol, runtime_checkable

from genobj.run import Stopped, stop_requests
from genobj.studies.worker import Message, Task, ensure, send, sentence, tidy, work

POLL = 0.5
"""Seconds between two looks at whether somebody asked to stop."""


@runtime_checkable
class Watcher(Protocol):
    """Is told what goes on."""

    def begun(self, task: Task) -> None:
        """A task is taken up."""
        ...

    def beat(self, task: Task, step: int) -> None:
        """So many steps of its run are done."""
        ...

    def ended(self, task: Task, error: str) -> None:
        """It is done, or went wrong ('' if not)."""
        ...


@dataclass
class Board:
    """Which tasks wait, which are done, and what went wrong with the others."""

    tasks: Sequence[Task]
    waiting: list[int] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    errors: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = list(range(len(self.tasks)))

    def take(self) -> int | None:
        """The first task that can be done now."""
        for number in self.waiting:
            if self.tasks[number].needs <= self.done:
                self.waiting.remove(number)
                return number
        return None

    def end(self, number: int, error: str = "") -> list[int]:
        """A task has ended: it, and if it went wrong one task of every other run that can no longer be done."""
        if not error:
            self.done.add(number)
            return [number]
        self.errors[number] = error
        ended, folder = [number], self.tasks[number].job.folder
        for n in [n for n in self.waiting if number in self.tasks[n].needs]:
            if n in self.waiting:
                self.waiting.remove(n)
                same = self.tasks[n].job.folder == folder
                ended += self.end(n, error if same else f"what it starts from: {error}")[same:]
        return ended


def alone(tasks: Sequence[Task], watcher: Watcher, device: str | None = None) -> dict[int, str]:
    """Do the tasks in this process; errors by number. Raises Stopped if a signal asks for it."""
    board = Board(tasks)
    while (number := board.take()) is not None:
        task = tasks[number]
        watcher.begun(task)
        error = ""
        try:
            ensure(task, device, lambda step, task=task: watcher.beat(task, step))
        except Stopped:
            raise
        except Exception as wrong:
            error = sentence(wrong)
        for n in board.end(number, error):
            watcher.ended(tasks[n], board.errors.get(n, ""))
        tidy(task)
    return board.errors


class Crew:
    """Processes that do tasks; devices: one process for each. Processes live as long as there is work."""

    def __init__(self, devices: Sequence[str | None], logs: Path):
        self.devices, self.logs = devices, logs
        self.hands: list[Hand] = []

    def __call__(self, tasks: Sequence[Task], watcher: Watcher) -> dict[int, str]:
        """Do the tasks; errors by number. Raises Stopped, when all have saved, if a signal asks for it."""
        board = Board(tasks)
        few = self.devices[: len(tasks)]
        self.hands = [Hand(device, self.logs / f"worker-{i}.log") for i, device in enumerate(few)]
        try:
            with stop_requests() as asked:
                while not asked and (board.waiting or any(hand.number is not None for hand in self.hands)):
                    self._share_out(board, watcher)
                    self._listen(board, watcher)
                if asked:
                    raise Stopped("stopped")
        finally:
            for hand in self.hands:  # all at once: saving takes time
                hand.stop()
            for hand in self.hands:
                hand.dismiss()
        return board.errors

    def _share_out(self, board: Board, watcher: Watcher) -> None:
        for hand in self.hands:
            if hand.number is None and (number := board.take()) is not None:
                hand.give(number, board.tasks[number])
                watcher.begun(board.tasks[number])

    def _listen(self, board: Board, watcher: Watcher) -> None:
        busy = {hand.connection: hand for hand in self.hands if hand.number is not None}
        for connection in wait(list(busy), POLL):
            hand = busy[connection]  # type: ignore[index]  # these are the connections that were given
            number, message = hand.number, hand.hear()
            assert number is not None
            if message.kind == "beat":
                watcher.beat(board.tasks[number], message.step)
                continue
            if message.kind == "stopped":  # somebody asked all processes at once
                raise Stopped("stopped")
            error = message.error
            for n in board.end(number, error):
                watcher.ended(board.tasks[n], board.errors.get(n, ""))


class Hand:
    """One process, and the task that it does."""

    def __init__(self, device: str | None, log: Path):
        self.device, self.log = device, log
        self.number: int | None = None
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self.connection: Connection
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=work, args=(other, self.device, self.log))
        with deaf():
            self.process.start()
        other.close()  # so that the end of the process is the end of the pipe

    def give(self, number: int, task: Task) -> None:
        """Let it do this."""
        self.number = number
        with suppress(OSError):  # it has died: hear() finds out
            send(self.connection, task)

    def hear(self) -> Message:
        """Its next message; a process that died is replaced, and its task has failed."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            message = Message(
                "failed", error=f"its process ended by itself ({_why(self.process.exitcode)}); see {self.log}"
            )
            self._start()
        if message.kind != "beat":
            self.number = None
        if message.broken:
            self.process.join()
            self._start()
        return message

    def stop(self) -> None:
        """Ask it to save the run that is going on."""
        if self.number is not None:
            self.process.terminate()

    def dismiss(self) -> None:
        """Wait until it has ended."""
        if self.number is not None:
            with suppress(EOFError, OSError):
                while self.connection.recv().kind == "beat":
                    pass
        self.connection.close()
        self.process.join()


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that start in here do not hear Ctrl-C, which a terminal sends to all at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _why(code: int | None) -> str:
    if code == -9:
        return "signal 9; out of memory?"
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
