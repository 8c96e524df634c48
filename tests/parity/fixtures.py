"""Reads the parity fixtures (see README.md beside this file) and builds the small network that they are written for.

The folder is this one, or whatever GENOBJ_PARITY names: any folder of the same format can be run through the tests.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("GENOBJ_PARITY", Path(__file__).parent))


if not any((FOLDER / "cases").glob("*.json")):
    raise FileNotFoundError(f"{FOLDER} holds no fixtures (cases/*.json); GENOBJ_PARITY must name a folder that does")


class Case(NamedTuple):
    name: str
    info: dict[str, Any]
    arrays: dict[str, Tensor]

    @property
    def options(self) -> dict[str, Any]:
        return self.info["options"]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Arrays below 'prefix/', without the prefix; floats are float64."""
        return {
            key.removeprefix(f"{prefix}/"): value for key, value in self.arrays.items() if key.startswith(f"{prefix}/")
        }


def names(kind: str, *families: str) -> list[str]:
    """Names of the cases of this kind ('objective' or 'sampler') in these families (all if none is given)."""
    found = [json.loads(path.read_text()) for path in sorted((FOLDER / "cases").glob("*.json"))]
    return [case["name"] for case in found if case["kind"] == kind and (not families or case["family"] in families)]


@cache
def load(name: str, folder: str = "cases") -> Case:
    """One fixture of cases/, backbones/ or metrics/."""
    info = json.loads((FOLDER / folder / f"{name}.json").read_text())
    with np.load(FOLDER / folder / f"{name}.npz") as file:
        return Case(name, info, {key: torch.from_numpy(np.asarray(file[key])) for key in file.files})


class TanhNetwork(torch.nn.Module):
    """The network of README.md in float64: heads are named u and v, r is seen iff the fixture has Wr."""

    def __init__(self, weights: dict[str, Tensor], shape: tuple[int, ...], horizons: dict[str, Any]):
        super().__init__()
        self.weights = torch.nn.ParameterDict({k: torch.nn.Parameter(v.double()) for k, v in weights.items()})
        self.shape, self.horizons = shape, horizons
        self.sees_r = frozenset(horizons) if "Wr" in weights else frozenset()
        self.fed = 100.0 * ("Wg" in weights)

    def forward(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        w = self.weights
        label = torch.full((len(x_t),), 10) if y is None else y
        a = x_t.flatten(1) @ w["Wx"].T + w["b1"] + _phi(t) @ w["Wt"].T + w["E"][label]
        if self.sees_r:
            assert r is not None, "this network is fed r"
            a = a + _phi(t - r) @ w["Wr"].T
        if self.fed:
            assert g is not None, "this network is fed guidance"
            a = a + torch.cat([g[:, :1].log(), g[:, 1:]], dim=1) @ w["Wg"].T
        hidden = torch.tanh(torch.tanh(a) @ w["W2"].T + w["b2"])
        return {
            head: (hidden @ w[f"W{head}"].T + w[f"b{head}"]).reshape(x_t.shape)
            for head in ("u", "v")
            if f"W{head}" in w and head in self.horizons
        }


def _phi(s: Tensor) -> Tensor:
    return torch.stack([s, torch.sin(2.1 * s), torch.cos(1.3 * s)], dim=1)


def check(name: str, got: Tensor, expected: Tensor, rtol: float) -> None:
    """max|a - b| <= rtol max|b|, the rule of README.md; what must be zero is zero."""
    got, expected = got.detach().double(), expected.double()
    assert got.shape == expected.shape, f"{name}: shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
    gap, scale = (got - expected).abs().max().item(), expected.abs().max().item()
    assert gap <= rtol * scale, f"{name}: differs by {gap:.3e} where {rtol * scale:.3e} is allowed"


def ect(case: Case, inner: Tensor, dtype: torch.dtype) -> Tensor:
    """ECT's denoiser in its boundary form, from what the network inside EDM's preconditioning says."""
    x, sigma = case.arrays["x"].to(dtype), case.arrays["sigma"].to(dtype)[:, None, None, None]
    norm = (sigma**2 + 0.25).sqrt()
    return 0.25 / ((sigma - 0.003) ** 2 + 0.25) * x + (sigma - 0.003) * 0.5 / norm * inner


def skip(reason: str) -> None:
    """Leave a fixture out, saying why."""
    pytest.skip(reason)
