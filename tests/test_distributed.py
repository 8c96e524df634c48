"""Several processes learn what one learns: the same draws, gradients, weights and averages (gloo on CPU)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genobj.cli.main import run
from genobj.cli.resolve import resolve
from genobj.experiment import Experiment
from genobj.training.loop import rows
from genobj.training.ranks import Ranks
from genobj.types import Draw
from tests.worker import STEPS, trained

WORKER = Path(__file__).parent / "worker.py"
SMALL = {"train.steps": STEPS, "train.batch": 16, "optim.eps": 1e-4, "log.every": 1, "ema.decays": [0.9, 0.5]}
DIT = SMALL | {"backbone.kind": "dit", "backbone.width": 16, "backbone.depth": 2, "backbone.heads": 2}
UNET = SMALL | {"backbone.channels": 8, "backbone.multipliers": [1, 2], "backbone.blocks": [1]}
MLP = SMALL | {"backbone.width": 16, "backbone.depth": 2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "dumo": ("dumo-digits", DIT | {"guidance": "self"}),
    "dumo_jvp": ("dumo-digits", DIT | {"guidance": "self", "objectives.cm.derivative.method": "jvp"}),
    "dumo_accumulated": ("dumo-moons", MLP | {"train.micro_batch": 4}),
    "dumo_unet": ("dumo-digits", UNET),
    "mean_flow": ("meanflow-digits", DIT | {"pairs.equal_share": 0.3, "pairs.share_by": "prefix"}),
    "mean_flow_jvp": ("meanflow-moons", MLP | {"objectives.mf.derivative.method": "jvp", "optim.clip": 0.5}),
    "tri_head": ("trihead-mf-digits", DIT),
    "shortcut": ("trihead-sc-digits", DIT | {"train.batch": 64}),
    "averaged": ("trihead-sc-moons", MLP | {"train.batch": 128, "objectives.sc.weights": "ema"}),
    "tangent": ("dumo-digits", DIT | {"guidance": "self", "objectives.cm.derivative": "tangent"}),
    "muon": ("dumo-digits", DIT | {"optim.kind": "muon", "optim.lr": 1e-4}),
    "recomputed": ("dumo-digits", DIT | {"train.recompute": True, "backbone.kind": "dit"}),
}


def tree(name: str, **changes: Any) -> dict[str, Any]:
    recipe, settings = RUNS[name]
    typed = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return resolve(recipe, overrides=typed)[0].tree() | changes


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[dict[str, Tensor], dict[str, list[float]]]]:
    """Every run in one process."""
    torch.use_deterministic_algorithms(True)
    try:
        return {name: trained(tree(name)) for name in RUNS}
    finally:
        torch.use_deterministic_algorithms(False)


def launched(
    folder: Path, script: Path | str, *arguments: object, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """A script under torchrun, on CPU threads of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    module = ["-m", script] if isinstance(script, str) else [str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parent.parent)}
    words = [*command, *module, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=540, cwd=folder, env=environment)


SPREAD = {
    "ddp": {"strategy": "ddp"},
    "fsdp2": {"strategy": "fsdp2"},
    "fsdp2_kept": {"strategy": "fsdp2", "reshard": False},
    "hsdp": {"strategy": "hsdp", "replicas": 2},
}


@pytest.mark.parametrize(
    "spread", ["ddp", "fsdp2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp2_kept", "hsdp"))]
)
def test_two_processes_equal_one(spread: str, alone: Any, tmp_path: Path) -> None:
    names = RUNS if spread in ("ddp", "fsdp2") else ("dumo_accumulated", "mean_flow_jvp", "averaged", "tangent")
    cases = {name: tree(name, distributed=SPREAD[spread]) for name in names}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = launched(tmp_path, WORKER, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    wrong = [line for name in names if (line := difference(tmp_path, name, *alone[name]))]
    assert not wrong, "\n".join(wrong)


def difference(folder: Path, name: str, tensors: dict[str, Tensor], losses: dict[str, list[float]]) -> str:
    """What differs most between a run in `folder` and the run of one process, or ''."""
    found = load_file(folder / f"{name}.safetensors")
    assert found.keys() == tensors.keys()
    assert any(key.startswith("gradient/") and value.any() for key, value in tensors.items())
    for key, value in tensors.items():
        scale = max(float(value.abs().max()), 1e-3)
        error = float((found[key] - value).abs().max()) / scale
        if error > (1e-5 if key.startswith("gradient/") else 2e-4):
            return f"{name}: {key} differs by {error:.2g} of {scale:.2g}"
    told = json.loads((folder / f"{name}.json").read_text())
    assert len(told["loss"]) == STEPS
    worst = max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(told["loss"], losses["loss"], strict=True))
    return f"{name}: the loss differs by {worst:.2g}" if worst > 1e-4 else ""


RUN = ["train.steps=12", "train.batch=32", "backbone.width=16", "checkpoint.every=4", "log.every=2", "optim.eps=1e-4"]
RUN += ["pictures.every=6", "pictures.count=8", "evaluation.count=64", "evaluation.reference=64"]
SHORTCUT = ["-r", "trihead-sc-moons", *RUN, "train.batch=128"]
DUMO = ["-r", "dumo-digits", "--backbone", "dit-tiny", *RUN, "backbone.heads=2", "backbone.depth=1", "train.batch=16"]


def went(folder: Path, *words: str, processes: int = 2, name: str = "run") -> Path:
    """A run by the command line in so many processes, resumed if it is there; must succeed."""
    command = ["train", *words, "--resume", "auto", "--out", name]
    if processes == 1:
        whole = [sys.executable, "-m", "genobj", *command]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=540, cwd=folder)
    else:
        done = launched(folder, "genobj", *command, processes=processes)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("evaluating") == 1, "one process speaks"
    return folder / name


def ends(folder: Path) -> dict[str, Tensor]:
    """All tensors that a finished run leaves."""
    newest = (folder / "checkpoints/latest").resolve()
    files = [*folder.glob("*.safetensors"), *newest.glob("*.safetensors")]
    return {f"{file.stem}/{key}": value for file in files for key, value in load_file(file).items()}


def assert_same_end(found: Path, wanted: Path) -> None:
    a, b = ends(found), ends(wanted)
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert torch.allclose(a[key], value, rtol=1e-3, atol=2e-5), key


def cut(folder: Path, step: int) -> None:
    """Take away what is later than a step, as if the run had been killed there."""
    for path in (folder / "checkpoints").glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    (folder / "results.json").unlink()


@pytest.mark.parametrize(
    ("words", "first", "then"),
    [
        (SHORTCUT, ["distributed.strategy=fsdp2"], []),
        pytest.param(SHORTCUT, [], ["distributed.strategy=fsdp2"], marks=pytest.mark.slow),
        pytest.param(
            DUMO,
            ["distributed.strategy=ddp", "checkpoint.background=true"],
            ["distributed.strategy=hsdp"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two_then_one", "one_then_two", "ddp_then_hsdp"],
)
def test_resumed_on_other_processes(words: list[str], first: list[str], then: list[str], tmp_path: Path) -> None:
    whole = went(tmp_path, *words, processes=1, name="whole")
    parts = went(tmp_path, *words, *first, processes=2 if first else 1)
    cut(parts, 8)
    went(tmp_path, *words, *then, processes=2 if then else 1)
    assert_same_end(parts, whole)
    assert (parts / "samples.png").exists()
    told = [json.loads((run / "results.json").read_text()) for run in (parts, whole)]
    for a, b in zip(*told, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=0.02, abs=1e-3)


def test_a_signal_to_torchrun_saves_on_all_processes(tmp_path: Path) -> None:
    words = [
        "train",
        "--out",
        "run",
        "train.steps=100000",
        "checkpoint.every=100000",
        "log.every=1",
        "backbone.width=16",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "genobj"]
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen([*command, *words], cwd=tmp_path, env=environment, stdout=said, stderr=said)
    log = tmp_path / "run/metrics.jsonl"
    for _ in range(1200):
        if log.exists() and log.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(90)
    told = (tmp_path / "said.txt").read_text()
    assert told.count("stopped and saved after step") == 1
    assert "go on with: torchrun --standalone --nproc-per-node 2 -m genobj train --resume run" in told
    assert (tmp_path / "run/requeue").exists()
    (saved,) = (tmp_path / "run/checkpoints").glob("step_*")
    assert len(list((saved / "state").iterdir())) == 2
    assert int(saved.name.removeprefix("step_")) == json.loads(log.read_text().splitlines()[-1])["step"]


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    done = launched(tmp_path, "genobj", "train", "--out", "run", "train.batch=33")
    assert done.returncode != 0
    assert done.stderr.count("error: train.batch=33 cannot be shared by 2 devices; type a multiple of that") == 1
    assert "genobj/" not in done.stderr, "no traceback of ours"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["distributed.strategy=none"], "there are 2 processes; type ddp or fsdp2"),
        (["distributed.strategy=hsdp", "distributed.replicas=3"], "distributed.replicas=3 does not divide 2 processes"),
        (["train.device=cuda:1"], "every process takes the GPU of its number; type train.device=cuda"),
    ],
)
def test_what_processes_exclude(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert run(["train", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "hsdp"])
def test_processes_are_needed(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"distributed.strategy={strategy}"]) == 2
    assert "torchrun --standalone --nproc-per-node 2 -m genobj train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["diagnose.every=5"], "type distributed.strategy=ddp, or diagnose.every=0"),
        (["train.precision=bf16_pure"], "bf16_pure gathers shards in bf16; type train.precision=bf16"),
    ],
)
def test_what_shards_exclude(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "-r", "dumo-digits", "distributed.strategy=fsdp2", *words]) == 2
    assert says in capsys.readouterr().err


def test_rows_of_a_batch_are_shared_out_evenly() -> None:
    shares = [list(rows(64, 128, 32, 4, Ranks(rank, 2))) for rank in (0, 1)]
    taken = [sorted(i for share in shares for part in share[2 * n : 2 * n + 2] for i in part) for n in (0, 1)]
    assert taken == [list(range(64, 96)), list(range(96, 128))]
    assert [len(part) for share in shares for part in share] == [8] * 8


@pytest.mark.parametrize("pairs", ["sorted", "dyadic"])
def test_parts_of_a_draw_are_the_whole_draw(pairs: str) -> None:
    law = {"kind": pairs, "equal_share": 0.7}
    e = Experiment.model_validate({"data": "digits", "objectives": {"mf": {}}, "pairs": law, "guidance": "self"})
    composer, batch = e.composer(), 96
    x, y, _ = e.data.open().train(range(batch), 0)

    def draw(part: int, parts: int) -> Draw:
        own = None if y is None else y[part::parts]
        return composer.draw(x[part::parts], own, torch.Generator().manual_seed(0), 0.0, part, parts)

    whole = draw(0, 1)
    for part in range(3):
        found = draw(part, 3)
        for name in ("z", "t", "r", "x_t", "v_t", "y", "dropped"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[part::3]), name
        assert found.equal == len(range(part, whole.equal, 3)) > 0
        assert bool((found.t[: found.equal] == found.r[: found.equal]).all())
