"""genobj bench: what it says adds up, nothing is written, and what cannot be run here is refused with a way out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genobj.bench import PARTS, Report, Spread, Timed, Timeline, matmul_rate, measure, peak_memory, ratio, too_much
from genobj.cli.main import run
from genobj.cost import measure as cost
from genobj.experiment import Experiment

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def experiment(**more: Any) -> Experiment:
    tree = {
        "backbone": {"kind": "mlp", "width": 16, "depth": 2},
        "objectives": {"fm": {}, "cm": {}},
        "train": {"steps": 1, "batch": 8, "device": "cpu"},
    }
    return Experiment.model_validate({**tree, **more})


def busy(seconds: tuple[float, ...]) -> Report:
    """A report of these rounds."""
    passes = cost(experiment()).passes
    return Report("run", {}, 8, 2, seconds, seconds, passes, 1, 1000, 1e6, dict.fromkeys(PARTS, 0.1), None)


def test_a_report_adds_up() -> None:
    e = experiment()
    (report,) = measure({"moons": e}, rounds=3, steps=2)
    told = json.loads(json.dumps(report.as_dict()))
    assert (told["rounds"], told["steps_per_round"], told["batch"], told["device"]) == (3, 2, 8, "cpu")
    assert told["passes"] == {"with_gradient": 1.0, "without_gradient": 2.0, "tangent": 0.0, "teacher": 0.0}
    assert told["flops_per_step"] == cost(e).flops, "counted as it runs and on empty tensors: the same"
    assert list(told["split"]) == list(PARTS)
    assert sum(told["split"].values()) == pytest.approx(1)
    assert all(seconds > 0 for seconds in told["split_seconds"].values()), told["split_seconds"]
    assert told["seconds_per_step"]["low"] <= told["seconds_per_step"]["median"] <= told["seconds_per_step"]["high"]
    assert told["samples_per_second"] == pytest.approx(8 * told["steps_per_second"])
    assert 0 < told["utilisation"] < 1
    assert told["peak_memory"] == peak_memory(CPU) or told["peak_memory"] < (peak_memory(CPU) or 0)


def test_rounds_are_interleaved_and_everybody_is_told() -> None:
    lines: list[str] = []
    reports = measure({"a": experiment(), "b": experiment(seed=1)}, rounds=2, steps=1, show=lines.append)
    assert [line for line in lines if "round" in line] == [f"{n}: round {i} of 2" for i in (1, 2) for n in ("a", "b")]
    assert [report.name for report in reports] == ["a", "b"]


def test_the_ratio_is_that_of_the_medians_with_the_quartiles_of_the_rounds() -> None:
    found = ratio(busy((2.0, 4.0, 6.0)), busy((1.0, 2.0, 2.0)))
    assert found == Spread(2.0, 2.0, 2.5)
    assert busy((2.0, 2.0)).utilisation == pytest.approx(1000 / 2 / 1e6)


def test_micro_batches_are_all_counted() -> None:
    train = {"steps": 1, "batch": 8, "device": "cpu"}
    whole, halves = (
        Timed("run", experiment(train=train | {"micro_batch": micro}), 1e9, 1).flops for micro in (None, 4)
    )
    assert whole == halves


def test_time_within_a_part_is_not_counted_twice() -> None:
    ticks = iter(range(100))
    line = Timeline(CPU, lambda: float(next(ticks)))

    class Work:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            return None

    work = Work()
    with line.watch((work, "outer", "data"), (work, "inner", "optimizer")):
        work.outer()
    assert work.outer.__func__ is Work.outer, "what was watched is as it was"  # type: ignore[attr-defined]
    found = {name: seconds for name, seconds in line.seconds().items() if seconds}
    assert found == {"rest": 2.0, "data": 2.0, "optimizer": 1.0}  # a mark a second: rest, data, optimizer, data, rest


def test_what_is_watched_is_restored_even_if_it_fails() -> None:
    from genobj.passes import StepPasses

    def fail() -> None:
        with Timeline(CPU, lambda: 0.0).watch((StepPasses, "__call__", "data")):
            assert StepPasses.__call__ is not before
            raise RuntimeError("stop")

    before = StepPasses.__call__
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert StepPasses.__call__ is before


def test_a_matrix_product_has_a_rate() -> None:
    assert 1e8 < matmul_rate(CPU, "float32") < 1e14


@pytest.mark.parametrize("method", ["central", "jvp"])
def test_tangents_and_averages_are_timed_too(method: str) -> None:
    objectives = {"fm": {}, "cm": {"derivative": {"method": method, "weights": "ema"}}}
    (report,) = measure({"run": experiment(objectives=objectives)}, rounds=1, steps=1)
    assert report.parts["passes without gradient"] > 0
    assert bool(report.passes.tangent) == (method == "jvp")


def test_what_takes_too_long_is_refused_with_what_to_type() -> None:
    e = experiment(train={"steps": 1, "batch": 4096, "device": "cpu"})
    told = too_much(e, CPU, 1e6, 9, 60.0)
    assert told is not None
    assert "type train.batch=" in told
    batch = int(told.split("train.batch=")[1].split(",")[0])
    smaller = experiment(train={"steps": 1, "batch": batch, "device": "cpu"})
    assert too_much(smaller, CPU, 1e6, 9, 60.0) is None, "what it says is enough"
    assert too_much(e, CPU, 1e12, 9, 60.0) is None


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"steps": 1, "batch": 4096, "micro_batch": 2048, "device": "cpu"}
    e = experiment(train=train)
    memory = cost(e).memory
    monkeypatch.setattr("genobj.bench.memory_of", lambda device: sum(memory.values()) // 2)
    told = too_much(e, CPU, 1e12, 9, 60.0)
    assert told is not None
    assert "train.batch=1024 train.micro_batch=1024" in told or "train.batch=512 train.micro_batch=512" in told
    monkeypatch.setattr("genobj.bench.memory_of", lambda device: memory["weights"])
    assert "type a smaller backbone" in (too_much(e, CPU, 1e12, 9, 60.0) or "")


def test_the_command_prints_a_table_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", "--vs", "meanflow-moons", "--rounds", "2", "--steps", "1", "train.batch=16"]
    assert run(words) == 0
    told = capsys.readouterr().out
    for word in (
        "dumo-moons",
        "meanflow-moons",
        "steps/s",
        "utilisation",
        *PARTS,
        "times one of",
        "2 rounds of 1 steps",
    ):
        assert word in " ".join(told.split()), word
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--json", "--rounds", "1", "--steps", "1", "train.batch=16"]
    assert run([*words, "--vs-set", "objectives.cm.derivative.method=jvp"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["passes"]["tangent"] for one in told["runs"]] == [0, 1]
    assert [one["name"] for one in told["runs"]] == ["dumo-moons", "dumo-moons (2)"]
    assert told["ratio"]["low"] == told["ratio"]["median"] > 0
    assert run(words) == 0
    assert "ratio" not in json.loads(capsys.readouterr().out)


def test_a_full_size_recipe_is_refused_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("genobj.bench.memory_of", lambda device: 8 * 2**30)
    assert run(["bench", "-r", "dumo-in256-xl2", "train.device=cpu"]) == 2
    told = capsys.readouterr().err
    assert "dumo-in256-xl2 needs about" in told
    assert "type " in told


def test_noise_stands_in_for_data_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "latents", "data.sizes=[1,8,8]", "data.labels=10", "data.encoded_by=sd-vae-ft-ema"]
    words += ["--backbone", "dit-tiny", "evaluation.metrics={}", "train.batch=4"]
    assert run(["bench", "--json", "--rounds", "1", "--steps", "1", *words]) == 0, capsys.readouterr()
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert (told["batch"], told["data"]) == (4, "noise of its size")
    (own,) = measure({"moons": experiment()}, rounds=1, steps=1)
    assert own.machine["data"] == "its own"


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"steps": -1}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rounds >= 1"):
        measure({"run": experiment()}, **wrong)


def _gpu(tmp_path: Path, *skip: str) -> dict[str, Any]:
    """What benchmarks/gpu.py finds of a tiny network, in a process of its own."""
    words = [word for name in skip for word in ("--skip", name)]
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--tiny", "--out", str(out), *words]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(out.read_text())


def test_the_gpu_benchmark_runs_on_a_tiny_network(tmp_path: Path) -> None:
    told = _gpu(tmp_path, "compile", "torchrun")
    assert [name for name, one in told["found"].items() if "error" in one] == []
    assert {"DuMo dit-tiny 4 / FM dit-tiny 4", "MeanFlow dit-tiny 8 / DuMo dit-tiny 8"} <= told["ratios"].keys()


@pytest.mark.slow
def test_the_gpu_benchmark_runs_under_torchrun(tmp_path: Path) -> None:
    """All it has but compilation, which takes minutes on a CPU."""
    found = _gpu(tmp_path, "compile")["found"]
    assert {name: one["error"] for name, one in found.items() if "error" in one} == {}
