"""Every command does what its help says; settings come from where `show` says; the light ones load no torch."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genobj
from genobj.cli.main import run
from genobj.cli.resolve import load_plugins, resolve
from genobj.config.load import find_recipe, read_toml, recipe_names
from genobj.experiment import Experiment
from genobj.parts import FAMILIES, OBJECTIVES

TINY = ["backbone.width=16", "train.steps=3", "evaluation.count=64", "evaluation.reference=64", "pictures.count=16"]
COMMANDS = ["train", "sample", "evaluate", "average", "list", "show", "schema", "check", "new", "cost", "cite"]


class Told:
    """Runs a command in a folder of its own, which has to succeed, and returns what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self.capsys = capsys

    def __call__(self, *arguments: str) -> str:
        code = run(arguments)
        told = self.capsys.readouterr()
        assert code == 0, told.err
        return told.out

    def wrong(self, *arguments: str) -> str:
        """The same for a command that has to fail; returns its error."""
        assert run(arguments) == 2
        return self.capsys.readouterr().err


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.chdir(tmp_path)
    return Told(capsys)


def test_version(told: Told) -> None:
    assert told("--version") == f"genobj {genobj.__version__}\n"


def test_help_names_every_command(told: Told) -> None:
    text = told("--help")
    assert all(f" {command} " in text for command in COMMANDS)
    assert "genobj train --heads v,u --objectives fm,cm" in " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, told: Told) -> None:
    assert f"Usage: genobj {command}" in told(command, "--help")


class TestList:
    def test_all_families(self, told: Told) -> None:
        lines = told("list").splitlines()
        assert [line for line in lines if not line.startswith(" ")] == [*FAMILIES, "recipes"]
        assert ["fm", "Flow matching: learn the instantaneous velocity (many steps; stable)."] in [
            line.split(maxsplit=1) for line in lines
        ]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_one_family_by_either_name(self, family: str, told: Told) -> None:
        text = told("list", family)
        assert text == told("list", FAMILIES[family].family)
        names = FAMILIES[family].names() + [preset.name for preset in FAMILIES[family].presets()]
        assert [line.split()[0] for line in text.splitlines()[1:]] == names
        assert all(len(line.split()) > 2 for line in text.splitlines()[1:])  # something is said of each

    def test_recipes(self, told: Told) -> None:
        assert [line.split()[0] for line in told("list", "recipes").splitlines()[1:]] == recipe_names()

    def test_json(self, told: Told) -> None:
        found = json.loads(told("list", "--json"))
        assert list(found) == [*FAMILIES, "recipes"]
        assert {
            "name": "fm",
            "summary": "Flow matching: learn the instantaneous velocity (many steps; stable).",
            "source": "genobj",
            "problem": "",
        } in found["objectives"]


def shown(text: str) -> dict[str, tuple[str, str]]:
    """key -> (value, source) of every line of `show`."""
    rows = [line.partition("  # ") for line in text.split("\n\n")[0].splitlines()]
    return {row.split()[0]: (row.split(maxsplit=1)[1].strip(), source) for row, _, source in rows}


class TestShow:
    def test_every_leaf_says_where_it_came_from(self, told: Told) -> None:
        text = told("show", "--objectives", "fm@v,cm@u", "--backbone", "mlp", "--seed", "3", "optim.lr=1e-4")
        rows = shown(text)
        assert rows["train.steps"] == ("4000", "recipe dumo-moons")
        assert rows["optim.eps"] == ("1e-08", "default")
        assert rows["optim.lr"] == ("0.0001", "optim.lr=1e-4")
        assert rows["seed"] == ("3", "--seed")
        assert rows["backbone.kind"] == ('"mlp"', "--backbone")
        assert rows["objectives.cm.head"] == ('"u"', "--objectives")
        assert rows["objectives.cm.weight"] == ("0.5", "recipe dumo-moons")
        assert "head v: horizon instant (r = t, the velocity)" in text
        assert "head u: horizon data (r = 0, the jump to data)" in text

    def test_a_preset_is_the_source_of_its_settings(self, told: Told) -> None:
        rows = shown(told("show", "-r", "dumo-digits", "--backbone", "dit-b/2", "backbone.depth=3"))
        assert rows["backbone.width"] == ("768", "--backbone")
        assert rows["backbone.depth"] == ("3", "backbone.depth=3")

    def test_precedence(self, told: Told, tmp_path: Path) -> None:
        assert json.loads(told("show", "--json"))["train"]["batch"] == 256
        (tmp_path / "mine.toml").write_text("seed = 1\n[train]\nbatch = 8\n")
        assert shown(told("show", "-r", "mine.toml"))["seed"] == ("1", "recipe mine")
        assert shown(told("show", "-r", "mine.toml", "--seed", "2"))["seed"] == ("2", "--seed")
        assert shown(told("show", "-r", "mine.toml", "--seed", "2", "seed=3"))["seed"] == ("3", "seed=3")
        assert shown(told("show", "-r", "mine.toml"))["train.steps"][1] == "default"

    @pytest.mark.parametrize("recipe", recipe_names())
    def test_toml_and_json_load_back(self, recipe: str, told: Told) -> None:
        experiment = Experiment.model_validate(read_toml(find_recipe(recipe)))
        assert Experiment.model_validate(tomllib.loads(told("show", "-r", recipe, "--toml"))) == experiment
        assert Experiment.model_validate(json.loads(told("show", "-r", recipe, "--json"))) == experiment

    def test_a_shown_recipe_can_be_run(self, told: Told, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(told("show", "-r", "fm-digits", "--toml", "train.steps=7"))
        assert shown(told("show", "-r", "mine.toml"))["train.steps"] == ("7", "recipe mine")


class TestPairing:
    """--heads and --objectives."""

    def heads(self, *flags: str, told: Told) -> dict[str, str]:
        tree = json.loads(told("show", *flags, "--json"))
        assert list(tree["heads"]) == list(dict.fromkeys(part["head"] for part in tree["objectives"].values()))
        return {name: part["head"] for name, part in tree["objectives"].items()}

    def test_by_position(self, told: Told) -> None:
        assert self.heads("--heads", "v,u", "--objectives", "fm,cm", told=told) == {"fm": "v", "cm": "u"}
        assert self.heads("--heads", "a, b", "--objectives", "fm,cm", told=told) == {"fm": "a", "cm": "b"}

    def test_by_name(self, told: Told) -> None:
        assert self.heads("--objectives", "fm@a,cm@b", told=told) == {"fm": "a", "cm": "b"}
        assert self.heads("--heads", "b,a", "--objectives", "cm@b,fm", told=told) == {"cm": "b", "fm": "a"}

    def test_usual_heads(self, told: Told) -> None:
        assert self.heads("--objectives", "fm", told=told) == {"fm": "v"}
        assert self.heads("--objectives", "fm,cm", "-r", "fm-moons", told=told) == {"fm": "v", "cm": "u"}

    def test_objectives_of_other_horizons_get_heads_of_their_own_names(self, told: Told) -> None:
        one = self.heads("--objectives", "fm,mf,cm", told=told)
        assert one == {"fm": "v", "mf": "u", "cm": "cm"}
        assert self.heads("--objectives", "fm,cm,mf", told=told) == {"fm": "v", "cm": "u", "mf": "mf"}
        assert self.heads("--objectives", "fm,mf,cm", "-r", "fm-moons", told=told) == one
        sc = self.heads("--objectives", "fm,sc,cm", "pairs.equal_share=0.25", told=told)
        assert sc == {"fm": "v", "sc": "u", "cm": "cm"}
        rows = shown(told("show", "--objectives", "fm,mf,cm"))
        assert rows["objectives.cm.head"] == ('"cm"', "--objectives")
        assert rows["objectives.mf.head"] == ('"u"', "default")
        told("cost", "--objectives", "fm,mf,cm")

    def test_objectives_of_one_horizon_share_their_usual_head(self, told: Told) -> None:
        assert self.heads("--objectives", "mf,imf", told=told) == {"mf": "u", "imf": "u"}
        assert self.heads("--objectives", "cm,ect,ict", told=told) == {"cm": "u", "ect": "u", "ict": "u"}

    def test_named_heads_are_kept(self, told: Told) -> None:
        """A head that is named, on the command line or by an override, is a mixture if it serves several horizons."""
        mixed = ["pairs=zero", "pairs.equal_share=0.5"]
        assert self.heads("--objectives", "fm@u,cm@u", *mixed, told=told) == {"fm": "u", "cm": "u"}
        assert self.heads("--objectives", "fm@u,mf", "pairs.equal_share=0.5", told=told) == {"fm": "u", "mf": "mf"}
        assert self.heads("--objectives", "fm,mf,cm", "objectives.cm.head=w", told=told)["cm"] == "w"
        assert self.heads("--objectives", "fm@cm,mf,cm", told=told) == {"fm": "cm", "mf": "u", "cm": "cm_head"}

    def test_an_objective_without_a_kind_of_its_name_keeps_what_the_recipe_says(
        self, told: Told, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.toml").write_text('[objectives.a]\nkind = "mf"\n[objectives.b]\nkind = "cm"\n')
        assert self.heads("-r", "mine.toml", "--objectives", "a,b", told=told) == {"a": "u", "b": "b"}
        assert "unknown objective 'bananas'" in told.wrong("show", "--objectives", "fm,bananas")

    def test_fewer_heads_than_objectives(self, told: Told) -> None:
        error = told.wrong("show", "--heads", "v", "--objectives", "fm,cm")
        assert error == "error: 2 objectives but 1 head; type --heads v,u\n"
        told("show", "--heads", "v,u", "--objectives", "fm,cm")  # as it says

    def test_more_heads_than_objectives(self, told: Told) -> None:
        error = told.wrong("show", "--heads", "v,u", "--objectives", "fm")
        assert error.startswith("error: heads: no objective trains head 'u'; type --heads v,")
        told("show", "--heads", "v", "--objectives", "fm")

    def test_the_same_settings_have_the_same_name(self) -> None:
        one, _ = resolve(heads="v,u", objectives="fm,cm")
        two, _ = resolve(objectives="fm@v,cm@u")
        assert one == two
        assert one.run_name() == two.run_name() == resolve()[0].run_name()
        assert resolve(seed=1)[0].run_name() != one.run_name()
        assert resolve(overrides=["log.every=1"])[0].run_name() == one.run_name()


class TestSchema:
    def test_it_knows_every_key_of_every_recipe(self, told: Told) -> None:
        schema = json.loads(told("schema"))
        assert schema["properties"].keys() == Experiment.model_fields.keys()
        assert schema["additionalProperties"] is False
        for recipe in recipe_names():
            assert read_toml(find_recipe(recipe)).keys() <= schema["properties"].keys()
            assert Experiment.model_validate(read_toml(find_recipe(recipe))).name == recipe

    def test_it_lists_every_part_with_its_settings_and_their_help(self, told: Told) -> None:
        schema = json.loads(told("schema"))
        choices = {c["properties"]["kind"]["const"]: c for c in schema["properties"]["backbone"]["anyOf"][1:]}
        assert list(choices) == FAMILIES["backbones"].names()
        assert choices["dit"]["properties"]["patch"]["description"].startswith("Side of the square")


class TestCheck:
    @pytest.mark.parametrize("name", ["cm", "objectives:fm", "grids:uniform", "restart"])
    def test_a_part(self, name: str, told: Told) -> None:
        text = told("check", name)
        assert all(line.startswith("ok ") for line in text.splitlines())
        assert "documented" in text

    def test_a_name_in_several_families(self, told: Told) -> None:
        assert {line.split()[1] for line in told("check", "kumaraswamy").splitlines()} == {
            "times:kumaraswamy",
            "grids:kumaraswamy",
        }

    def test_a_part_that_raises_fails_with_the_line(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        plugin = tmp_path / "clumsy.py"
        plugin.write_text(CLUMSY)
        try:
            assert run(["check", "clumsy", "--plugin", str(plugin)]) == 1
            told = capsys.readouterr()
            assert "FAIL" in told.out
            assert "ZeroDivisionError: integer division or modulo by zero (clumsy.py, line 17)" in told.out
            assert "Traceback" not in told.out + told.err
        finally:
            OBJECTIVES.unregister("clumsy")


PLUGIN = '''"""A plugin in one file."""

from genobj.objectives.base import Regression
from genobj.parts import OBJECTIVES
from genobj.types import Draw, Passes, Samples


@OBJECTIVES.register("clumsy")
class Clumsy(Regression):
    """Flow matching once more."""

    head: str = "v"
    """Head that learns v_t."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """The velocity."""
        return draw.v_t
'''
CLUMSY = PLUGIN.replace("return draw.v_t", "return draw.v_t / (1 // 0)")


class TestNew:
    @pytest.mark.parametrize("name", ["my_loss", "derivative", "regression", "my_objective", "x2"])
    def test_a_new_objective_passes_check_as_it_is(self, name: str, told: Told, tmp_path: Path) -> None:
        text = told("new", "objective", name)
        folder = tmp_path / f"genobj-{name.replace('_', '-')}"
        file = folder / f"genobj_{name}.py"
        assert f"genobj check {name} --plugin" in text
        try:
            assert f"objectives:{name}" in told("check", name, "--plugin", str(file))
        finally:
            OBJECTIVES.unregister(name)
        assert len(file.read_text().splitlines()) <= 40
        project = tomllib.loads((folder / "pyproject.toml").read_text())
        ((key, target),) = project["project"]["entry-points"]["genobj.objectives"].items()
        assert (key, target.partition(":")[0]) == (name, f"genobj_{name}")

    def test_it_overwrites_nothing(self, told: Told) -> None:
        told("new", "objective", "my_loss")
        assert "is not empty; choose another --out" in told.wrong("new", "objective", "my_loss")
        told("new", "objective", "my_loss", "--out", "elsewhere")


class TestCost:
    @pytest.mark.parametrize(
        ("flags", "without"), [([], 2), (["guidance.kind=self"], 3), (["--heads", "v", "--objectives", "fm"], 0)]
    )
    def test_passes(self, flags: list[str], without: int, told: Told) -> None:
        cost = json.loads(told("cost", "-r", "dumo-digits", "--json", *flags))
        assert cost["passes"] == {
            "with_gradient": 1,
            "without_gradient": without,
            "tangent": 0,
            "teacher": 0,
        }
        assert f"1 with gradients + {without} without" in told("cost", "-r", "dumo-digits", *flags)

    def test_dit_xl(self, told: Told) -> None:
        flags = ["--backbone", "dit-xl/2", "--data", "normal", "data.sizes=[4,32,32]", "data.labels=1000"]
        cost = json.loads(told("cost", *flags, "guidance=self", "train.batch=2", "--json"))
        assert cost["parameters"]["total"] == 677786144
        assert cost["parameters"]["heads"] == {"v": 2674960, "u": 2674960}
        assert cost["passes"]["without_gradient"] == 3

    def test_text(self, told: Told) -> None:
        text = told("cost")
        assert "head u      258  (+258, +0.51 % of the one-head model)" in text
        assert "FLOPs/step" in text
        assert "memory" in text

    def test_cite(self, told: Told) -> None:
        text = told("cite")
        assert text.startswith("@")
        assert "Duality Models" in text
        assert "Duality Models" not in told("cite", "-r", "fm-moons")


class TestARun:
    @pytest.fixture
    def trained(self, told: Told) -> Told:
        told("train", "--out", "one", *TINY, "evaluation.nfe=[1,2]")
        return told

    def test_train_sample_evaluate(self, told: Told, tmp_path: Path) -> None:
        text = told("train", "--heads", "v,u", "--objectives", "fm,cm", *TINY, "evaluation.nfe=[1,2]")
        assert "heads v (instant), u (data); objectives fm, cm" in text
        assert "sliced W2 (lower is better)" in text
        folder = tmp_path / text.split("picture   ")[1].split("/samples.png")[0]
        assert folder.name.startswith("dumo-moons-")
        assert (tmp_path / "runs/latest").resolve() == folder
        told("sample")  # the latest run
        assert (folder / "samples/nfe_1.png").read_bytes().startswith(b"\x89PNG")
        assert "1000 x MMD^2" in told("evaluate", "--count", "32")

    def test_sample_numbers(self, trained: Told, tmp_path: Path) -> None:
        trained("sample", "one", "--nfe", "2", "--count", "5", "--out", "x.npz")
        trained("sample", "one", "--nfe", "2", "--count", "3", "--out", "y.npz")
        x, y = np.load(tmp_path / "x.npz")["arr_0"], np.load(tmp_path / "y.npz")["arr_0"]
        assert x.shape == (5, 2)
        assert np.array_equal(x[:3], y)  # sample i does not depend on the count
        assert "arr_1" not in np.load(tmp_path / "x.npz")

    def test_sample_settings(self, trained: Told, tmp_path: Path) -> None:
        drawn = []
        for name, flags in {
            "usual": [],
            "kappa": ["kappa=0"],
            "seed": ["--seed", "1"],
            "live": ["--weights", "live"],
            "euler": ["--sampler", "euler"],
            "grid": ["--sampler", "euler", "grid=karras"],
        }.items():
            trained("sample", "one", "--nfe", "2", "--count", "4", "--out", f"{name}.npz", *flags)
            drawn.append(np.load(tmp_path / f"{name}.npz")["arr_0"].tobytes())
        assert len(set(drawn)) == len(drawn)

    def test_a_sampler_without_nfe_takes_its_own(self, trained: Told, tmp_path: Path) -> None:
        """One step along a velocity gives the mean of the data."""
        for words, says in {
            "": "(1 NFE, weights",
            "--sampler euler": "(50 NFE by euler, weights",
            "--sampler edm": "(35 NFE by edm, weights",
            "--sampler midpoint steps=3": "(6 NFE by midpoint, weights",
            "--sampler restart": "(1 NFE by restart, weights",
            "--sampler ucgm-few": "(2 NFE by ucgm-few, weights",
            "--sampler euler --nfe 2,3": "(2 NFE, 3 NFE by euler, weights",
        }.items():
            assert says in trained("sample", "one", "--count", "4", *words.split())
        assert (tmp_path / "one/samples/nfe_35_edm.png").is_file()
        assert "4 samples (" in trained("sample", "one", "--count", "4", "--sampler", "restart", "--trajectory")

    def test_sample_labels(self, told: Told, tmp_path: Path) -> None:
        told("train", "--data", "digits", "--backbone", "mlp", "--out", "digits", *TINY, "evaluation.nfe=[1]")
        told("sample", "digits", "--count", "12", "--out", "all.npz")
        assert np.load(tmp_path / "all.npz")["arr_1"].tolist() == [*range(10), 0, 1]
        told("sample", "digits", "--count", "3", "--label", "7", "--out", "seven.npz", "guidance=2")
        assert np.load(tmp_path / "seven.npz")["arr_1"].tolist() == [7, 7, 7]
        assert np.load(tmp_path / "seven.npz")["arr_0"].shape == (3, 8, 8, 1)

    def test_evaluate_json(self, trained: Told, tmp_path: Path) -> None:
        told = trained("evaluate", "one", "--json", "--out", "scores.json", "--metrics", "energy", "--nfe", "1,4")
        records = json.loads(told)
        assert records == json.loads((tmp_path / "scores.json").read_text())
        assert [(r["metric"], r["nfe"], r["sampler"]) for r in records] == [
            ("energy", 1, "restart"),
            ("energy", 4, "restart"),
        ]
        assert {(r["n"], r["reference"], r["seed"], r["weights"]) for r in records} == {(64, 64, 0, "ema_0.999")}

    def test_evaluate_repeats_the_results_of_the_run(self, trained: Told, tmp_path: Path) -> None:
        assert json.loads(trained("evaluate", "one", "--json")) == json.loads(
            (tmp_path / "one/results.json").read_text()
        )

    def test_default_folders_never_collide(self, told: Told, tmp_path: Path) -> None:
        for _ in range(3):
            told("train", *TINY, "evaluation.nfe=[1]")
        runs = sorted(path.name for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
        assert len(runs) == 3
        assert [name.removeprefix(runs[0]) for name in runs] == ["", "-2", "-3"]
        assert (tmp_path / "runs/latest").resolve().name == runs[2]

    def test_resume(self, trained: Told, tmp_path: Path) -> None:
        assert "resumed at step 3" in trained("train", "--resume", "auto", "--out", "one")
        assert "resumed at step 3" in trained("train", "--resume", "one", "evaluation.nfe=[1]")
        assert not (tmp_path / "latest").is_symlink()  # only runs/ has a newest run
        assert "already holds a run; continue it with --resume auto" in trained.wrong("train", "--out", "one", *TINY)

    def test_resume_starts_what_is_not_there(self, told: Told, tmp_path: Path) -> None:
        assert "resumed" not in told("train", "--resume", "auto", "--out", "two", *TINY)
        assert "resumed" not in told("train", "--resume", "auto", *TINY)
        assert "resumed at step 3" in told("train", "--resume", "auto", *TINY)
        assert len([path for path in (tmp_path / "runs").iterdir() if not path.is_symlink()]) == 1

    def test_dry_run(self, told: Told, tmp_path: Path) -> None:
        text = told("train", "--dry-run", "train.steps=7")
        assert shown(text.partition("\n\n")[2])["train.steps"] == ("7", "train.steps=7")
        assert "1 with gradients + 2 without" in text
        assert text.endswith("\nnothing was trained; leave --dry-run out to start\n")
        assert not any(tmp_path.iterdir())

    def test_a_run_in_this_folder(self, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        told("train", "--out", ".", *TINY, "evaluation.nfe=[1]")
        assert [path.name for path in tmp_path.iterdir()] == ["here"]
        told("sample", ".")

    def test_the_newest_run_is_meant_where_none_is_named(self, told: Told, tmp_path: Path) -> None:
        told("train", *TINY, "evaluation.nfe=[1]")
        assert "runs/latest" in told("sample", "kappa=0.5", "--nfe", "2")
        assert "resumed at step 3" in told("train", "--resume", "runs/latest")
        assert (tmp_path / "runs/latest").resolve().is_dir()

    def test_the_runs_own_sampler_samples(self, told: Told, tmp_path: Path) -> None:
        own = 'evaluation.sampler={kind="restart",kappa=0.25}'
        told("train", *TINY, "evaluation.nfe=[2]", own, "--out", "own")
        (record,) = json.loads(told("evaluate", "own", "--metrics", "energy", "--json", "interval=[0.0,0.5]"))
        assert record["settings"] == {"steps": 2, "kappa": 0.25, "interval": [0.0, 0.5]}

    def test_two_metrics_of_one_kind_stay_apart(self, told: Told) -> None:
        two = 'evaluation.metrics={a={kind="mmd"},b={kind="mmd",bandwidths=[9.0]}}'
        table = told("train", *TINY, "evaluation.nfe=[1]", two)
        assert "a: 1000 x MMD^2" in table
        assert "b: 1000 x MMD^2" in table

    @pytest.mark.parametrize("sizes", ["[1]", "[3]", "[4,8]", "[2,8,8]", "[4,8,8]"])
    def test_samples_of_any_shape_are_drawn(self, told: Told, sizes: str) -> None:
        data = ["--data", "normal", f"data.sizes={sizes}", "--backbone", "mlp", "evaluation.metrics=energy"]
        told(
            "train", *data, *[word for word in TINY if not word.startswith("evaluation.metrics")], "evaluation.nfe=[1]"
        )

    def test_data_means_the_same_as_a_flag_and_as_a_setting(self, told: Told) -> None:
        one, two = (json.loads(told("show", "--json", *words)) for words in (["--data", "digits"], ["data=digits"]))
        assert one == two


class TestPluginFiles:
    @pytest.fixture
    def plugin(self, tmp_path: Path) -> Any:
        (tmp_path / "clumsy.py").write_text(PLUGIN)
        yield "clumsy.py"
        OBJECTIVES.unregister("clumsy")
        sys.modules.pop("genobj_plugin_clumsy", None)

    def test_list_check_train_and_sample_from_elsewhere(
        self, plugin: str, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "Flow matching once more." in told("list", "objectives", "--plugin", plugin)
        assert "ok" in told("check", "clumsy", "--plugin", plugin)
        told("train", "--heads", "v,u", "--objectives", "clumsy,cm", "--plugin", plugin, "--out", "run", *TINY)
        assert read_toml(tmp_path / "run/config.toml")["plugins"] == [str(tmp_path / "clumsy.py")]
        OBJECTIVES.unregister("clumsy")
        sys.modules.pop("genobj_plugin_clumsy")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        told("sample", "../run", "--count", "4")
        told("evaluate", "../run", "--count", "8")
        assert "resumed at step 3" in told("train", "--resume", "../run")

    def test_a_flag_adds_to_the_plugins_of_a_recipe(self, plugin: str, told: Told, tmp_path: Path) -> None:
        (tmp_path / "other.py").write_text("")
        (tmp_path / "mine.toml").write_text('plugins = ["clumsy.py"]\n[objectives.clumsy]\n')
        tree = json.loads(told("show", "-r", "mine.toml", "--plugin", "other.py", "--plugin", plugin, "--json"))
        assert tree["plugins"] == [str(tmp_path / "clumsy.py"), str(tmp_path / "other.py")]
        assert list(tree["heads"]) == ["v"]

    def test_the_head_of_a_plugin_is_known_to_the_error(self, plugin: str, told: Told) -> None:
        error = told.wrong("show", "--heads", "u", "--objectives", "cm,clumsy", "--plugin", plugin)
        assert "type --heads u,v" in error

    def test_each_file_is_imported_once(self, plugin: str, told: Told) -> None:
        load_plugins([plugin, plugin])
        load_plugins([str(Path(plugin).resolve())])
        assert "clumsy" in OBJECTIVES.names()


LIGHT = ["import genobj", *(f"main({words})" for words in (["list"], ["--help"], ["--version"], ["train", "-h"]))]


@pytest.mark.parametrize("code", LIGHT)
def test_no_torch_is_loaded_and_the_answer_is_quick(code: str) -> None:
    imports = "from genobj.cli.main import run as main\n" if code.startswith("main") else ""
    heavy = "heavy = {'torch', 'torchvision', 'scipy', 'sklearn', 'matplotlib', 'numpy'} & sys.modules.keys()"
    script = f"{imports}{code}\nimport sys\n{heavy}\nassert 'genobj' in sys.modules\nassert not heavy, heavy\n"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert time.perf_counter() - start < 40 * bare + 5
