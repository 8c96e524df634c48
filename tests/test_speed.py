"""The loop stays close to raw compute (DESIGN.md section 8): ratios within one process, never absolute times."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BARS = {"dit": 1.10, "mlp256": 1.25, "mlp64": 1.9}
NEIGHBOUR = 1.06
"""What a neighbour (here: the other half of the tests) may add to a ratio by using the same caches."""


def _ratio(name: str) -> float:
    """In a process of its own: the shape checks of this one would be timed with the loop."""
    return _told(r"loop / raw = ([\d.]+)", "loop_overhead.py", "--rounds", "11", "--case", name)


def _told(pattern: str, benchmark: str, *options: str) -> float:
    command = [sys.executable, str(BENCHMARKS / benchmark), *options]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(pattern, told)
    assert found is not None, told
    return float(found.group(1))


def test_the_benchmark_of_the_loop_runs() -> None:
    """The faster sibling of the next one: no bar, a single round."""
    assert _told(r"loop / raw = ([\d.]+)", "loop_overhead.py", "--rounds", "1", "--case", "mlp64") > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", BARS)
def test_loop_over_raw_compute(name: str) -> None:
    """Medians of interleaved rounds; a neighbour on this machine may spoil a try, so the best of six counts."""
    ratios: list[float] = []
    for _ in range(6):
        ratios.append(_ratio(name))
        if ratios[-1] <= BARS[name] * NEIGHBOUR:
            return
    raise AssertionError(f"{name}: loop / raw compute = {min(ratios):.2f}, the bar is {BARS[name]} on a quiet machine")


@pytest.mark.slow
def test_single_branch_meanflow_over_dumo() -> None:
    """1 + 4 passes against 1 + 3: the count says 7/6. A neighbour may spoil a try."""
    ratios: list[float] = []
    for _ in range(4):
        ratios.append(_told(r"MeanFlow  .*DuMo = ([\d.]+)", "meanflow_over_dumo.py", "--rounds", "9"))
        if 1.12 <= ratios[-1] <= 1.20:
            return
    raise AssertionError(f"MeanFlow's step over DuMo's is {ratios}, not between 1.12 and 1.20")


PRACTICES = {
    ("ucgm", "dit64", "central"): 1.0,
    ("ucgm", "mlp64", "central"): 1.3,
    ("zhuyu", "dit64", "tangent"): 1.3,
    ("py-meanflow", "dit64", "tangent"): 1.15,
}
"""How many times as long as ours a step in the manner of others takes at least, on this net with our derivative."""


@pytest.fixture
def practice(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/reference_practice.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("reference_practice")


@pytest.mark.parametrize("net", ["mlp64", "dit64"])
@pytest.mark.parametrize("name", ["ucgm", "zhuyu", "py-meanflow"])
def test_practices_compute_what_we_do(practice: ModuleType, name: str, net: str) -> None:
    """The same loss and gradient on one draw, with the derivative taken their way; without one it is another loss."""
    theirs = practice.PRACTICES[name]
    e = practice.experiment(theirs, net, theirs.method, 16)
    rows = practice.table(e)
    baseline = theirs(practice.network(e), rows, 16)
    assert max(practice.difference(baseline, e, rows)) < practice.allowed(theirs, theirs.method)
    objectives = e.tree()["objectives"]
    for table in objectives.values():
        if "derivative" in table:
            table["derivative"]["clamp"] = 1e-12
    without = type(e).model_validate(e.tree() | {"objectives": objectives})
    assert practice.difference(baseline, without, rows)[1] > 10 * practice.allowed(theirs, theirs.method)


@pytest.mark.parametrize("name", ["ucgm", "zhuyu", "py-meanflow"])
def test_practices_train(practice: ModuleType, name: str) -> None:
    theirs = practice.PRACTICES[name]
    e = practice.experiment(theirs, "mlp64", theirs.method, 16)
    net, rows = practice.network(e), practice.table(e)
    before = [p.detach().clone() for p in net.parameters()]
    baseline = theirs(net, rows, 16)
    baseline.go(theirs.period)
    assert all((p != old).any() for p, old in zip(net.parameters(), before, strict=True))
    averaged = baseline.averaged[0.9999] if name == "py-meanflow" else baseline.averaged
    assert any((p != old).any() for p, old in zip(averaged.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "net", "method"), PRACTICES)
def test_against_common_practice(name: str, net: str, method: str) -> None:
    """Medians of interleaved rounds; a neighbour on this machine may spoil a try, so the best of four counts."""
    words = ("--practice", name, "--net", net, "--method", method, "--rounds", "7")
    ratios: list[float] = []
    for _ in range(4):
        ratios.append(_told(r"theirs / ours = ([\d.]+)", "reference_practice.py", *words))
        if ratios[-1] >= PRACTICES[name, net, method]:
            return
    raise AssertionError(
        f"{name}, {net}, {method}: theirs / ours = {ratios}, the bar is {PRACTICES[name, net, method]}"
    )
