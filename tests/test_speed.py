"""The loop stays close to raw compute (DESIGN.md section 8): ratios within one process, never absolute times."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BARS = {"dit": 1.10, "mlp256": 1.25, "mlp64": 1.9}


def _ratio(name: str) -> float:
    """In a process of its own: the shape checks of this one would be timed with the loop."""
    return _told(r"loop / raw = ([\d.]+)", "loop_overhead.py", "--rounds", "11", "--case", name)


def _told(pattern: str, benchmark: str, *options: str) -> float:
    command = [sys.executable, str(BENCHMARKS / benchmark), *options]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(pattern, told)
    assert found is not None, told
    return float(found.group(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", BARS)
def test_loop_over_raw_compute(name: str) -> None:
    """Medians of interleaved rounds; a neighbour on this machine may spoil a try, so the best of six counts."""
    ratios: list[float] = []
    for _ in range(6):
        ratios.append(_ratio(name))
        if ratios[-1] <= BARS[name]:
            return
    raise AssertionError(f"{name}: loop / raw compute = {min(ratios):.2f}, the bar is {BARS[name]}")


@pytest.mark.slow
def test_single_branch_meanflow_over_dumo() -> None:
    """1 + 4 passes against 1 + 3: the count says 7/6. A neighbour may spoil a try."""
    ratios: list[float] = []
    for _ in range(4):
        ratios.append(_told(r"MeanFlow  .*DuMo = ([\d.]+)", "meanflow_over_dumo.py", "--rounds", "9"))
        if 1.12 <= ratios[-1] <= 1.20:
            return
    raise AssertionError(f"MeanFlow's step over DuMo's is {ratios}, not between 1.12 and 1.20")
