"""From a zip of images to a model that others load: extractor, reference, training, scores, samples, export."""

import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import genobj
from genobj.cli.main import run

CIFAR = Path(__file__).parents[2] / "shared" / "data"
RUN = ["backbone=dit-tiny", "backbone.patch=4", "backbone.width=32", "backbone.depth=2", "pictures.count=20"]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that works prints."""
    assert run([*words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def zipped(file: Path, first: int, count: int) -> None:
    """Digits as colour images of 32 x 32, in EDM's layout."""
    images, labels = load_digits(return_X_y=True)
    pairs = []
    with ZipFile(file, "w") as archive:
        for i in range(first, first + count):
            name = f"{i // 1000:05d}/img{i:08d}.png"
            grey = np.kron(images[i].reshape(8, 8) * 15.9, np.ones((4, 4))).astype(np.uint8)
            with archive.open(name, "w") as out:
                Image.fromarray(np.stack([grey, grey, 255 - grey], -1)).save(out, "PNG")
            pairs.append([name, int(labels[i])])
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))


def fresh(folder: Path, out: Path) -> None:
    """Samples of an exported folder, in a process that knows nothing else."""
    code = f"import genobj, torch; torch.save(genobj.from_pretrained({str(folder)!r}).sample(8), {str(out)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=out.parent)


def whole_way(
    folder: Path, data: list[str], train: list[str], steps: int, capsys: pytest.CaptureFixture[str]
) -> dict[int, float]:
    """Every command in turn; the Frechet distance by nfe, and of real images."""
    extractor, reference = str(folder / "extractor"), str(folder / "ref.npz")
    model, shared = str(folder / "run"), str(folder / "shared")
    told(capsys, "extractor", "train", "zip", *data, "--to", extractor, "--steps", str(steps))
    told(capsys, "stats", "zip", *data, "--to", reference, "--extractor", extractor)
    metrics = ["evaluation.metrics=fd", f"evaluation.extractor={extractor}"]
    told(capsys, "train", "--data", "zip", *data, *RUN, *metrics, *train, "--out", model)
    scores = ["--ref", reference, "--extractor", extractor, "--metrics", "fd,accuracy,prdc", "--nfe", "1,2"]
    records = json.loads(told(capsys, "evaluate", model, *scores, "--json"))
    told(capsys, "sample", model, "--nfe", "1,2", "--trajectory", "--count", "4")
    told(capsys, "sample", model, "--nfe", "1", "--count", "3", "--out", str(folder / "png") + "/")
    assert len([*(folder / "png").rglob("*.png")]) == 3
    told(capsys, "export", model, "--to", shared)
    fresh(folder / "shared", folder / "samples.pt")
    assert torch.load(folder / "samples.pt").equal(genobj.from_pretrained(model).sample(8))
    return {record["nfe"]: record["value"] for record in records if record["metric"] == "fd"}


def test_the_whole_way_on_a_small_zip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zipped(tmp_path / "train.zip", 0, 300)
    zipped(tmp_path / "test.zip", 300, 100)
    data = [f"data.path={tmp_path}/train.zip", f"data.test={tmp_path}/test.zip", "data.labels=10"]
    train = ["train.steps=3", "train.batch=16", "evaluation.count=64", "evaluation.nfe=[1,2]"]
    found = whole_way(tmp_path, data, train, 5, capsys)
    assert found.keys() == {1, 2}


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10 beside the repository")
@pytest.mark.timeout(1800)
def test_the_whole_way_on_cifar10(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [f"data.{name}={CIFAR}/cifar10-32x32-{kind}.zip" for name, kind in (("path", "train"), ("test", "test"))]
    data += ["data.labels=10"]
    train = ["train.batch=64", "evaluation.count=500", "evaluation.nfe=[1,2]", "optim.lr=2e-3", "optim.warmup=1280"]
    found = whole_way(tmp_path, data, [*train, "train.steps=400"], 300, capsys)
    metrics = ["evaluation.metrics=fd", f"evaluation.extractor={tmp_path}/extractor"]
    first = str(tmp_path / "first")
    told(capsys, "train", "--data", "zip", *data, *RUN, *metrics, *train, "train.steps=1", "--out", first)
    (start, _) = [record["value"] for record in json.loads((tmp_path / "first/results.json").read_text())]
    assert found[1] < 0.8 * start
