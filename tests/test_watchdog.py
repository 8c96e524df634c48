"""The watchdog: silent while a run goes on, a sentence when it hangs, and who keeps the others waiting."""

import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from genobj.training.health import HealthSettings
from genobj.training.ranks import Ranks
from genobj.training.watchdog import Phase, Watchdog, lasting


class Watched:
    """A watchdog whose clock stands still unless told, that only looks when asked, and that leaves nowhere."""

    def __init__(self, folder: Path, rank: int = 0, world: int = 1, watch: float = 300.0, abort: float = 0.0):
        self.now = 0.0
        self.left: list[int] = []
        settings = HealthSettings(watch=watch, abort=abort)
        self.dog = Watchdog(folder, settings, Ranks(rank, world), lambda: self.now, self.left.append)

    def at(self, phase: Phase, step: int) -> None:
        self.dog.at(phase, step)
        self.dog.look()

    def passing(self, seconds: float) -> None:
        """Let time pass, with a look every five seconds."""
        for _ in range(int(seconds / 5)):
            self.now += 5
            self.dog.look()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "genobj")
    return caplog


class TestOneProcess:
    def test_a_starved_loader_is_told_once(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        watched = Watched(tmp_path)
        watched.at("data", 1233)
        watched.passing(295)
        assert told.messages == []
        watched.passing(1000)
        stacks = tmp_path / "stacks-rank0.txt"
        assert told.messages == [
            "the run has been waiting for the data of step 1234 for 5 minutes; the loader is starved: look at its "
            f"disk, its network and its worker processes. Where its threads are: {stacks}"
        ]
        assert "test_watchdog.py" in stacks.read_text()
        assert not (tmp_path / "heartbeat").exists()

    def test_progress_is_silent_and_a_second_hang_is_told_again(
        self, tmp_path: Path, told: pytest.LogCaptureFixture
    ) -> None:
        watched = Watched(tmp_path)
        for step in range(100):
            watched.at("step", step)
            watched.passing(200)
        assert told.messages == []
        for step in (100, 101):
            watched.at("checkpoint", step)
            watched.passing(400)
        assert [message[:55] for message in told.messages] == [
            "the run has been saving the checkpoint of step 100 for ",
            "the run has been saving the checkpoint of step 101 for ",
        ]

    def test_the_same_place_again_is_progress(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        """Micro-batches of one step, or hooks of one kind."""
        watched = Watched(tmp_path)
        for _ in range(10):
            watched.at("data", 7)
            watched.passing(200)
        assert told.messages == []

    def test_a_machine_that_slept_is_no_hang(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        watched = Watched(tmp_path, abort=10)
        watched.at("step", 7)
        watched.now += 100_000
        watched.dog.look()
        assert (told.messages, watched.left) == ([], [])

    def test_it_ends_the_run_only_if_asked(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        patient, strict = Watched(tmp_path), Watched(tmp_path, abort=60)
        for watched in (patient, strict):
            watched.at("step", 7)
            watched.passing(355)
        assert strict.left == []
        patient.passing(10_000)
        strict.passing(5)
        assert (patient.left, strict.left) == ([], [1])
        assert told.messages[-1] == (
            f"the run ended after 6 minutes (health.abort); go on with: genobj train --resume {tmp_path}"
        )

    def test_turned_off_it_is_no_thread(self, tmp_path: Path) -> None:
        before = threading.active_count()
        with Watchdog(tmp_path, HealthSettings(watch=0), Ranks()) as dog:
            dog.at("data", 1)
            assert threading.active_count() == before

    def test_its_thread_ends_with_the_run(self, tmp_path: Path) -> None:
        start = time.monotonic()
        with Watchdog(tmp_path, HealthSettings(), Ranks()):
            assert "genobj-watchdog" in {thread.name for thread in threading.enumerate()}
        assert "genobj-watchdog" not in {thread.name for thread in threading.enumerate()}
        assert time.monotonic() - start < 2

    @pytest.mark.parametrize(("seconds", "words"), [(40, "40 seconds"), (300, "5 minutes"), (9000, "2 hours")])
    def test_durations(self, seconds: int, words: str) -> None:
        assert lasting(float(seconds)) == words


class TestSeveral:
    def test_who_is_behind(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        """Process 1 gets no data; 0 and 2 wait for it."""
        places: list[tuple[Phase, int]] = [("step", 7), ("data", 7), ("step", 7)]
        three = [Watched(tmp_path, rank, 3) for rank in range(3)]
        for watched, place in zip(three, places, strict=True):
            watched.at(*place)
        for watched in three:
            watched.passing(300)
        first, second, third = told.messages
        hung = f"rank 1 ({socket.gethostname()}, process"
        assert first.startswith(f"rank 0 of 3 has been computing step 8 for 5 minutes and waits for {hung}")
        assert "), which is waiting for the data of step 8. Where" in first
        assert "rank 2" not in first
        assert "rank 1 of 3 has been waiting for the data of step 8 for 5 minutes; the loader is starved" in second
        assert f"rank 2 of 3 has been computing step 8 for 5 minutes and waits for {hung}" in third

    def test_a_hook_of_one_process_keeps_the_others_waiting(
        self, tmp_path: Path, told: pytest.LogCaptureFixture
    ) -> None:
        """The first process draws after step 8, the second is in step 9 and waits for its gradients."""
        first, second = Watched(tmp_path, 0, 2), Watched(tmp_path, 1, 2)
        first.at("hook", 8)
        second.at("step", 8)
        second.passing(300)
        assert "rank 1 of 2 has been computing step 9" in told.messages[0]
        assert "which is in a hook (picture, diagnosis) after step 8" in told.messages[0]

    def test_all_in_one_place(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        two = [Watched(tmp_path, rank, 2) for rank in range(2)]
        for watched in two:
            watched.at("step", 7)
        two[0].passing(300)
        assert "computing step 8 for 5 minutes; no other rank is behind it" in told.messages[0]

    def test_one_that_died_and_one_that_never_was(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        watched, dead = Watched(tmp_path, 0, 3), Watched(tmp_path, 1, 3)
        dead.at("step", 7)
        beat = tmp_path / "heartbeat/rank1.json"
        beat.write_text(json.dumps(json.loads(beat.read_text()) | {"told": time.time() - 600}))
        watched.at("step", 7)
        watched.passing(300)
        assert "waits for rank 2, never heard of; rank 1 (" in told.messages[0]
        assert "), silent for 10 minutes. Where" in told.messages[0]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"rank": 1}'])
    def test_a_torn_heartbeat_is_none(self, tmp_path: Path, told: pytest.LogCaptureFixture, text: str) -> None:
        watched = Watched(tmp_path, 0, 2)
        watched.at("step", 7)
        (tmp_path / "heartbeat/rank1.json").write_text(text)
        watched.passing(300)
        assert "waits for rank 1, never heard of" in told.messages[0]

    def test_a_disk_that_refuses_does_not_silence_it(self, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
        (tmp_path / "heartbeat").write_text("no folder")
        (tmp_path / "stacks-rank0.txt").mkdir()
        watched = Watched(tmp_path, 0, 2)
        watched.at("data", 7)
        watched.passing(300)
        assert told.messages[0].endswith("waits for rank 1, never heard of")


HANGING = """
import sys, time
from pathlib import Path
from genobj.training.health import HealthSettings
from genobj.training.ranks import Ranks
from genobj.training.watchdog import Watchdog

rank, world, abort, folder = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])

def batch(step):
    if step == 3 and rank == world - 1:
        time.sleep(4)

def together(step):
    (folder / f"{rank}-{step}").touch()
    while len(list(folder.glob(f"?-{step}"))) < world:
        time.sleep(0.01)

with Watchdog(folder, HealthSettings(watch=1, abort=abort), Ranks(rank, world)) as dog:
    for step in range(5):
        dog.at("data", step)
        batch(step)
        dog.at("step", step)
        together(step)
print("done")
"""


def hanging(folder: Path, world: int, abort: float = 0.0) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of every process."""
    command = [sys.executable, "-W", "error", "-c", HANGING]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(abort), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    told = [process.communicate(timeout=120) for process in started]
    return [(process.returncode, *words) for process, words in zip(started, told, strict=True)]


class TestRealProcesses:
    def test_a_loader_that_sleeps(self, tmp_path: Path) -> None:
        ((code, out, err),) = hanging(tmp_path, 1)
        assert (code, out) == (0, "done\n")
        assert err.count("\n") == 1
        assert re.match(r"the run has been waiting for the data of step 4 for [12] seconds; the loader is starved", err)
        assert "in batch" in (tmp_path / "stacks-rank0.txt").read_text()

    def test_a_loader_that_sleeps_for_too_long(self, tmp_path: Path) -> None:
        ((code, out, err),) = hanging(tmp_path, 1, abort=1)
        assert (code, out) == (1, "")
        assert f"(health.abort); go on with: genobj train --resume {tmp_path}" in err

    def test_a_rank_that_sleeps(self, tmp_path: Path) -> None:
        (code, out, waiting), (hung_code, hung_out, hung) = hanging(tmp_path, 2)
        assert (code, out, hung_code, hung_out) == (0, "done\n", 0, "done\n")
        assert waiting.splitlines()[-1].startswith("rank 0 of 2 has been computing step 4 for")
        assert "and waits for rank 1 (" in waiting.splitlines()[-1]
        assert "which is waiting for the data of step 4" in waiting.splitlines()[-1]
        assert "rank 1 of 2 has been waiting for the data of step 4" in hung.splitlines()[-1]
        assert "in together" in (tmp_path / "stacks-rank0.txt").read_text()

    def test_telling_where_the_loop_is_takes_less_than_a_microsecond(self, tmp_path: Path) -> None:
        words = (
            "import timeit; from pathlib import Path; from genobj.training.health import HealthSettings; "
            "from genobj.training.ranks import Ranks; from genobj.training.watchdog import Watchdog\n"
            f"with Watchdog(Path({str(tmp_path)!r}), HealthSettings(), Ranks()) as dog:\n"
            "    print(min(timeit.repeat(lambda: dog.at('data', 7), number=20_000, repeat=9)) / 20_000)"
        )
        out = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True).stdout
        assert float(out) < 1e-6
