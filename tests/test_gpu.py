"""What only a GPU can show; skipped without one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from genobj.experiment import Experiment
from genobj.run import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def _experiment(**train: Any) -> Experiment:
    tree = {
        "data": "digits",
        "backbone": "dit-tiny",
        "objectives": {"fm": {}, "cm": {}},
        "guidance": {"kind": "self", "zeta": 0.4},
        "train": {"steps": 8, "batch": 32, "device": "cuda", **train},
        "evaluation": {"nfe": [1, 2], "count": 64},
    }
    return Experiment.model_validate(tree)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_on_the_gpu(tmp_path: Path, precision: str) -> None:
    outcome = Run(_experiment(precision=precision), tmp_path / "run").go()
    assert {record.nfe for record in outcome.records} == {1, 2}


def test_the_gpu_agrees_with_the_cpu(tmp_path: Path) -> None:
    """The same draw, the same weights, float32 on both."""
    losses = []
    for device in ("cpu", "cuda"):
        run = Run(_experiment(device=device), tmp_path / device)
        x, y = run.source.train(0, 32, 0)
        composer = run.step_module().composer
        draw = composer.draw(x, y, torch.Generator().manual_seed(0))
        moved = draw._replace(**{k: v.to(device) for k, v in draw._asdict().items() if v is not None})
        losses.append(composer.loss({"online": run.model}, moved).total.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_tangents_fall_back_from_flash_attention(tmp_path: Path) -> None:
    tree = _experiment().tree()
    tree["objectives"]["cm"]["derivative"]["method"] = "jvp"
    Run(Experiment.model_validate(tree), tmp_path / "run").go()


def test_no_host_synchronisation_between_log_lines(tmp_path: Path) -> None:
    run = Run(_experiment(), tmp_path / "run")
    step = run.step_module()
    x, y = (part.cuda() for part in run.source.train(0, 32, 0) if part is not None)
    generator = torch.Generator("cuda").manual_seed(0)
    step(x, y, generator).total.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, y, generator).total.backward()
        run.state.optimizer.step()
        run.state.averages.update(0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
