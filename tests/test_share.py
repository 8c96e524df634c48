"""Models that leave the machine: exported folders, the Hub, ONNX, torch.export, pipelines of diffusers."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import genobj
from genobj import hub
from genobj.cli import main
from genobj.cli.resolve import resolve
from genobj.config.load import read_toml, write_toml
from genobj.experiment import Experiment
from genobj.parts import BACKBONES
from genobj.samplers.base import Sampler
from genobj.samplers.flow_map import FlowMap
from genobj.samplers.restart import Restart
from genobj.seeds import noise
from genobj.sharing import folder as shared
from genobj.sharing.card import Card
from genobj.sharing.generator import Unrolled, write_onnx, write_torch
from genobj.sharing.pretrained import from_pretrained
from genobj.training import weights as files
from tests.sharing import make_run
from tests.test_mistakes import MALICE, Damage, empty, flip, remove, replace, settings, truncate

PLUGIN = """
from pathlib import Path
from genobj.backbones.mlp import MLP
from genobj.config.base import Config
from genobj.backbones.base import Backbone
from genobj.parts import BACKBONES

Path("plugin-was-run").touch()

@BACKBONES.register("walking")
class Walking(Backbone):
    "A perceptron of a plugin."
    width: int = 16
    "Width."
    def build(self, shape, classes, *, sees_r):
        return MLP(width=self.width).build(shape, classes, sees_r=sees_r)
"""
CODE = "from pathlib import Path\nPath({0!r}).touch()\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and what is exported from one of them."""
    folder = tmp_path_factory.mktemp("sharing")
    make_run(folder / "digits", "evaluation.nfe=[2,1]", "evaluation.sampler={kind='restart',kappa=0.5}")
    make_run(folder / "moons", data="moons")
    shared.export(folder / "digits", folder / "model", license="mit")
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command line answers."""
    assert main.run(words) == code
    answer = capsys.readouterr()
    assert "Traceback" not in answer.err
    return answer.err if code else answer.out


class TestFolder:
    def test_it_has_the_layout_of_the_hub(self, place: Path) -> None:
        names = {"config.json", "model.safetensors", "README.md", "samples.png", "recipe.toml", "results.json"}
        assert {path.name for path in (place / "model").iterdir()} == set(shared.contents(place / "model")) == names
        tree = json.loads((place / "model/config.json").read_text())
        assert (tree["weights"], tree["version"], tree["data"]["kind"]) == ("ema_0.9", genobj.__version__, "digits")
        assert read_toml(place / "model/recipe.toml")["backbone"]["width"] == 16

    def test_it_gives_the_samples_of_the_run(self) -> None:
        run, model = from_pretrained("digits", device="cpu"), from_pretrained(Path("model"), device="cpu")
        assert model.weights == run.weights == "ema_0.9"
        assert model.sampler(2) == run.sampler(2) == Restart(steps=2, kappa=0.5)
        assert torch.equal(model.sample(5, nfe=2, seed=3), run.sample(5, nfe=2, seed=3))

    def test_it_gives_them_in_another_process(self, place: Path) -> None:
        code = (
            "import genobj, hashlib; x = genobj.from_pretrained('model', device='cpu').sample(5, nfe=2, seed=3);"
            "print(hashlib.sha256(x.numpy().tobytes()).hexdigest())"
        )
        shutil.copytree(place / "model", place / "elsewhere/model")
        answer = subprocess.run(
            [sys.executable, "-c", f"import torch; torch.set_num_threads(1); {code}"],
            cwd=place / "elsewhere",
            env={**os.environ, "PYTHONPATH": str(Path(genobj.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        ours = from_pretrained("digits", device="cpu").sample(5, nfe=2, seed=3)
        assert answer.stdout.strip() == hashlib.sha256(ours.numpy().tobytes()).hexdigest()

    def test_the_page_tells_what_it_is(self, place: Path) -> None:
        front, _, page = (place / "model/README.md").read_text().removeprefix("---\n").partition("---\n")
        lines = dict(line.split(": ", 1) for line in front.splitlines())
        assert lines["library_name"] == "genobj"
        assert lines["license"] == '"mit"'
        assert json.loads(lines["tags"]) == ["genobj", "fm", "cm"]
        assert "datasets" not in lines  # digits is a name of ours, which the Hub would link to somebody's data
        assert 'genobj.from_pretrained("model")' in page
        assert "31.5" in page
        assert "| 2 | mine | 2 |" in page  # of a metric that is not installed here
        assert "| live |" not in page  # results of other weights are left out
        assert "@" in page.partition("```bibtex")[2]
        assert "[backbone]" in page

    def test_the_page_links_to_data_that_the_hub_knows(self) -> None:
        settings = hub.load(Path("digits")).settings
        experiment = Experiment.model_validate({"data": {"kind": "cifar10"}})
        assert 'datasets: ["uoft-cs/cifar10"]\n' in Card("x", settings, "ema", "float32", 1, experiment, []).front()
        assert "datasets" not in Card("x", settings, "ema", "float32", 1, None, []).front()

    def test_without_a_license_the_page_names_none(self, tmp_path: Path) -> None:
        shared.export(Path("moons"), tmp_path / "out", "live", "bfloat16")
        page = (tmp_path / "out/README.md").read_text()
        assert "license" not in page.partition("\n---\n")[0]
        assert "weights `live`, stored in bfloat16" in page
        assert from_pretrained(tmp_path / "out").weights == "live"

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_lower_precision_is_that_of_what_was_learnt(self, dtype: shared.Dtype, tmp_path: Path) -> None:
        shared.export(Path("digits"), tmp_path / "low", dtype=dtype)
        low, whole = files.read(tmp_path / "low/model.safetensors"), files.read(Path("digits/ema_0.9.safetensors"))
        kind = getattr(torch, dtype)
        assert {name for name, value in low.items() if value.dtype != kind} == {"trunk.frequencies", "trunk.phases"}
        loaded = hub.load(tmp_path / "low").model.state_dict()
        for name, value in whole.items():
            assert torch.equal(loaded[name], low[name].float())
            assert torch.allclose(loaded[name], value, rtol=2**-7, atol=1e-6)

    def test_it_is_exported_again(self, tmp_path: Path) -> None:
        shared.export(Path("model"), tmp_path / "again")
        for name in ("model.safetensors", "recipe.toml", "results.json"):
            assert (tmp_path / "again" / name).read_bytes() == Path("model", name).read_bytes()

    def test_a_folder_that_holds_something_is_left_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ValueError, match="digits is not empty; choose another --to"):
            shared.export(Path("moons"), Path("digits"))

    def test_a_name_for_weights(self) -> None:
        for name in ("ema", "ema_0.9", "0.9"):
            assert from_pretrained("model", device="cpu", weights=name).weights == "ema_0.9"
        with pytest.raises(ValueError, match=r"model has no weights .live.; choose from ema, ema_0\.9, 0\.9"):
            from_pretrained("model", weights="live")

    def test_an_imported_model_without_a_recipe_is_exported(self, tmp_path: Path) -> None:
        loaded = hub.load(Path("moons"))
        (tmp_path / "foreign").mkdir()
        about = {"kind": "dit", "file": "x.pt"}
        hub.save(tmp_path / "foreign", loaded.model.state_dict(), loaded.settings, "ema", imported=about)
        shared.export(tmp_path / "foreign", tmp_path / "out")
        assert from_pretrained(tmp_path / "out").weights == "ema"
        assert hub.read(tmp_path / "out")["imported"] == about
        assert "Recipe" not in (tmp_path / "out/README.md").read_text()

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        answer = told(capsys, "export", "digits", "--to", str(tmp_path / "out"), "--license", "mit")
        assert answer.startswith(f"{tmp_path}/out: config.json 1 kB, model.safetensors ")
        assert f"next  genobj sample {tmp_path}/out" in answer
        assert (tmp_path / "out/model.safetensors").read_bytes() == Path("model/model.safetensors").read_bytes()

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ("digits", "say what to write: --to DIR, --onnx FILE.onnx or --torch-export FILE.pt2"),
            ("digits --onnx x.pt2", "x.pt2: type a file that ends in .onnx"),
            ("digits --torch-export x.pt", "x.pt: type a file that ends in .pt2"),
            ("digits --torch-export no/x.pt2", "there is no folder no"),
            ("digits --to moons", "moons is not empty; choose another --to"),
            ("digits --to new --weights 0.5", "digits has no weights '0.5'; choose from live, ema, 0.9"),
            ("digits --to new --dtype float8", "Invalid value for '--dtype'"),
            ("moons --torch-export x.pt2 --guidance 2", "guidance=2.0 needs a model with a null label"),
            ("moons --torch-export x.pt2 --nfe 3 --sampler heun", "heun costs 2 evaluations a step"),
            ("nowhere --to new", "there is no nowhere here"),
        ],
    )
    def test_a_mistake_is_answered_in_a_sentence(
        self, words: str, says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert says in told(capsys, "export", *words.split(), code=2)
        assert not Path("new").exists()


class TestSamples:
    def test_labels(self) -> None:
        model = from_pretrained("model", device="cpu")
        x = model.sample(3)
        assert torch.equal(model.sample(3, labels=[0, 1, 2]), x)
        assert torch.equal(model.sample(3, labels=torch.tensor([0, 1, 2])), x)
        assert torch.equal(model.sample(3, labels=1)[1], x[1])
        assert not torch.equal(model.sample(3, labels=1)[0], x[0])

    def test_guidance(self) -> None:
        model = from_pretrained("model", device="cpu")
        assert model.sampler(2, guidance=1.5) == Restart(steps=2, kappa=0.5, guidance=1.5)
        assert not torch.equal(model.sample(2, guidance=3.0), model.sample(2))

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ({"count": 0}, "type a number of samples above 0"),
            ({"count": 2, "labels": [1]}, "1 labels do not fit 2 samples"),
            ({"count": 2, "labels": 10}, "this model has labels 0 to 9, not"),
            ({"count": 2, "nfe": 0}, "greater than 0"),
        ],
    )
    def test_what_cannot_be(self, words: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            from_pretrained("model", device="cpu").sample(**words)

    def test_labels_of_a_model_without(self) -> None:
        with pytest.raises(ValueError, match="this model has no labels: leave them out"):
            from_pretrained("moons").sample(2, labels=1)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights_truncated": (truncate("model.safetensors"), "is damaged"),
    "weights_empty": (empty("model.safetensors"), "is damaged"),
    "weights_removed": (remove("model.safetensors"), "is missing"),
    "weights_length": (flip("model.safetensors", 0.0), "is damaged"),
    "weights_header": (flip("model.safetensors", 0.01), "is damaged"),
    "weights_bit": (flip("model.safetensors", 0.6), "checksum"),
    "weights_pickle": (replace("model.safetensors", MALICE), "is damaged"),
    "json_truncated": (truncate("config.json"), "config.json is damaged"),
    "json_empty": (empty("config.json"), "config.json is damaged"),
    "json_removed": (remove("config.json"), "it has no config.json"),
    "json_list": (replace("config.json", b"[]"), "config.json is damaged"),
    "json_deep": (replace("config.json", b"[" * 100_000), "config.json is damaged"),
    "json_no_model": (settings(lambda tree: tree.pop("model")), "config.json is damaged"),
    "json_model_word": (settings(lambda tree: tree.update(model="mlp")), "does not describe a model"),
    "json_weights_number": (settings(lambda tree: tree.update(weights=3)), "its weights have no name"),
    "json_wider": (settings(lambda tree: tree["model"]["backbone"].update(width=17)), "does not fit these settings"),
    "json_huge": (settings(lambda tree: tree["model"]["backbone"].update(width=10**12)), "does not describe a model"),
    "json_shape": (settings(lambda tree: tree["model"].update(shape=[2])), "does not fit these settings"),
    "json_unknown": (settings(lambda tree: tree["model"].update(more=1)), "unknown key 'more'"),
    "json_backbone": (settings(lambda tree: tree["model"]["backbone"].update(kind="mlpp")), "Did you mean 'mlp'?"),
    "json_evaluation": (settings(lambda tree: tree.update(evaluation=[1])), "evaluation settings cannot be read"),
    "json_nfe": (settings(lambda tree: tree["evaluation"].update(nfe=[0])), "evaluation settings cannot be read"),
    "json_sampler": (
        settings(lambda tree: tree["evaluation"].update(sampler={"kind": "eulr"})),
        "evaluation settings cannot be read: sampler: unknown sampler 'eulr'. Did you mean 'euler'?",
    ),
}
"""Damages to an exported folder, and what is said about them."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_a_sentence(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("model", tmp_path / "model")
    change, says = DAMAGES[damage]
    change(tmp_path / "model")
    error = told(capsys, "sample", str(tmp_path / "model"), "--count", "4", code=2)
    assert says in error
    assert len(error) < 700
    assert not Path("malice-was-here").exists()


@pytest.mark.parametrize("text", [b"[", b"{}", b"[1]", b"\xff"])
def test_damaged_results_are_refused(text: bytes, tmp_path: Path) -> None:
    shutil.copytree("model", tmp_path / "model")
    (tmp_path / "model/results.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"results.json is damaged"):
        shared.export(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class TestPlugins:
    @pytest.fixture
    def exported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A model of a plugin, in a process that does not know the plugin."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "walk.py").write_text(PLUGIN)
        make_run(tmp_path / "run", backbone="walking", plugins="walk.py")
        shared.export(tmp_path / "run", tmp_path / "model")
        self.forget()
        yield tmp_path / "model"
        if "walking" in BACKBONES.names():
            self.forget()

    def forget(self) -> None:
        BACKBONES.unregister("walking")
        del sys.modules["genobj_plugin_walk"]
        Path("plugin-was-run").unlink()

    def test_it_comes_along_and_is_not_run_unasked(self, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert (exported / "plugins/walk.py").read_text() == PLUGIN
        assert "plugins/walk.py" in shared.contents(exported)
        assert read_toml(exported / "recipe.toml")["plugins"] == ["plugins/walk.py"]
        with pytest.raises(
            ValueError, match=r"unknown backbone 'walking'.* not run unless you trust it.*trust_plugins"
        ):
            from_pretrained(exported)
        assert f"--plugin {exported}/plugins/walk.py" in told(capsys, "sample", str(exported), code=2)
        assert not Path("plugin-was-run").exists()

    def test_it_is_run_when_it_is_trusted(self, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
        x = from_pretrained(exported, trust_plugins=True).sample(2)
        assert Path("plugin-was-run").exists()
        assert x.shape == (2, 1, 8, 8)
        self.forget()
        words = ["--plugin", str(exported / "plugins/walk.py"), "--out", "x.png"]
        assert "weights ema_0.9" in told(capsys, "sample", str(exported), *words)

    def test_a_lost_plugin_is_named(self, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "walk.py").unlink()
        with pytest.raises(ValueError, match=r"made with the plugin .*walk.py, which is neither there nor in"):
            shared.plugin_files(tmp_path / "run")


class TestHub:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        """Where the Hub's client keeps me/model."""
        folder = tmp_path / "hub/models--me--model/snapshots/0123"
        folder.mkdir(parents=True)
        return folder

    @pytest.fixture
    def fetched(self, monkeypatch: pytest.MonkeyPatch, place: Path, cache: Path) -> list[tuple[str, str | None]]:
        """A Hub that holds the exported model as me/model; what it was asked for."""
        import huggingface_hub

        asked: list[tuple[str, str | None]] = []

        def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            asked.append((name, revision))
            assert "config.toml" not in allow_patterns  # names plugins of a run, which are run
            for file in (place / "model").iterdir():
                if any(file.match(pattern) for pattern in allow_patterns):
                    shutil.copy(file, cache)
            return str(cache)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    def test_a_model_is_fetched(self, fetched: list[tuple[str, str | None]]) -> None:
        x = genobj.from_pretrained("me/model", revision="v2", device="cpu").sample(2)
        assert fetched == [("me/model", "v2")]
        assert torch.equal(x, from_pretrained("model", device="cpu").sample(2))

    def test_the_command_line_fetches_it_too(
        self, fetched: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "me_model_nfe_1.png" in told(capsys, "sample", "me/model", "--count", "4")
        assert Path("me_model_nfe_1.png").is_file()
        assert fetched == [("me/model", None)]

    def test_recipe_and_results_come_along(
        self, fetched: list[tuple[str, str | None]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told(capsys, "export", "me/model", "--to", str(tmp_path / "again"))
        for name in ("recipe.toml", "results.json"):
            assert (tmp_path / "again" / name).read_bytes() == Path("model", name).read_bytes()
        assert "| 31.5 |" in (tmp_path / "again/README.md").read_text()

    @pytest.mark.parametrize("kind", ["fetched", "cache", "clone"])
    @pytest.mark.parametrize("command", ["sample", "evaluate", "export"])
    def test_code_that_came_along_is_not_run(
        self,
        command: str,
        kind: str,
        fetched: list[tuple[str, str | None]],
        cache: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A config.toml and plugins in the Hub's cache (by its name or ours), or added to an exported folder."""
        clone = tmp_path / "clone"
        shutil.copytree("model", clone)
        for folder in (cache, clone):
            (folder / "config.toml").write_text('plugins = ["evil.py"]\nevaluation.nfe = [0]\n')
            (folder / "plugins").mkdir()
            (folder / "plugins/evil.py").write_text(CODE.format(str(tmp_path / "plugin-was-run")))
        if kind == "cache":  # as a run's folder
            shutil.copytree("digits", cache, dirs_exist_ok=True, ignore=shutil.ignore_patterns("config.toml"))
        words = {
            "sample": ["--count", "4", "--out", str(tmp_path / "x.npz")],
            "evaluate": ["--ref", "none.npz"],
            "export": ["--to", str(tmp_path / "again")],
        }[command]
        source = {"fetched": "me/model", "cache": str(cache), "clone": str(clone)}[kind]
        answer = told(capsys, command, source, *words, code=2 if command == "evaluate" else 0)
        assert "none.npz" in answer if command == "evaluate" else "nfe" not in answer
        assert fetched == ([("me/model", None)] if kind == "fetched" else [])
        assert not (tmp_path / "plugin-was-run").exists()

    def test_code_of_a_run_of_ours_is_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The other side of the test above."""
        shutil.copytree("digits", tmp_path / "run")
        tree = read_toml(tmp_path / "run/config.toml")
        plugin = tmp_path / "mine.py"
        plugin.write_text(CODE.format(str(tmp_path / "plugin-was-run")))
        (tmp_path / "run/config.toml").write_text(write_toml(tree | {"plugins": [str(plugin)]}))
        told(capsys, "sample", str(tmp_path / "run"), "--count", "4", "--out", str(tmp_path / "x.npz"))
        assert (tmp_path / "plugin-was-run").exists()

    def test_a_folder_here_wins(self, fetched: list[tuple[str, str | None]], tmp_path: Path) -> None:
        shutil.copytree("model", tmp_path / "me/model")
        os.chdir(tmp_path)
        from_pretrained("me/model")
        with pytest.raises(ValueError, match="there is no me/other here; type a run's folder"):
            from_pretrained("me/other")
        with pytest.raises(ValueError, match="there is no runs/other here"):
            from_pretrained("runs/other")
        assert fetched == []

    def test_without_a_network_it_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = told(capsys, "sample", "me/nothing", code=2)
        assert "there is no folder me/nothing here, and the Hub cannot be reached" in error
        assert "type hf download me/nothing" in error

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            ("RepositoryNotFoundError", "shows none to you; check the name, or type hf auth login"),
            ("RevisionNotFoundError", "knows no revision 'v2' of it"),
            ("OfflineModeIsEnabled", "did not give it: words"),
        ],
    )
    def test_what_the_hub_says_is_told(self, error: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub
        from huggingface_hub import errors

        kind = getattr(errors, error)
        failure = kind.__new__(kind, "words")  # their constructors want a response
        failure.args = ("words",)

        def refuse(*_: object, **__: object) -> str:
            raise failure

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(ValueError, match=says):
            from_pretrained("me/nothing", revision="v2")

    def test_an_error_of_its_transport_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        def broken(*_: object, **__: object) -> str:
            raise Exception("peer closed connection\nand more")  # httpx's errors have no nearer base

        monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
        with pytest.raises(ValueError, match=r"and the Hub did not give it: peer closed connection$"):
            from_pretrained("me/nothing")

    def test_without_its_client_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(ValueError, match=r"type pip install 'genobj\[hub\]'"):
            from_pretrained("me/nothing")
        with pytest.raises(ValueError, match=r"type pip install 'genobj\[hub\]'"):
            shared.push(Path("model"), "me/model")


class TestPush:
    @pytest.fixture
    def uploads(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What reaches the Hub, with the bytes of the weights."""
        import huggingface_hub

        calls: list[dict[str, Any]] = []

        class Api:
            def __init__(self, **about: str):
                assert about == {"library_name": "genobj"}

            def create_repo(self, name: str, **words: Any) -> str:
                calls.append({"name": name, **words})
                return f"the page of {name}"

            def upload_folder(self, *, folder_path: Path, **words: Any) -> None:
                calls.append({"there": sorted(shared.contents(folder_path)), **words})

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        return calls

    def test_a_run_is_exported_and_uploaded(
        self, uploads: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        answer = told(capsys, "push", "digits", "me/model", "--private", "--license", "mit")
        assert "the page of me/model: config.json" in answer
        made, uploaded = uploads
        assert made == {"name": "me/model", "private": True, "exist_ok": True}
        assert uploaded["repo_id"] == "me/model"
        assert sorted(uploaded["allow_patterns"]) == uploaded["there"] == sorted(shared.contents(Path("model")))

    def test_an_exported_folder_goes_as_it_is(
        self, uploads: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        told(capsys, "push", "model", "me/model")
        assert uploads[0]["private"] is False
        assert "type --dtype and --license at its export" in told(
            capsys, "push", "model", "me/model", "--license", "mit", code=2
        )

    def test_a_dry_run_lists_and_uploads_nothing(
        self, uploads: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        answer = told(capsys, "push", "model", "me/model", "--private", "--dry-run")
        assert answer.startswith("would upload to me/model (private): config.json 1 kB, model.safetensors ")
        assert "is no folder" not in answer
        assert uploads == []

    @pytest.mark.parametrize("name", ["model", "me/model/more", "/model", "../model", "me/"])
    def test_a_wrong_name(self, name: str, uploads: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
        assert "names no repository; type user/model" in told(capsys, "push", "model", name, code=2)

    def test_a_refusal_of_the_hub_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub
        from huggingface_hub.errors import OfflineModeIsEnabled

        def refuse(*_: object, **__: object) -> None:
            raise OfflineModeIsEnabled("no way\nand more")

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
        with pytest.raises(ValueError, match="the Hub did not take me/model: no way; log in with hf auth login"):
            shared.push(Path("model"), "me/model")

    def test_a_hub_that_does_not_answer_is_told(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        error = told(capsys, "push", "model", "me/model", code=2)
        assert "the Hub did not take me/model: " in error
        assert "Connection refused" in error


def random_model(backbone: str, objectives: str, data: str = "digits") -> tuple[Any, Any]:
    """A network whose heads are no zeros, and its settings."""
    small = ["backbone.width=16"] if backbone == "mlp" else []
    heads = ",".join("vu"[: objectives.count(",") + 1]) if "," in objectives else "u"
    settings = resolve(None, heads, objectives, backbone, data, None, small)[0].model_settings()
    model = settings.build()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False), settings


GRAPHS = [
    pytest.param("mlp", "fm,cm", Restart(), {"z", "y"}, id="mlp", marks=pytest.mark.slow),
    pytest.param("mlp", "fm,cm", Restart(steps=2, kappa=0.5, guidance=2.0), {"z", "y", "noise"}, id="mlp-guided"),
    pytest.param("dit-tiny", "mf", FlowMap(steps=2), {"z", "y"}, id="dit", marks=pytest.mark.slow),
    pytest.param("dit-tiny", "fm,cm", Restart(), {"z", "y"}, id="dit-two-heads", marks=pytest.mark.slow),
    pytest.param("unet-tiny", "fm,cm", Restart(steps=2), {"z", "y", "noise"}, id="unet", marks=pytest.mark.slow),
    pytest.param("unet-tiny", "mf", FlowMap(guidance=1.5), {"z", "y"}, id="unet-guided", marks=pytest.mark.slow),
]


class TestGraphs:
    @pytest.mark.parametrize(("backbone", "objectives", "sampler", "inputs"), GRAPHS)
    def test_torch_export(
        self, backbone: str, objectives: str, sampler: Sampler, inputs: set[str], tmp_path: Path
    ) -> None:
        unrolled = Unrolled(*random_model(backbone, objectives), sampler)
        assert set(unrolled.shapes()) == inputs
        assert write_torch(unrolled, tmp_path / "x.pt2") < 1e-5
        again = torch.export.load(tmp_path / "x.pt2").module()
        given = unrolled._inputs(7)
        torch.testing.assert_close(again(**given), unrolled(**given))

    @pytest.mark.parametrize(
        ("backbone", "objectives", "sampler", "inputs"),
        [pytest.param("mlp", "fm,cm", Restart(steps=2), {"z", "y", "noise"}, id="mlp-two-steps"), *GRAPHS[2:]],
    )
    def test_onnx(self, backbone: str, objectives: str, sampler: Sampler, inputs: set[str], tmp_path: Path) -> None:
        import onnxruntime

        unrolled = Unrolled(*random_model(backbone, objectives), sampler)
        assert write_onnx(unrolled, tmp_path / "x.onnx") < 1e-4
        assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
        session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
        assert {one.name for one in session.get_inputs()} == inputs
        given = unrolled._inputs(1)
        (x,) = session.run(["samples"], {name: value.numpy() for name, value in given.items()})
        torch.testing.assert_close(torch.from_numpy(x), unrolled(**given), rtol=1e-4, atol=1e-4)

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        answer = told(capsys, "export", "moons", "--torch-export", str(tmp_path / "x.pt2"))
        assert answer.startswith(f"{tmp_path}/x.pt2: (z ['batch', 2]) -> samples, 1 NFE, weights ema_0.9\n")
        assert "differs from genobj by" in answer

    def test_the_first_step_is_that_of_the_sampler(self) -> None:
        model = from_pretrained("model", device="cpu")
        unrolled = Unrolled(model.model, model.settings, model.sampler(1))
        z = noise((1, 8, 8), range(3), 0, 0)
        assert torch.equal(unrolled(z, torch.tensor([0, 1, 2])), model.sample(3))

    def test_what_computes_something_else_is_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        unrolled = Unrolled(*random_model("mlp", "fm,cm"), Restart())
        monkeypatch.setattr(torch.export, "save", lambda program, file: Path(file).touch())

        class Wrong:
            def module(self) -> Any:
                return lambda **given: given["z"]

        monkeypatch.setattr(Unrolled, "exported", lambda self: Wrong())
        monkeypatch.setattr(torch.export, "load", lambda file: Wrong())
        with pytest.raises(ValueError, match=r"gives other samples than genobj .*; it was removed"):
            write_torch(unrolled, tmp_path / "x.pt2")
        assert not (tmp_path / "x.pt2").exists()

    def test_what_torch_cannot_trace_is_told(self, tmp_path: Path) -> None:
        model, settings = random_model("mlp", "fm,cm")
        model.register_forward_pre_hook(lambda _, given: print(end="+" * (given[0].sum().item() > 0)))
        with pytest.raises(ValueError, match=r"torch\.export cannot trace this network: "):
            write_torch(Unrolled(model, settings, Restart()), tmp_path / "x.pt2")
        assert not any(tmp_path.iterdir())

    def test_without_the_packages_it_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        unrolled = Unrolled(*random_model("mlp", "fm,cm"), Restart())
        with pytest.raises(ValueError, match=r"type pip install 'genobj\[onnx\]'"):
            write_onnx(unrolled, tmp_path / "x.onnx")


class TestPipeline:
    def test_it_gives_our_samples_and_comes_back(self, tmp_path: Path) -> None:
        model = from_pretrained("model", device="cpu")
        pipe = model.pipeline()
        z = noise((1, 8, 8), range(4), 0, 0)
        x = pipe(batch_size=4, latents=z, output_type="pt").images
        assert torch.equal(torch.as_tensor(x), (model.sample(4).clamp(-1, 1) + 1) / 2)
        made = pipe(batch_size=3, num_inference_steps=2, class_labels=[3, 1, 4], generator=torch.manual_seed(0)).images
        assert [image.size for image in made] == [(8, 8)] * 3
        pipe.save_pretrained(tmp_path / "pipe")
        again = type(pipe).from_pretrained(tmp_path / "pipe")
        repeated = again(batch_size=3, num_inference_steps=2, class_labels=[3, 1, 4], generator=torch.manual_seed(0))
        assert [a.tobytes() for a in repeated.images] == [b.tobytes() for b in made]
        with pytest.raises(ValueError, match=r"latents have shape \(4, 1, 8, 8\), this call wants \(2, 1, 8, 8\)"):
            pipe(batch_size=2, latents=z)
        with pytest.raises(ValueError, match="diffusers makes images, and this model makes points"):
            from_pretrained("moons").pipeline()
        self.calls(pipe)
        flip("model.safetensors", 0.6)(tmp_path / "pipe/network")
        with pytest.raises(ValueError, match="checksum"):
            type(pipe).from_pretrained(tmp_path / "pipe")

    def calls(self, pipe: Any) -> None:
        """As diffusers' own pipelines are called."""

        def drawn(seeds: list[int]) -> torch.Tensor:
            each = [torch.Generator().manual_seed(seed) for seed in seeds]
            words = {"batch_size": len(seeds), "class_labels": 3, "num_inference_steps": 2}
            (images,) = pipe(**words, generator=each, output_type="pt", return_dict=False)
            return images

        torch.testing.assert_close(drawn([5, 6, 7])[1:], drawn([6, 7]))
        assert not torch.allclose(drawn([5, 5]), drawn([5, 6]))
        with pytest.raises(ValueError, match="2 generators do not fit 3 images: give one, or one each"):
            pipe(batch_size=3, generator=[torch.Generator()] * 2)
        pipe.to(torch.bfloat16)
        with pytest.raises(ValueError, match=r"in float32, not in torch\.bfloat16; type pipe\.to\(torch\.float32\)"):
            pipe()
        pipe.to(torch.float32)
        assert len(pipe().images) == 1

    def test_a_model_of_latents_takes_its_autoencoder_along(self, tmp_path: Path) -> None:
        from diffusers import AutoencoderKL

        width = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 1, "sample_size": 16}
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        AutoencoderKL(**width, **blocks).save_pretrained(tmp_path / "vae")
        loaded = hub.load(Path("digits"))
        source = {"source": str(tmp_path / "vae"), "scale": 0.5}
        settings = type(loaded.settings).model_validate(
            loaded.settings.model_dump(mode="json", exclude_none=True) | {"autoencoder": source}
        )
        (tmp_path / "latent").mkdir()
        hub.save(tmp_path / "latent", loaded.model.state_dict(), settings, "ema_0.9")
        x = from_pretrained(tmp_path / "latent", device="cpu").sample(2)
        assert x.shape == (2, 3, 16, 16)
        shared.export(tmp_path / "latent", tmp_path / "out")
        shutil.rmtree(tmp_path / "vae")
        assert "autoencoder/config.json" in shared.contents(tmp_path / "out")
        assert torch.equal(from_pretrained(tmp_path / "out", device="cpu").sample(2), x)
        pipe = from_pretrained(tmp_path / "out", device="cpu").pipeline()
        assert pipe(batch_size=2).images[0].size == (16, 16)

    def test_without_diffusers_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "genobj.sharing.diffusers_pipeline", raising=False)
        for name in ("diffusers", "diffusers.configuration_utils"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=r"type pip install 'genobj\[diffusers\]'"):
            from_pretrained("model").pipeline()
