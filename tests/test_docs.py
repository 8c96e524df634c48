"""The documentation is run: every command line, Python block, setting and name in the README and in docs/."""

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel

from genobj.cli.main import app, run
from genobj.cli.resolve import load_plugins, resolve
from genobj.config.base import find
from genobj.experiment import Experiment
from genobj.parts import FAMILIES, OBJECTIVES
from genobj.studies.plan import rows
from genobj.studies.study import Study
from genobj.testing import check

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
INSTALL = (
    "pip install . && genobj train --heads v,u --objectives fm,cm",
    'pip install -e ".[test]" && pytest -n 2 -m "not slow"',
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{3,}\b|<")
TINY = [
    *("train.steps=2", "train.batch=16", "pictures.count=16"),
    *("evaluation.count=64", "evaluation.reference=64", "evaluation.nfe=[1,2]"),
]


class Block(NamedTuple):
    """One fenced block."""

    page: str
    language: str
    text: str


def _read(path: Path) -> tuple[list[Block], list[str]]:
    """The fenced blocks of a page and its inline code."""
    text = path.read_text(encoding="utf-8")
    blocks = [Block(path.name, language, body) for language, body in FENCE.findall(text)]
    return blocks, [span.strip() for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]


BLOCKS = [block for path in PAGES for block in _read(path)[0]]
SPANS = sorted({span for path in PAGES for span in _read(path)[1]})


def _commands() -> list[str]:
    lines = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
    lines += [span for span in SPANS if span.startswith("genobj ") and not PLACEHOLDER.search(span)]
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return sorted({part for part in parts if part.startswith("genobj ")})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: finished runs, a recipe and a plugin of their own, a new package."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "-r", "dumo-digits", "--out", "runs/digits", *TINY]) == 0
        assert run(["train", *TINY]) == 0
        assert run(["train", "--out", "runs/long", *TINY]) == 0
        wide = ["ema.widths=[0.05,0.1]", "ema.snapshot_every=1"]
        assert run(["train", "--out", "runs/wide", *TINY, *wide]) == 0
        assert run(["average", "runs/wide", "--width", "0.08"]) == 0
        assert run(["new", "objective", "my_loss", "--out", "my-loss"]) == 0
    shutil.copy(ROOT / "examples/plugin_objective.py", folder / "walk.py")
    (recipe,) = [b.text for b in BLOCKS if b.language == "toml" and b.page == "recipes.md"]
    (folder / "my.toml").write_text(recipe)
    (folder / "my-study.toml").write_text(
        next(b.text for b in BLOCKS if b.language == "toml" and b.page == "studies.md")
    )
    return folder


def _entry_point(text: str) -> str:
    """'module:Class' of my_loss, from the text of a pyproject.toml."""
    tree = tomllib.loads(text)
    return str(tree["project"]["entry-points"]["genobj.objectives"]["my_loss"])


@pytest.fixture
def _at_the_site(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run there, with `my_loss` as if its package were installed; forget whatever gets registered."""
    monkeypatch.chdir(site)
    before = {name: (registry, registry._known().copy()) for name, registry in FAMILIES.items()}
    module, _, cls = _entry_point((site / "my-loss/pyproject.toml").read_text()).partition(":")
    assert runpy.run_path(f"my-loss/{module}.py")[cls] is OBJECTIVES.get("my_loss")  # it registers itself
    yield
    for registry, targets in before.values():
        registry._targets.clear()
        registry._targets.update(targets)
    for name in [name for name in sys.modules if name.startswith("genobj_plugin_")]:
        del sys.modules[name]


def test_the_install_lines_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(block for block in BLOCKS if block.page == "README.md")
    assert first.text.strip() == INSTALL[0], "the first code block is the one line that installs and runs"
    assert f"```sh\n{INSTALL[1]}\n```" in text


@pytest.mark.parametrize("line", ["genobj train --heads v,u --objectives fm,cm", "genobj train -r dumo-digits"])
def test_the_two_runs_of_the_readme_end_with_a_table_and_a_picture(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in _commands()
    monkeypatch.chdir(tmp_path)
    assert run([*shlex.split(line)[1:], *TINY]) == 0
    printed = capsys.readouterr().out
    assert "NFE" in printed
    assert "real data" in printed
    assert list(tmp_path.glob("runs/dumo-*/samples.png"))


@pytest.mark.usefixtures("_at_the_site")
@pytest.mark.parametrize("line", _commands())
def test_command_lines_work(line: str, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "train" or (words[0] in ("compare", "reproduce") and len(words) > 1):
        words += [] if "--dry-run" in words else ["--dry-run"]
    elif words[0] == "play":  # it would serve until Ctrl-C
        words += ["--help"]
    elif words[0] in ("sample", "evaluate"):
        words += ["--count", "16"]
    elif words[0] == "bench":
        words += ["--rounds", "1", "--steps", "1"]
    elif words[0] != "list" and (len(words) == 1 or words == ["new", "objective"]):  # named without their arguments
        words += ["--help"]
    elif words[0] == "new":
        words += ["--out", "another"]
        words = [word.replace("my_loss", "my_other_loss") for word in words]
    assert run(words) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("_at_the_site")
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.page)
def test_python_blocks_run_and_what_they_register_keeps_the_contract(block: Block, tmp_path: Path) -> None:
    before = {name: set(registry.names()) for name, registry in FAMILIES.items()}
    file = tmp_path / "block.py"
    file.write_text(block.text)
    runpy.run_path(str(file))
    new = [(family, name) for family, registry in FAMILIES.items() for name in set(registry.names()) - before[family]]
    for family, name in new:
        assert check(family, name)


def test_the_readme_and_the_manual_show_the_plugin_as_it_is() -> None:
    plugin = (ROOT / "examples/plugin_objective.py").read_text()
    assert [b.page for b in BLOCKS if b.text == plugin] == ["README.md", "extending.md"]
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 15


@pytest.mark.usefixtures("_at_the_site")
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=lambda b: b.page)
def test_toml_blocks_are_recipes_or_the_entry_point_that_new_writes(block: Block) -> None:
    tree = tomllib.loads(block.text)
    if "project" in tree:
        assert _entry_point(block.text) == _entry_point(Path("my-loss/pyproject.toml").read_text())
    elif "variants" in tree:
        rows(Study.model_validate(tree))
    else:
        Experiment.model_validate(tree)


@pytest.mark.usefixtures("_at_the_site")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {"train_in_python.py": ["3", str(tmp_path / "run")], "sample_and_score.py": ["runs/latest", "64"]}
    path = ROOT / "examples" / name
    assert len(path.read_text().splitlines()) < 60
    monkeypatch.setattr(sys, "argv", [name, *quick.get(name, [])])
    runpy.run_path(str(path), run_name="__main__")
    if name == "exact_gaussian.py":
        exact = re.findall(r"(?:fm|jvp|five:|std x z:)\s+(\S+e[+-]\d+)", capsys.readouterr().out)
        assert len(exact) == 6
        assert max(map(float, exact)) < 1e-12


def _experiment_settings(span: str) -> list[str]:
    """The words key=value of a span that set something in an experiment."""
    words = span.split() if "=" in span and not PLACEHOLDER.search(span) else []
    return [w for w in words if re.fullmatch(r"[a-z_]+(\.\w+)*=\S+", w) and w.split("=")[0].split(".")[0] in FIELDS]


FIELDS = Experiment.model_fields
SETTINGS = [span for span in SPANS if not span.startswith("genobj ") and _experiment_settings(span)]
DOTTED = sorted({s for s in SPANS if re.fullmatch(r"[a-z_]+(\.\w+)+", s) and s.split(".")[0] in FIELDS})


@pytest.mark.usefixtures("_at_the_site")
@pytest.mark.parametrize("span", SETTINGS)
def test_settings_in_the_text_are_valid(span: str) -> None:
    load_plugins(["walk.py"])
    words = _experiment_settings(span)
    bases = {
        "guidance": "dumo-digits",
        ".mf.": "meanflow-moons",
        ".sc.": "shortcut-digits",
        "heads.w": "trihead-mf-moons",
        ".gan.": "trihead-gan-moons",
        "heads.critic": "trihead-gan-moons",
        "pairs=twin": "rcgm-moons",
        "pairs.adv": "rcgm-moons",
        "r_in=sign": "facm-moons",
    }
    recipe = next((base for word, base in bases.items() if word in span), "dumo-moons")
    named = next((name for name in ("walk", "alphaflow") if f"objectives.{name}" in span), None)
    base: dict[str, Any] = {"objectives": f"fm,{named}"} if named else {}
    if words[0].startswith("times."):
        words = ["times=beta", *words]
    if words[0].startswith("pairs.levels"):
        words = ["pairs=dyadic", *words]
    if words[0].startswith("path."):
        words = ["path=linear" if "noise_std" in span else "path=trig", *words]
    if words[0].startswith("pairs.adv") or "pairs=twin" in words:
        words = ["pairs=twin", "pairs.adv=0", *words]
    if "r_in=sign" in span:
        base, words = {"objectives": "fm@u,facm@u"}, [*words, "objectives.fm.rows=all", "objectives.facm.rows=all"]
    if "guidance=frozen" in words:
        words += ["guidance.teacher=runs/digits"]
    resolve(recipe, overrides=words, **base)


@pytest.mark.usefixtures("_at_the_site")
@pytest.mark.parametrize("path", DOTTED)
def test_settings_named_in_the_text_exist(path: str) -> None:
    load_plugins(["walk.py"])
    first, *rest = path.split(".")
    if first in ("objectives", "heads"):
        classes = [find(FAMILIES[first], rest.pop(0))[0]]
    else:
        plural = first if first in FAMILIES else f"{first}s"
        family = FAMILIES.get(plural)
        annotation = FIELDS[first].annotation
        classes = [family.get(name) for name in family.names()] if family else _classes(annotation)
    for key in rest:
        fields = [cls.model_fields[key] for cls in classes if key in cls.model_fields]
        assert fields, f"{path}: there is no setting {key!r}"
        classes = [kind for field in fields for kind in _classes(field.annotation)]


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """The classes of settings in an annotation."""
    kinds = (annotation, *get_args(annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def test_flags_named_in_the_text_exist() -> None:
    import typer.main

    command: Any = typer.main.get_command(app)
    nested = [*command.commands.values(), *command.commands["new"].commands.values(), command]
    known = {flag for one in nested for parameter in one.params for flag in parameter.opts} | {"--help"}
    ours = [span for span in SPANS if not span.startswith("torchrun")]
    used = {word.split("=")[0] for span in ours for word in span.split() if word.startswith("--")}
    assert used <= known, used - known


def test_the_table_of_parts_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for family, registry in FAMILIES.items():
        built_in = [entry.name for entry in registry.entries() if entry.source == "genobj"]
        row = f"| {family} | {', '.join(f'`{name}`' for name in built_in)} |"
        assert row in text, f"README.md, 'What is in', needs the row: {row}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], target


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs/images").glob("*"):
        assert picture.stat().st_size < 150_000, picture.name
