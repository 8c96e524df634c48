"""Packages outside the repository add objectives: installed with pip, found by their entry point, listed, trained."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genobj.cli.main import run
from genobj.parts import OBJECTIVES

OBJECTIVE = '''"""Flow matching on whitened velocities (an example: nobody has published this).

    L = E || v_theta(x_t, t) - v_t ||^2 / scale^2
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from genobj.objectives.base import Regression
from genobj.types import Draw, Horizon, Passes, Samples


class Whitened(Regression):
    """Flow matching in units of a scale."""

    horizon: ClassVar[Horizon] = "instant"

    head: str = "v"
    """Head that learns v_t."""
    scale: Annotated[float, Field(gt=0)] = 2.0
    """Unit of the velocity."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """The velocity; its error is measured in units of `scale`."""
        return draw.v_t

    def loss(self, out: dict[str, Tensor], draw: Draw, passes: Passes) -> Tensor:
        """Per sample, shape (batch,)."""
        return super().loss(out, draw, passes) / self.scale**2
'''

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "genobj-whitened"
version = "0.3"

[project.entry-points."genobj.objectives"]
whitened = "genobj_whitened:Whitened"

[tool.hatch.build.targets.wheel]
include = ["genobj_whitened.py"]
"""

TINY = ["train.steps=2", "backbone.width=16", "evaluation.count=16", "evaluation.reference=16", "evaluation.nfe=[1]"]


def pip_install(package: Path, target: Path) -> None:
    """Install a package into a folder of its own, with the build backend that is here if there is one."""
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *here, "--target", str(target)]
    subprocess.run([*command, str(package)], check=True, capture_output=True, timeout=300)


def by_hand(target: Path, package: str, version: str, entry: str, module: str = "", text: str = "") -> None:
    """What pip leaves of a package: a module and its metadata."""
    info = target / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[genobj.objectives]\n{entry}\n")
    if module:
        (target / f"{module}.py").write_text(text)


class Shell:
    """genobj in another process that sees the packages of one folder."""

    def __init__(self, target: Path, folder: Path):
        self.environment = os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "genobj", *arguments]
        answer = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert answer.returncode == code, answer.stdout + answer.stderr
        assert "Traceback" not in answer.stderr
        return answer.stdout if code == 0 else answer.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Site folder with a hand-written package and what `genobj new objective` writes."""
    folder = tmp_path_factory.mktemp("packages")
    source = folder / "genobj-whitened"
    source.mkdir()
    (source / "genobj_whitened.py").write_text(OBJECTIVE)
    (source / "pyproject.toml").write_text(PROJECT)
    assert len(OBJECTIVE.splitlines()) <= 40
    assert run(["new", "objective", "my_loss", "--out", str(folder / "genobj-my-loss")]) == 0
    for package in (source, folder / "genobj-my-loss"):
        pip_install(package, folder / "site")
    return folder / "site"


def test_an_installed_package_is_listed_checked_trained_and_sampled(installed: Path, tmp_path: Path) -> None:
    genobj = Shell(installed, tmp_path)
    listed = genobj("list", "objectives")
    lines = [line.split(maxsplit=1) for line in listed.splitlines()]
    assert ["whitened", "Flow matching in units of a scale.  [genobj-whitened 0.3]"] in lines
    assert "[genobj-my-loss 0.1.0]" in listed
    checked = genobj("check", "whitened")
    assert all(line.startswith("ok ") for line in checked.splitlines())
    flags = ["--heads", "v,u", "--objectives", "whitened,cm", "objectives.whitened.scale=3.0"]
    assert "objectives whitened, cm" in genobj("train", "--out", "run", *flags, *TINY)
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert 0 < first["whitened"] < first["cm"] / 4  # 1 / 9 of the same error at the start
    assert "8 samples" in genobj("sample", "run", "--count", "8")
    assert "Did you mean 'whitened'" in genobj("check", "whitend", code=2)
    error = genobj("show", "--heads", "v", "--objectives", "whitened", "objectives.whitened.scale=0", code=2)
    assert error.startswith("error: objectives.whitened.scale: ")


def test_a_new_objective_is_installed_and_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    genobj = Shell(installed, tmp_path)
    assert "objectives:my_loss" in genobj("check", "my_loss")
    test = installed.parent / "genobj-my-loss/tests/test_my_loss.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    subprocess.run(command, cwd=tmp_path, env=genobj.environment, check=True, capture_output=True, timeout=120)


def test_a_package_that_cannot_be_imported_is_marked_and_named(tmp_path: Path) -> None:
    by_hand(
        tmp_path / "site", "genobj-broken", "1.2", "broken = broken_one:Broken", "broken_one", "import no_such_thing"
    )
    by_hand(tmp_path / "site", "genobj-gone", "2.0", "gone = not_there:Gone")
    by_hand(tmp_path / "site", "genobj-number", "3.0", "number = a_number:VALUE", "a_number", "VALUE = 3")
    genobj = Shell(tmp_path / "site", tmp_path)
    listed = genobj("list", "objectives")
    assert "broken: objective 'broken' of genobj-broken 1.2 cannot be imported: ModuleNotFoundError" in listed
    assert "broken: objective 'gone' of genobj-gone 2.0 cannot be imported" in listed
    assert "objective 'number' of genobj-number 3.0 cannot be imported: TypeError: a_number:VALUE is not a" in listed
    assert "fm Flow matching" in " ".join(listed.split())
    error = genobj("show", "--heads", "v", "--objectives", "broken", code=2)
    assert "'broken' of genobj-broken 1.2 cannot be imported: ModuleNotFoundError: No module named 'no_such" in error
    assert '"projection"' in genobj("schema")  # everything else goes on working
    genobj("show")


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (
            ("genobj-b", "2.0", "twins = twin_b:T"),
            ("objective 'twins' is already taken", "genobj-a 1.0", "genobj-b 2.0"),
        ),
        (("genobj-c", "4.0", "fm = twin_c:T"), ("objective 'fm' is already taken: genobj has it", "genobj-c 4.0")),
    ],
)
def test_a_taken_name_names_both_sources(second: tuple[str, str, str], says: tuple[str, ...], tmp_path: Path) -> None:
    by_hand(tmp_path / "site", "genobj-a", "1.0", "twins = twin_a:T")
    by_hand(tmp_path / "site", *second)
    error = Shell(tmp_path / "site", tmp_path)("list", code=2)
    assert all(words in error for words in says)
    assert "Uninstall one." in error
    assert len(error.splitlines()) == 1


def test_a_mistake_in_a_plugin_file_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        "from genobj.objectives.base import Regression",
        "from genobj.parts import OBJECTIVES",
        "@OBJECTIVES.register('slip')",
        "class Slip(Regression):",
        "    head: str = 'u'",
        "    def target(self, draw, passes):",
        "        return draw.x0",
    ]
    (tmp_path / "slip.py").write_text("\n".join(lines))
    try:
        assert run(["train", "--heads", "v,u", "--objectives", "fm,slip", "--plugin", "slip.py", "train.steps=1"]) == 1
    finally:
        OBJECTIVES.unregister("slip")
    told = capsys.readouterr().err
    assert "slip.py, line 7: AttributeError" in told
    assert "Traceback" not in told
