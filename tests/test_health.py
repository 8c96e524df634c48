"""The health of a run: bad steps, spikes and means over processes, going back, and disks that refuse."""

import errno
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from genobj.composer import Loss
from genobj.experiment import Experiment
from genobj.passes import Count
from genobj.training import rollback
from genobj.training.averages import EMA, Averages
from genobj.training.disk import explained, naming
from genobj.training.health import BLOCK, MEMORY, STEADY, Diverged, Health
from genobj.training.log import COLUMNS, Log, Logger
from genobj.training.optim import Optim
from genobj.training.ranks import Ranks
from genobj.training.state import State

CPU = torch.device("cpu")


def loss(total: float, fm: float = 1.0, cm: float = 1.0) -> Loss:
    terms = {"fm": torch.tensor(fm), "cm": torch.tensor(cm)}
    return Loss(torch.tensor(total, requires_grad=True) * 1.0, terms, Count(), {})


def health(patience: int = 5, **more: Any) -> Health:
    return Health(["fm", "cm"], CPU, patience, **more)


def fed(watcher: Health, totals: Sequence[float], norms: Sequence[float] | None = None) -> Health:
    for total, norm in zip(totals, norms or [1.0] * len(totals), strict=True):
        watcher.watch([loss(total)], torch.tensor(norm))
    return watcher


class Ops(TorchDispatchMode):
    """Names of the tensor operations below."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class TestBadSteps:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", ["total", "fm", "norm"])
    def test_anything_that_is_not_finite_asks_to_skip(self, value: float, where: str) -> None:
        numbers = {"total": 1.0, "fm": 1.0, "norm": 1.0} | {where: value}
        bad = health().watch([loss(numbers["total"], numbers["fm"])], torch.tensor(numbers["norm"]))
        assert (bad.item(), bad.dtype, bad.shape) == (1.0, torch.float32, torch.Size([]))

    def test_what_is_only_shown_is_not_judged(self) -> None:
        watcher = health(1, notes=["cm.part"])
        for part in (math.nan, math.inf, -math.inf, 1.0):
            noted = loss(1.0)._replace(notes={"cm.part": torch.tensor(part)})
            assert watcher.watch([noted], torch.tensor(2.0)).item() == 0.0
        said = watcher.read(4)
        assert (said["loss"], said["cm"], said["gradient"]) == (1.0, 1.0, 2.0)
        assert math.isnan(said["cm.part"])
        assert "skipped" not in said
        watcher.watch([loss(1.0)._replace(notes={"cm.part": torch.tensor(3.0)})], torch.tensor(2.0))
        assert watcher.read(5)["cm.part"] == 3.0

    def test_large_numbers_are_finite(self) -> None:
        """Their sum is not."""
        assert health().watch([loss(3e38, 3e38, 3e38)], torch.tensor(3e38)).item() == 0.0

    def test_one_bad_micro_batch_is_enough(self) -> None:
        assert health().watch([loss(1.0), loss(math.nan), loss(1.0)], torch.tensor(1.0)).item() == 1.0

    def test_a_step_costs_three_operations_and_never_waits(self) -> None:
        watcher, one, norm = health(), loss(1.0), torch.tensor(1.0)
        with Ops() as ops:
            for _ in range(10):
                watcher.watch([one], norm)
        assert sorted(set(ops.names)) == [
            "aten.detach.default",
            "aten.dot.default",
            "aten.ne_.Tensor",
            "aten.stack.default",
        ]
        assert len(ops.names) == 40

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_gpu_is_never_waited_for(self) -> None:
        device = torch.device("cuda")
        watcher, norm = Health(["fm"], device, 5), torch.ones((), device=device)
        one = Loss(torch.ones((), device=device), {"fm": torch.ones((), device=device)}, Count(), {})
        torch.cuda.set_sync_debug_mode("error")
        try:
            bads = [watcher.watch([one], norm * value) for value in [1.0] * (BLOCK + 5) + [math.nan, math.inf]]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [bad.item() for bad in bads[-3:]] == [0, 1, 1]
        assert watcher.read(BLOCK + 7)["skipped"] == 2

    def test_it_stops_and_names_what_was_bad_last(self) -> None:
        watcher = health(patience=3)
        watcher.watch([loss(1.0, fm=math.nan)], torch.tensor(1.0))
        for _ in range(2):
            fed(watcher, [1.0])
        for _ in range(3):
            watcher.watch([loss(math.nan, cm=math.inf)], torch.tensor(math.nan))
        with pytest.raises(
            Diverged, match=r"^step 6: cm, gradient not finite for 3 steps in a row; .*health.rollback=1"
        ):
            watcher.read(6)

    def test_the_loss_itself_is_named_if_nothing_else_is_bad(self) -> None:
        with pytest.raises(Diverged, match="step 1: loss not finite"):
            fed(health(patience=1), [math.inf]).read(1)

    def test_bad_steps_add_up_over_lines_until_a_good_one(self) -> None:
        watcher = fed(health(patience=4), [math.nan] * 3)
        watcher.read(3)
        fed(watcher, [1.0, math.nan, math.nan, math.nan]).read(7)
        with pytest.raises(Diverged, match="for 4 steps in a row"):
            fed(watcher, [math.nan]).read(8)


class TestLines:
    def test_means_and_extremes_are_over_the_good_steps(self) -> None:
        said = fed(health(), [1.0, math.nan, 4.0, 1.0], [3.0, 1.0, 1.0, 2.0]).read(4)
        assert said == {
            "loss": 2.0,
            "fm": 1.0,
            "cm": 1.0,
            "gradient": 2.0,
            "loss_min": 1.0,
            "loss_max": 4.0,
            "gradient_max": 3.0,
            "skipped": 1,
        }

    def test_micro_batches_are_averaged(self) -> None:
        watcher = health()
        watcher.watch([loss(1.0, fm=2.0), loss(3.0, fm=6.0)], torch.tensor(5.0))
        assert watcher.read(1) == {"loss": 2.0, "fm": 4.0, "cm": 1.0, "gradient": 5.0}

    def test_a_line_without_a_good_step_has_no_loss(self) -> None:
        said = fed(health(), [math.nan, math.nan]).read(2)
        assert math.isnan(said.pop("loss"))
        assert said["skipped"] == 2
        assert not said.keys() & {"loss_min", "loss_max", "gradient_max"}

    def test_all_keys_are_reserved(self) -> None:
        said = fed(health(), [*[1.0] * 30, 50.0, math.nan]).read(32)
        assert {"skipped", "spikes", "spike_step", "loss_max"} <= said.keys() <= COLUMNS | {"fm", "cm"}

    def test_many_steps_without_a_line_are_kept_in_blocks(self) -> None:
        count = 2 * BLOCK + 7
        watcher = fed(health(), [float(number) for number in range(count)])
        assert len(watcher._rows) == 7
        assert [len(block) for block in watcher._blocks] == [BLOCK, BLOCK]
        said = watcher.read(count)
        assert (said["loss"], said["loss_max"]) == ((count - 1) / 2, count - 1)
        assert fed(watcher, [3.0]).read(count + 1)["loss"] == 3.0

    @pytest.mark.parametrize("totals", [[1.0, 2.0, math.nan], [1.0] * 30 + [99.0], [1.0]])
    def test_asking_whether_it_is_sound_forgets_nothing(self, totals: list[float]) -> None:
        asked, silent = health(), health()
        for step, total in enumerate(totals, 1):
            fed(silent, [total])
            assert fed(asked, [total]).sound(step) == math.isfinite(total)
        assert asked.read(len(totals)) == silent.read(len(totals))


class TestSpikes:
    def test_a_spike_is_counted_and_the_largest_named(self) -> None:
        norms = [1.0] * 40
        norms[25], norms[30] = 20.0, 30.0
        said = fed(health(), [1.0] * 40, norms).read(40)
        assert (said["spikes"], said["spike_step"]) == (2, 31)
        assert "spikes" not in fed(health(spike=50.0), [1.0] * 40, norms).read(40)

    def test_what_is_usual_outlives_a_line(self) -> None:
        watcher = health()
        for step in range(1, 31):
            assert "spikes" not in fed(watcher, [1.0]).read(step)
        said = fed(watcher, [11.0]).read(31)
        assert (said["spikes"], said["spike_step"]) == (1, 31)
        assert "spikes" not in fed(watcher, [1.0]).read(32)

    def test_the_start_of_a_run_and_a_falling_loss_are_no_spikes(self) -> None:
        start = [1.0, 1000.0] * (STEADY // 2)
        assert "spikes" not in fed(health(), start).read(STEADY)
        assert "spikes" not in fed(health(), [1e4 * 0.9**step for step in range(200)]).read(200)

    def test_a_new_level_becomes_usual(self) -> None:
        watcher = fed(health(), [1.0] * 200 + [100.0] * 3 * MEMORY)
        watcher.read(200 + 3 * MEMORY)
        assert "spikes" not in fed(watcher, [100.0] * 10).read(210 + 3 * MEMORY)

    def test_losses_below_zero_have_a_size_too(self) -> None:
        said = fed(health(), [-1.0] * 40 + [-50.0, 50.0, -2.0]).read(43)
        assert said["spikes"] == 2

    def test_skipped_steps_are_no_spikes(self) -> None:
        assert "spikes" not in fed(health(), [1.0] * 40 + [math.inf]).read(41)


TWO = """
import sys, torch, torch.distributed as dist
from genobj.composer import Loss
from genobj.experiment import Experiment
from genobj.passes import Count
from genobj.training.health import Diverged, Health
from genobj.training.ranks import Ranks

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
ranks = Ranks(rank, 2)
health = Health(["fm"], torch.device("cpu"), 2, over_ranks=ranks.mean)

def step(mine):
    bad = health.watch([Loss(torch.tensor(mine), {"fm": torch.tensor(mine)}, Count(), {})], torch.tensor(5.0))
    dist.all_reduce(bad, dist.ReduceOp.MAX)
    return bad.item()

print([step(float(2 * rank + n)) for n in range(3)], health.read(3))
print([step(float("nan") if rank else 1.0) for n in range(2)], health.sound(5))
try:
    health.read(5)
except Diverged as error:
    print(str(error).partition(";")[0])
dist.destroy_process_group()
"""


def test_two_processes_skip_alike_and_log_the_mean(tmp_path: Path) -> None:
    """A loss that is bad on one process only, with a finite gradient."""
    command = [sys.executable, "-W", "error", "-c", TWO]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    told = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert told[0] == told[1]
    means = {"loss": 2.0, "fm": 2.0, "gradient": 5.0, "loss_min": 1.0, "loss_max": 3.0, "gradient_max": 5.0}
    assert told[0][0] == f"[0.0, 0.0, 0.0] {means}"
    assert told[0][1] == "[1.0, 1.0] False"
    assert told[0][2] == "step 5: fm not finite for 2 steps in a row"


def state_of(value: float, step: int = 0) -> State:
    """All weights are `value`."""
    experiment = Experiment.model_validate({"backbone": {"kind": "mlp", "width": 4, "depth": 1}})
    model = experiment.model_settings().build()
    set_weights(model, value)
    return State(model, Averages(model, EMA()), Optim().build(model), step, 10 * step)


def set_weights(model: nn.Module, value: float) -> None:
    for p in model.parameters():
        nn.init.constant_(p, value)


def weight(state: State) -> float:
    return next(state.model.parameters()).flatten()[0].item()


class TestRollback:
    """With checkpoints that are a number: the value of all weights."""

    def _folder(self, path: Path, saved: dict[int, float]) -> Path:
        for step, value in saved.items():
            (path / f"checkpoints/step_{step:08d}").mkdir(parents=True)
            (path / f"checkpoints/step_{step:08d}/weight").write_text(str(value))
        return path

    def _go_back(self, folder: Path, state: State, allowed: int = 1) -> None:
        def load(step: int) -> None:
            value = float((folder / f"checkpoints/step_{step:08d}/weight").read_text())
            set_weights(state.model, value)
            state.step, state.seen = step, 10 * step

        def save() -> None:
            self._folder(folder, {state.step: weight(state)})

        rollback.go_back(folder, state, Diverged("step 37: cm not finite"), allowed, load, save, Ranks())

    def test_weights_go_back_and_the_data_go_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder, state = self._folder(tmp_path, {10: 1.0, 20: 2.0}), state_of(7.0, step=37)
        with caplog.at_level(logging.WARNING, "genobj"):
            self._go_back(folder, state)
        assert (state.step, state.seen, weight(state)) == (37, 370, 2.0)
        assert (folder / "checkpoints/step_00000037/weight").read_text() == "2.0"
        line = {"step": 37, "seen": 370, "to": 20, "why": "step 37: cm not finite"}
        assert [json.loads(text) for text in (folder / rollback.LOG).read_text().splitlines()] == [line]
        assert caplog.messages == [
            f"step 37: cm not finite; went back to {folder}/checkpoints/step_00000020 and on after step 37: "
            "rollback 1 of 1"
        ]

    def test_weights_that_are_not_finite_are_passed_over(self, tmp_path: Path) -> None:
        folder, state = self._folder(tmp_path, {10: 1.0, 20: math.inf, 30: math.nan}), state_of(7.0, step=37)
        self._go_back(folder, state)
        assert weight(state) == 1.0

    def test_as_often_as_allowed(self, tmp_path: Path) -> None:
        folder = self._folder(tmp_path, {10: 1.0})
        for step in (37, 38):
            self._go_back(folder, state_of(7.0, step), allowed=2)
        with pytest.raises(Diverged, match="cm not finite; 2 rollbacks did not help"):
            self._go_back(folder, state_of(7.0, step=39), allowed=2)

    @pytest.mark.parametrize(("saved", "allowed"), [({10: 1.0}, 0), ({}, 3)])
    def test_the_run_stops_as_before_where_it_cannot_go_back(
        self, tmp_path: Path, saved: dict[int, float], allowed: int
    ) -> None:
        with pytest.raises(Diverged, match=r"^step 37: cm not finite$"):
            self._go_back(self._folder(tmp_path, saved), state_of(7.0, step=37), allowed)
        assert rollback.count(tmp_path) == 0

    def test_no_finite_weights_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(Diverged, match="has finite weights to go back to"):
            self._go_back(self._folder(tmp_path, {10: math.nan}), state_of(7.0, step=37))


def refusing(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))


class TestDisk:
    @pytest.mark.parametrize(
        ("number", "remedy"),
        [
            (errno.ENOSPC, "No space left on device.* Free some space and go on"),
            (errno.EDQUOT, "quota.* Free some of the quota and go on"),
            (errno.EROFS, "Read-only file system.* Make the disk writable and go on"),
            (errno.EACCES, "Permission denied.* Make it writable and go on"),
            (errno.EFBIG, r"File too large.* \(ulimit -f\) and go on"),
            (errno.EIO, "Input/output error.* See to that and go on"),
        ],
    )
    def test_what_is_said(self, tmp_path: Path, number: int, remedy: str) -> None:
        last = tmp_path / "checkpoints/step_00000020"
        last.mkdir(parents=True)
        half = tmp_path / "checkpoints/.step_00000030.77"
        half.mkdir()
        with pytest.raises(OSError, match=remedy) as caught, explained(tmp_path), naming(tmp_path / "metrics.jsonl"):
            raise refusing(number)
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")
        assert f"the checkpoint {last} is whole" in str(caught.value.strerror)
        assert str(caught.value.strerror).endswith(f"genobj train --resume {tmp_path}")
        assert last.exists()
        assert half.exists()  # somebody may still be writing it

    def test_before_the_first_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="no checkpoint was saved yet") as caught, explained(tmp_path):
            raise refusing(errno.ENOSPC)
        assert caught.value.filename == str(tmp_path)

    def test_a_name_that_is_known_stays(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No space") as caught, explained(tmp_path), naming(tmp_path / "here"):
            raise refusing(errno.ENOSPC, "there")
        assert caught.value.filename == "there"

    def test_what_safetensors_says(self, tmp_path: Path) -> None:
        told = "model.safetensors cannot be written: I/O error: No space left on device (os error 28)"
        with pytest.raises(OSError, match=r"\(os error 28\); no checkpoint .* Free some space"), explained(tmp_path):
            raise OSError(told)

    def test_other_errors_pass(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="as it was"), explained(tmp_path), naming(tmp_path):
            raise ValueError("as it was")

    def test_a_log_that_cannot_be_written_names_its_file(self, tmp_path: Path) -> None:
        logger = Logger(tmp_path, Log())
        logger.file.close()
        logger.file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        with pytest.raises(OSError, match="No space left") as caught:
            logger(state_of(1.0, step=3), {"loss": 1.0})
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")
        logger.close()  # and does not fail once more

    def test_a_nearly_full_disk_takes_a_part_of_a_line(self, tmp_path: Path) -> None:
        logger, parts = Logger(tmp_path, Log()), []

        class Slow:
            def write(self, data: bytes) -> int:
                parts.append(data[:7])
                return len(parts[-1])

        logger.file.close()
        logger.file = cast(Any, Slow())
        logger(state_of(1.0, step=3), {"loss": 0.25})
        assert json.loads(b"".join(parts)) == {"step": 3, "seen": 30, "loss": 0.25, "lr": 0.001, "seconds": 0.0}

    def test_lines_are_json_even_without_a_loss(self, tmp_path: Path) -> None:
        logger = Logger(tmp_path, Log())
        logger(state_of(1.0, step=3), {"loss": math.nan, "gradient": math.inf, "skipped": 2})
        logger.close()
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()

        def refuse(word: str) -> None:
            raise AssertionError(word)

        assert json.loads(line, parse_constant=refuse) | {"loss": None, "gradient": None, "skipped": 2} == json.loads(
            line
        )
