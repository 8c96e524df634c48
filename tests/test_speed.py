"""The loop stays close to raw compute (DESIGN.md section 8): ratios within one process, never absolute times."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _benchmark() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "loop_overhead.py"
    spec = importlib.util.spec_from_file_location("loop_overhead", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "mlp256", "mlp64"])
def test_loop_over_raw_compute(name: str) -> None:
    """Medians of interleaved rounds; a neighbour on this machine may spoil a try, so the best of four counts."""
    benchmark = _benchmark()
    ratios: list[float] = []
    for _ in range(4):
        ratios.append(benchmark.measure(name, rounds=7))
        if ratios[-1] <= benchmark.BARS[name]:
            return
    raise AssertionError(f"{name}: loop / raw compute = {min(ratios):.2f}, the bar is {benchmark.BARS[name]}")
