"""Metric fixtures: README.md beside this file gives the formulas, float64 throughout."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genobj.data.base import Batch
from genobj.metrics.frechet import frechet_distance, moments
from genobj.metrics.mmd import MMD
from tests.parity import fixtures
from tests.parity.fixtures import Case

RTOL = 1e-9
NAMES = sorted(path.stem for path in (fixtures.FOLDER / "metrics").glob("*.json"))


def mmd(case: Case) -> dict[str, float]:
    bandwidths = tuple(case.arrays["bandwidths"].tolist())
    x, y = Batch(case.arrays["X"], None), Batch(case.arrays["Y"], None)
    return {
        f"mmd2_{kind}": MMD(bandwidths=bandwidths, biased=kind == "biased")(x, y, 0) for kind in ("biased", "unbiased")
    }


def frechet(case: Case) -> dict[str, float]:
    value = frechet_distance(*moments(case.arrays["X"]), *moments(case.arrays["Y"]))
    return dict.fromkeys(case.group("expected"), value)


WAYS: dict[str, Callable[[Case], dict[str, float]]] = {"mmd_rbf": mmd, "frechet_distance": frechet}


@pytest.mark.parametrize("name", NAMES)
def test_metric(name: str) -> None:
    metric = json.loads((fixtures.FOLDER / "metrics" / f"{name}.json").read_text())["metric"]
    if metric not in WAYS:
        fixtures.skip(f"metric {metric} is not registered yet")
    case = fixtures.load(name, "metrics")
    expected: dict[str, Tensor] = case.group("expected")
    found = WAYS[metric](case)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        fixtures.check(key, torch.tensor(found[key], dtype=torch.float64), value, RTOL)
