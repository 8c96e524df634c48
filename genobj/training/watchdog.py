"""Says where a run hangs: which process, in which phase of which step, and who keeps the others waiting.

The loop calls `at` as it goes from phase to phase: one attribute is stored. A thread looks at it every few seconds.
With several processes each of these threads writes a heartbeat file into the run folder, from which the others learn
who is behind. The thread touches no tensor. It stands still while a call keeps Python's lock; the others then tell.
"""

import faulthandler
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from genobj.training.folder import write
from genobj.training.health import HealthSettings
from genobj.training.ranks import Ranks

Phase = Literal["start", "log", "checkpoint", "hook", "data", "step"]
DOING: dict[Phase, str] = {
    "start": "starting",
    "log": "waiting for the device to finish step {done}",
    "checkpoint": "saving the checkpoint of step {done}",
    "hook": "in a hook (picture, diagnosis) after step {done}",
    "data": "waiting for the data of step {next}",
    "step": "computing step {next}",
}
"""Phases in their order after as many steps."""
HINTS: dict[Phase, str] = {
    "checkpoint": "look at the disk it writes to",
    "data": "the loader is starved: look at its disk, its network and its worker processes",
}
EVERY = 5.0
"""Seconds between two looks at most, and between two heartbeats."""


def nowhere(phase: Phase, step: int) -> None:
    """Watchdog.at where nobody watches."""


class Beat(NamedTuple):
    """What a process last told of itself."""

    rank: int
    step: int
    """Steps done."""
    phase: Phase
    still: float
    """Seconds without progress when it told."""
    told: float
    """When it told, in seconds since 1970."""
    host: str
    pid: int


class Watchdog:
    """A context in which a thread watches the loop; with health.watch=0 there is no thread, and `at` does no harm.

    clock: seconds that only go forward. leave: ends the process with an exit code.
    """

    def __init__(
        self,
        folder: Path,
        settings: HealthSettings,
        ranks: Ranks,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], object] = os._exit,
    ):
        self.folder, self.settings, self.ranks = folder, settings, ranks
        self.period = min(EVERY, settings.watch / 4) if settings.watch else EVERY
        self._clock, self._leave = clock, leave
        self._now: tuple[Phase, int] = ("start", 0)
        self._before, self._looked, self._still, self._told = self._now, clock(), 0.0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="genobj-watchdog", daemon=True)

    def at(self, phase: Phase, step: int) -> None:
        """The loop is at this phase now, `step` steps being done."""
        self._now = phase, step  # a new tuple even for an equal place: that is how the thread sees progress

    def __enter__(self) -> "Watchdog":
        if self.settings.watch:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(self.period)  # it may hang at a disk itself

    def look(self) -> None:
        """Compare with the last look; speak once per hang, and end the process if the settings say so."""
        here, clock = self._now, self._clock()
        passed = min(clock - self._looked, 2 * self.period)  # a laptop that slept, a process that was paused: no hang
        self._looked = clock
        if here is not self._before:
            self._before, self._still, self._told = here, 0.0, False
        else:
            self._still += passed
        if self.ranks.world > 1:
            self._beat(here)
        if self._still >= self.settings.watch and not self._told:
            self._told = True
            self._say(f"{self._where(here)}{self._blame(here)}{self._stacks()}")
        if self.settings.abort and self._still >= self.settings.watch + self.settings.abort:
            self._say(
                f"ended after {lasting(self._still)} (health.abort); go on with: genobj train --resume {self.folder}"
            )
            self._leave(1)

    def _run(self) -> None:
        self.look()
        while not self._over.wait(self.period):
            self.look()

    def _say(self, what: str) -> None:
        who = f"rank {self.ranks.rank} of {self.ranks.world}" if self.ranks.world > 1 else "the run"
        logging.getLogger("genobj").warning(f"{who} {what}")

    def _where(self, here: tuple[Phase, int]) -> str:
        return f"has been {doing(*here)} for {lasting(self._still)}"

    def _blame(self, here: tuple[Phase, int]) -> str:
        """Who is behind this process, or why it may be the one that others wait for."""
        beats = self._others()
        missing = set(range(self.ranks.world)) - {beat.rank for beat in beats} - {self.ranks.rank}
        behind = [f"rank {rank}, never heard of" for rank in sorted(missing)]
        for beat in beats:
            who, silent = f"rank {beat.rank} ({beat.host}, process {beat.pid})", time.time() - beat.told
            if silent > 4 * self.period:
                behind.append(f"{who}, silent for {lasting(silent)}")
            elif place(beat.phase, beat.step) < place(*here):
                behind.append(f"{who}, which is {doing(beat.phase, beat.step)}")
        if behind:
            return f" and waits for {'; '.join(behind)}"
        if here[0] in HINTS:
            return f"; {HINTS[here[0]]}"
        return "; no other rank is behind it" if beats else ""

    def _others(self) -> list[Beat]:
        """The last heartbeats of the other processes; one that is being written counts as none."""
        found: list[Beat] = []
        for rank in set(range(self.ranks.world)) - {self.ranks.rank}:
            with suppress(OSError, ValueError, TypeError):
                found.append(Beat(**json.loads(self._file(rank).read_text())))
        return [beat for beat in found if beat.phase in DOING]

    def _beat(self, here: tuple[Phase, int]) -> None:
        beat = Beat(self.ranks.rank, here[1], here[0], self._still, time.time(), socket.gethostname(), os.getpid())
        with suppress(OSError):  # a full disk must not silence the watchdog
            self._file(self.ranks.rank).parent.mkdir(exist_ok=True)
            write(self._file(self.ranks.rank), json.dumps(beat._asdict()))

    def _file(self, rank: int) -> Path:
        return self.folder / "heartbeat" / f"rank{rank}.json"

    def _stacks(self) -> str:
        """Write down where every thread of this process is; where that is to be read."""
        path = self.folder / f"stacks-rank{self.ranks.rank}.txt"
        try:
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            return ""
        return f". Where its threads are: {path}"


def place(phase: Phase, step: int) -> tuple[int, int]:
    """Orders the places a process can be at."""
    return step, list(DOING).index(phase)


def doing(phase: Phase, step: int) -> str:
    """What a process does at a place."""
    return DOING[phase].format(done=step, next=step + 1)


def lasting(seconds: float) -> str:
    """'40 seconds', '5 minutes', '3 hours'."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
