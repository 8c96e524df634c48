"""In bf16 objectives pull a network where they pull it in float32: what they divide by is larger than rounding."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genobj.composer import Composer
from genobj.experiment import Experiment
from genobj.model import Model
from genobj.objectives.any_step import AnyStep
from genobj.passes import StepPasses
from genobj.types import Draw

LAWS: dict[str, Any] = {"twinflow": "twin", "imm": "grouped", "rcgm": "below"}
ALONE = [
    "fm",
    "cm",
    "mf",
    "imf",
    "sc",
    "split",
    "alphaflow",
    "soflow",
    "ct",
    "ict",
    "ect",
    "scm",
    "facm",
    "ucgm",
    "rcgm",
    "twinflow",
    "imm",
]
"""Objectives that need no other one."""
SORTED = {"kind": "sorted", "equal_share": 0.25}


def asked(objective: str, precision: str, **settings: Any) -> tuple[Composer, Model, Draw]:
    """A network whose layers are not zero, and a batch at the end of all schedules."""
    tree = {
        "objectives": {objective: settings},
        "pairs": LAWS.get(objective, SORTED),
        "backbone": {"kind": "mlp", "width": 64, "depth": 2},
        "train": {"batch": 32, "precision": precision},
    }
    experiment = Experiment.model_validate(tree)
    model, composer = experiment.model_settings().build(), experiment.composer()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    return composer, model, composer.draw(x, None, torch.Generator().manual_seed(0), progress=1.0)


def pull(objective: str, precision: str) -> Tensor:
    """The gradient of all weights."""
    composer, model, draw = asked(objective, precision)
    composer.loss(dict.fromkeys(("online", "ema"), model), draw).total.backward()  # type: ignore[arg-type]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("objective", ALONE)
def test_bf16_pulls_where_float32_pulls(objective: str) -> None:
    exact, low = pull(objective, "float32"), pull(objective, "bf16")
    assert F.cosine_similarity(exact, low, dim=0) > 0.999
    assert 0.98 < low.norm() / exact.norm() < 1.02


def test_a_walk_is_asked_for_in_float32() -> None:
    """Its sum is compared with a jump, and the difference divided by delta."""
    composer, model, draw = asked("rcgm", "bf16", clamp=0.0)
    objective, found = composer.objectives["rcgm"], list[Tensor]()
    assert isinstance(objective, AnyStep)
    for low in (False, True):
        passes = StepPasses({"online": model, "ema": model}, 32, low=low)
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.no_grad():
            passes.main(draw.point)
            found.append(objective.target(draw, passes))
    assert (found[1] - found[0]).norm() < 1e-4 * found[0].norm()
