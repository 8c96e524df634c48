"""Metric fixtures: README.md beside this file gives the formulas, float64 throughout."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genobj.data.base import Batch
from genobj.metrics.features import Seen
from genobj.metrics.frechet import frechet_distance, moments
from genobj.metrics.inception_score import inception_score
from genobj.metrics.kid import kernel_distance
from genobj.metrics.mmd import MMD
from genobj.metrics.prdc import PRDC
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


def inception(case: Case) -> dict[str, float]:
    mean, std = inception_score(case.arrays["logits"], int(case.arrays["splits"]), shuffle=False)
    return {"mean": mean, "std": std}


def kid(case: Case) -> dict[str, float]:
    return dict.fromkeys(case.group("expected"), kernel_distance(case.arrays["X"], case.arrays["Y"]))


def precision_recall(case: Case) -> dict[str, float]:
    """torch-fidelity gives shares in float32, and an f_score that follows from them."""
    metric = PRDC(neighbours=int(case.arrays["k"]))
    mine, theirs = (Seen(len(case.arrays[key]), features=case.arrays[key]) for key in ("generated", "real"))
    found = metric.values(mine, theirs, 0)
    precision, recall = (float(torch.tensor(found[key])) for key in ("precision", "recall"))
    return {"precision": precision, "recall": recall, "f_score": 2 * precision * recall / (precision + recall)}


WAYS: dict[str, Callable[[Case], dict[str, float]]] = {
    "mmd_rbf": mmd,
    "frechet_distance": frechet,
    "inception_score": inception,
    "kid_poly3_unbiased": kid,
    "precision_recall_knn": precision_recall,
}


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
