"""What only a GPU can show; skipped without one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genobj.data.normal import Normal
from genobj.derivatives import Derivative
from genobj.experiment import Experiment
from genobj.passes import StepPasses
from genobj.run import Run
from genobj.training.feed import Feed
from genobj.training.loop import train

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


@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16_pure"])
def test_a_run_on_the_gpu(tmp_path: Path, precision: str) -> None:
    outcome = Run(_experiment(precision=precision), tmp_path / "run").go()
    assert {record.nfe for record in outcome.records} == {1, 2}


def test_the_gpu_agrees_with_the_cpu(tmp_path: Path) -> None:
    """The same draw, the same weights, float32 on both."""
    losses = []
    for device in ("cpu", "cuda"):
        run = Run(_experiment(device=device), tmp_path / device)
        x, y, _ = run.source.train(range(32), 0)
        composer = run.step_module().composer
        draw = composer.draw(x, y, torch.Generator().manual_seed(0))
        moved = draw._replace(**{k: v.to(device) for k, v in draw._asdict().items() if v is not None})
        losses.append(composer.loss({"online": run.model}, moved).total.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_process_under_nccl(tmp_path: Path, strategy: str) -> None:
    words = "train -r dumo-digits --backbone dit-tiny train.steps=6 train.batch=32 train.device=cuda --out run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "genobj"]
    done = subprocess.run(
        [*command, *words.split(), f"distributed.strategy={strategy}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run/results.json").exists()


@pytest.mark.parametrize("method", ["jvp", "tangent"])
def test_tangents_fall_back_from_flash_attention(tmp_path: Path, method: str) -> None:
    tree = _experiment().tree()
    tree["objectives"]["cm"]["derivative"]["method"] = method
    Run(Experiment.model_validate(tree), tmp_path / "run").go()


def test_no_host_synchronisation_between_log_lines(tmp_path: Path) -> None:
    run = Run(_experiment(steps=6), tmp_path / "run")
    step, e = run.step_module(), run.experiment
    warm = e.train.model_copy(update={"steps": 2})
    train(run.state, step, run.source, warm, e.optim, e.seed)  # the first steps make caches and workspaces
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(run.state, step, run.source, e.train, e.optim, e.seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backbone", ["unet-tiny", "dit-tiny"])
def test_differences_are_computed_without_tf32(tmp_path: Path, backbone: str) -> None:
    """du/dt in float32 on the GPU against float64 on the CPU; TF32 convolutions alone would be off by 5 %."""
    tree = _experiment().tree() | {"backbone": backbone, "guidance": "none"}
    e = Experiment.model_validate(tree)
    model = e.model_settings().build()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x, y, _ = e.data.open().train(range(32), 0)
    draw = e.composer().draw(x, y, torch.Generator().manual_seed(0))
    found = []
    for device, kind in (("cpu", torch.float64), ("cuda", torch.float32)):
        moved = draw._replace(
            **{
                k: v.to(device, kind if v.is_floating_point() else v.dtype)
                for k, v in draw._asdict().items()
                if v is not None
            }
        )
        passes = StepPasses({"online": model.to(device, kind)}, 32)
        found.append(Derivative()(moved, passes, "u").double().cpu())
    assert (found[0] - found[1]).norm() < 2e-3 * found[0].norm()


@pytest.mark.parametrize(("ahead", "workers"), [(0, 0), (2, 0), (0, 2)])
def test_batches_are_whole_where_the_work_uses_them(ahead: int, workers: int) -> None:
    """Copies run on a stream of their own, beside work that is still going on."""
    device, source = torch.device("cuda"), Normal(sizes=(3, 64, 64)).open()
    rows = [range(start, start + 64) for start in range(0, 640, 64)]
    with Feed(source, iter(rows), 0, device, ahead, workers) as feed:
        for each in rows:
            busy = torch.randn(4096, 4096, device=device)
            busy = busy @ busy
            x, _, _ = next(feed)
            assert (x * 1).cpu().equal(source.train(each, 0).x)
