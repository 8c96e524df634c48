"""Official weights come in with equal outputs or not at all; a run that starts from them starts where they are."""

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from genobj.assembly import Assembly
from genobj.autoencoders import Autoencoder
from genobj.backbones.unet import UNet
from genobj.cli import import_
from genobj.cli.resolve import resolve
from genobj.config.base import problems
from genobj.config.load import find_recipe, parse_override
from genobj.experiment import Experiment
from genobj.foreign.convert import Kind, Report, convert
from genobj.foreign.files import read
from genobj.foreign.network import Foreign
from genobj.foreign.transformer import transformer
from genobj.foreign.unet import unet
from genobj.hub import load, save
from genobj.init import Init, typed
from genobj.model import Model, ModelSettings
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.reading import reading
from genobj.run import Run
from tests.parity.fixtures import FOLDER, check, ect
from tests.parity.fixtures import load as fixture

KINDS: dict[str, Kind] = {
    "dit_tiny_learnsigma": "dit",
    "dit_tiny_nosigma": "dit",
    "sit_tiny_learnsigma": "sit",
    "sit_tiny_nosigma": "sit",
    "meanflow_sit_tiny": "meanflow-torch",
    "unet_pymf_tiny": "meanflow-torch",
    "unet_edm_tiny_ddpmpp": "edm-unet",
}
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-4)]


def state(name: str) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in fixture(name, "backbones").group("state").items()}


def imported(name: str, folder: Path, **options: Any) -> Report:
    file = folder / f"{name}.safetensors"
    save_file(state(name), file)
    heads = {} if name.startswith("unet") else {"heads": 3}
    return convert(KINDS[name], file, folder / name, **heads, **options)


def network(name: str, folder: Path, dtype: torch.dtype) -> tuple[Model, ModelSettings]:
    report = imported(name, folder)
    loaded = load(report.folder)
    return loaded.model.to(dtype), loaded.settings


# Equal outputs.


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("sit")])
def test_sit_is_read_in_reversed_time_and_sign(name: str, dtype: torch.dtype, rtol: float, tmp_path: Path) -> None:
    case, (model, _) = fixture(name, "backbones"), network(name, tmp_path, dtype)
    x, t = (case.arrays[key].to(dtype) for key in ("x", "t_fed"))
    check(name, model(x, 1 - t, y=case.arrays["y"])["v"], -case.arrays["expected/out_f64"], rtol)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("dit")])
def test_dit_answers_for_the_same_mixture_at_its_own_level(
    name: str, dtype: torch.dtype, rtol: float, tmp_path: Path
) -> None:
    """x_t = t z + (1 - t) x has sigma = t / (1 - t); its noise prediction is x_t + (1 - t) v."""
    case, (model, _) = fixture(name, "backbones"), network(name, tmp_path, dtype)
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[case.arrays["t_fed"].long()]
    t = (1 - kept).sqrt() / ((1 - kept).sqrt() + kept.sqrt())
    size = 1 / (t.square() + (1 - t).square()).sqrt()  # theirs have unit variance
    x_t, t = case.arrays["x"].to(dtype) / size[:, None, None, None].to(dtype), t.to(dtype)
    noise = x_t + (1 - t)[:, None, None, None] * model(x_t, t, y=case.arrays["y"])["v"]
    check(name, noise, case.arrays["expected/out_f64"][:, :4], rtol)
    assert model.reading is not None
    check(name, model.reading.time(t), case.arrays["t_fed"], 1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
def test_mean_flow_sit_is_ours_as_it_is(dtype: torch.dtype, rtol: float, tmp_path: Path) -> None:
    case, (model, settings) = (
        fixture("meanflow_sit_tiny", "backbones"),
        network("meanflow_sit_tiny", tmp_path, dtype),
    )
    x, t, r = (case.arrays[key].to(dtype) for key in ("x", "t_fed", "r_fed"))
    check("u", model(x, t, r=r, y=case.arrays["y"])["u"], case.arrays["expected/out_f64"], rtol)
    assert settings.horizons == {"u": "interval"}


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
def test_mean_flow_unet_with_augmentation_labels(dtype: torch.dtype, rtol: float, tmp_path: Path) -> None:
    case, (model, settings) = fixture("unet_pymf_tiny", "backbones"), network("unet_pymf_tiny", tmp_path, dtype)
    x, t, h, a = (case.arrays[key].to(dtype) for key in ("x", "t_fed", "h_fed", "augment"))
    check("u", model(x, t, r=t - h, a=a)["u"], case.arrays["expected/out_f64"], rtol)
    assert settings.augmentation == 6


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("path", [EDM(), Linear()])
def test_edm_is_read_on_its_path_and_on_ours(
    path: EDM | Linear, dtype: torch.dtype, rtol: float, tmp_path: Path
) -> None:
    """The denoiser D and the noise (x + sigma z - D) / sigma give the velocity; here D is had back from it."""
    case, (model, settings) = (
        fixture("unet_edm_tiny_ddpmpp", "backbones"),
        network("unet_edm_tiny_ddpmpp", tmp_path, dtype),
    )
    model.reading = reading(settings.reading, path)
    x, sigma = case.arrays["x"].to(dtype), case.arrays["sigma"].double()
    t = sigma / (1 + sigma) if isinstance(path, Linear) else (sigma.log() / 4 + 1.59) / 2.68
    b, da, db = (f(t)[:, None, None, None] for f in (path.data_scale, path.noise_rate, path.data_rate))
    wide = sigma[:, None, None, None]
    v = model((b * x).to(dtype), t.to(dtype))["v"].double()
    # v = a' z + b' D with z = (x - D) / sigma
    clean = (v - da / wide * x) / (db - da / wide)
    inner = (clean - 0.25 / (wide**2 + 0.25) * x) / (wide * 0.5 / (wide**2 + 0.25).sqrt())
    check("D", ect(case, inner, torch.float64), case.arrays["expected/out_f64"], rtol)


# Strictness.


def listed(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / "backbones" / f"{name}.json").read_text())


def empty(shape: list[int], name: str) -> Tensor:
    """A tensor without memory, but for filters, whose numbers are looked at."""
    if not name.endswith(".resample_filter"):
        return torch.empty(shape, device="meta")
    row = torch.tensor([1.0, 1.0] if shape[-1] == 2 else [1.0, 3.0, 3.0, 1.0])
    return torch.outer(row, row)[None, None] / row.sum() ** 2


def fits(foreign: Foreign) -> bool:
    """Whether names and shapes are exactly ours."""
    ours = {name: value.shape for name, value in foreign.empty().state_dict().items()}
    return ours == {new.name: new.value.shape for new in foreign.tensors.values()}


DIT_SIZES, UNET_SIZES = listed("sizes_dit_sit"), listed("sizes_unet")


@pytest.mark.parametrize("name", ["DiT-XL/2 learn_sigma=True", "DiT-B/4 learn_sigma=False", "SiT-L/2"])
def test_published_transformers_are_recognised_by_their_shapes(name: str) -> None:
    from genobj.backbones.dit import DiT

    two_times = name in DIT_SIZES["meanflow_sit"]
    size = DIT_SIZES["meanflow_sit" if two_times else "dit"][name]
    tensors = {}
    for key, shape in size["keys_in_order_with_block_0_only"].items():
        for i in range(size["blocks"] if key.startswith("blocks.0.") else 1):
            tensors[key.replace("blocks.0.", f"blocks.{i}.")] = empty(shape, key)
    foreign = transformer("meanflow-torch" if two_times else "sit", tensors, name)
    assert foreign.settings.backbone == DiT.model_validate(DiT.preset(name.split(" ")[0].partition("-")[2]))
    assert (foreign.settings.shape, foreign.settings.classes) == ((4, 32, 32), 1000)
    assert fits(foreign)


@pytest.mark.parametrize("name", [name for name in UNET_SIZES if not name.endswith("ddpmpp augment_dim=0")])
def test_published_unets_are_recognised_by_their_shapes(name: str) -> None:
    mean_flow = "meanflow" in name
    tensors = {key.removeprefix("model."): empty(shape, key) for key, shape in UNET_SIZES[name]["keys"].items()}
    foreign = unet("meanflow-torch" if mean_flow else "edm-unet", tensors, name)
    preset = UNet.preset("cifar10" if mean_flow else "ncsnpp" if "ncsnpp" in name else "edm")
    wanted = UNet.model_validate(preset | {"dropout": 0.0})
    assert foreign.settings.backbone == wanted
    assert foreign.settings.augmentation == UNET_SIZES[name]["config"]["augment_dim"]
    assert sum(p.numel() for p in foreign.empty().parameters()) == UNET_SIZES[name]["parameters"]
    assert fits(foreign)


def test_ect_starts_from_the_network_that_edm_published(tmp_path: Path) -> None:
    """The command in the recipe's header: what it says fits, labels of augmentation left behind."""
    listed = UNET_SIZES["EDM/ECT ddpmpp augment_dim=9"]["keys"]
    tensors = {key.removeprefix("model."): empty(shape, key) for key, shape in listed.items()}
    theirs = unet("edm-unet", tensors, "edm").settings
    tree = {"weights": "ema", "model": theirs.model_dump(mode="json", exclude_none=True)}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    command = f"init.from={tmp_path}"
    assert "genobj train -r ect-cifar10 init.from=" in find_recipe("ect-cifar10").read_text()
    begun = resolve("ect-cifar10", overrides=[command])[0]
    assert begun.init is not None
    begun.init.check(begun.model_settings())
    other = resolve("ict-cifar10", overrides=[command])[0]
    with pytest.raises(ValueError, match="has another network than this run; type "):
        begun.init.check(other.model_settings())


def test_labels_of_unets_become_a_table(tmp_path: Path) -> None:
    """EDM's label map is a linear layer on one-hot vectors of length sqrt(classes), zeros for no label."""
    tensors = state("unet_edm_tiny_ddpmpp")
    weight, bias = torch.randn(8, 3), torch.randn(8)
    file = tmp_path / "conditional.safetensors"
    save_file(tensors | {"model.map_label.weight": weight, "model.map_label.bias": bias}, file)
    model = load(convert("edm-unet", file, tmp_path / "out").folder).model
    table = model.state_dict()["trunk.map_label.weight"]
    torch.testing.assert_close(table, torch.cat([3**0.5 * torch.eye(3), torch.zeros(1, 3)]) @ weight.T + bias)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.attn.proj.bias"), "lacks a tensor for our 'trunk.blocks.1.attn.proj.bias'"),
        (lambda s: s.pop("x_embedder.proj.weight"), "has no tensor 'x_embedder.proj.weight'"),
        (lambda s: s.update(extra=torch.ones(2)), "has tensor 'extra', which no network of this kind has"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 16, 44)}), "'pos_embed' has shape (1, 16, 44)"),
        (lambda s: s.update({"x_embedder.proj.bias": torch.ones(48, 2)}), "'x_embedder.proj.bias' has shape (48, 2)"),
        (lambda s: s["t_embedder.mlp.0.bias"].data.copy_(torch.full((48,), torch.nan)), "not finite"),
        (lambda s: s.update({"r_embedder.mlp.0.weight": torch.ones(48, 256)}), "type genobj import meanflow-torch"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(change: Any, words: str, tmp_path: Path) -> None:
    tensors = {key: value.clone() for key, value in state("sit_tiny_nosigma").items()}
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match="changed") as caught:
        convert("sit", tmp_path / "changed.safetensors", tmp_path / "out", heads=3)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind", "heads", "words"),
    [
        ("sit_tiny_nosigma", "sit", None, "type --heads N"),
        ("sit_tiny_nosigma", "edm-unet", None, "type another kind"),
        ("sit_tiny_nosigma", "meanflow-torch", 3, "type genobj import sit or dit"),
        ("unet_pymf_tiny", "dit", 3, "holds a U-Net"),
        ("unet_pymf_tiny", "meanflow-torch", 3, "leave it out"),
        ("unet_pymf_tiny", "meanflow", None, "type one of dit, sit, meanflow-torch, edm-unet"),
    ],
)
def test_wrong_kinds_say_which_to_type(name: str, kind: Any, heads: int | None, words: str, tmp_path: Path) -> None:
    save_file(state(name), tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match=words):
        convert(kind, tmp_path / "file.safetensors", tmp_path / "out", heads=heads)


def test_mean_flow_has_a_scale_of_its_own(tmp_path: Path) -> None:
    """zhuyu-cs's latents: 0.18125 (OBJECTIVES B1); a number that was given wins, and others keep the autoencoder's."""

    def scale(kind: str, **given: Any) -> tuple[Any, bool]:
        to = tmp_path / str(len(list(tmp_path.iterdir())))
        save_file(
            state(f"{kind}_tiny" if kind == "meanflow_sit" else f"{kind}_tiny_nosigma"), tmp_path / "file.safetensors"
        )
        autoencoder = Autoencoder.model_validate({"source": "sd-vae-ft-mse"} | given)
        name = "meanflow-torch" if kind == "meanflow_sit" else kind
        report = convert(name, tmp_path / "file.safetensors", to, heads=3, autoencoder=autoencoder)
        stored = load(to).settings.autoencoder
        assert stored is not None
        return stored.scale, "0.18125" in "".join(report.converted)

    assert scale("meanflow_sit") == (0.18125, True)
    assert scale("meanflow_sit", source="stabilityai/sd-vae-ft-ema") == (0.18125, True)
    assert scale("meanflow_sit", scale=0.18215) == (0.18215, False)
    assert scale("meanflow_sit", source="elsewhere/vae") == (None, False)
    assert scale("sit") == (None, False)


class Bomb:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("boom",)


def test_pickled_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(2)}, "args": Bomb()}, "bomb.pt")
    with pytest.raises(ValueError, match=r"posix.mkdir.*so nothing was loaded.*save_file"):
        read(Path("bomb.pt"))
    assert not Path("boom").exists()


def test_damaged_and_strange_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"a": torch.ones(200)}, whole)
    save_file({"a": torch.ones(200)}, tmp_path / "whole.safetensors")
    for file in (whole, tmp_path / "whole.safetensors"):
        content = file.read_bytes()
        for size in (0, 7, 100, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:size])
            with pytest.raises(ValueError, match="damaged"):
                read(file)
    torch.save([1, 2], whole)
    with pytest.raises(ValueError, match="no tensors by name"):
        read(whole)
    for name, words in (("no.pt", "there is no file"), ("edm.pkl", "save its"), ("a.txt", "ends in .safetensors")):
        if words != "there is no file":
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match=words):
            read(tmp_path / name)


def test_sets_and_wrappers_inside_a_checkpoint(tmp_path: Path) -> None:
    """As DiT's and SiT's scripts, DDP with torch.compile, and py-meanflow write them."""
    one, two = {"a.b": torch.ones(2)}, {"a.b": torch.zeros(2)}
    wrapped = {f"module._orig_mod.{key}": value for key, value in one.items()}
    moments = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"model": wrapped, "ema": two, "opt": moments, "args": argparse.Namespace(lr=1.0)}, tmp_path / "dit.pt")
    nets = {f"{net}.a.b": torch.full((2,), i) for i, net in enumerate(("net", "net_ema", "net_ema1"))}
    torch.save({"model": nets | {"num_updates": torch.tensor(3)}, "epoch": 4}, tmp_path / "pymf.pth")

    def got(file: str, weights: str | None = None) -> tuple[str, float]:
        name, tensors = read(tmp_path / file, weights)
        assert tensors.keys() == {"a.b"}
        return name, tensors["a.b"][0].item()

    assert [got("dit.pt"), got("dit.pt", "ema"), got("dit.pt", "model")] == [("ema", 0), ("ema", 0), ("model", 1)]
    assert [got("pymf.pth"), got("pymf.pth", "net_ema1"), got("pymf.pth", "model")] == [
        ("net_ema", 1),
        ("net_ema1", 2),
        ("net", 0),
    ]
    with pytest.raises(ValueError, match="net_ema2"):
        read(tmp_path / "pymf.pth", "net_ema2")


def test_command_reports_and_its_folder_is_not_written_twice(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(import_.command)
    save_file(state("sit_tiny_learnsigma"), tmp_path / "sit.safetensors")
    typed_in = ["sit", str(tmp_path / "sit.safetensors"), "--to", str(tmp_path / "out"), "--heads", "3"]
    told = CliRunner().invoke(app, typed_in, catch_exceptions=False).stdout
    for words in (
        "32, all of them used",
        "106,672",
        "16 of 32 rows",
        "genobj sample",
        "backbone.depth=2",
        "reading=sit",
    ):
        assert words in told
    with pytest.raises(ValueError, match="holds something already"):
        CliRunner().invoke(app, typed_in, catch_exceptions=False)
    more = [*typed_in[:3], str(tmp_path / "scaled"), *typed_in[4:], "--scale", "0.5"]
    with pytest.raises(ValueError, match="type one above 0, beside --autoencoder"):
        CliRunner().invoke(app, more, catch_exceptions=False)
    CliRunner().invoke(app, [*more, "--autoencoder", "elsewhere/vae"], catch_exceptions=False)
    assert load(tmp_path / "scaled").settings.autoencoder == Autoencoder(source="elsewhere/vae", scale=0.5)


# Starting from weights.

TREE: dict[str, Any] = {
    "data": {"kind": "normal", "sizes": [4, 8, 8], "labels": 10},
    "objectives": {"fm": {"head": "v"}, "cm": {"head": "u"}},
    "train": {"steps": 2, "batch": 4, "device": "cpu"},
    "evaluation": {"count": 4, "reference": 4, "nfe": [1], "metrics": ["energy"]},
    "pictures": {"every": 100, "count": 4},
}
FLOW, MEAN_FLOW = {"fm": {"head": "v"}}, {"mf": {"head": "u"}}
DUAL = {"fm": {"head": "v"}, "mf": {"head": "u"}}


def experiment(folder: Path, objectives: Any = None, init: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    """A run that starts from a folder, with the network of that folder."""
    theirs = load(folder).settings
    tree = theirs.model_dump(mode="json", exclude_none=True)
    tree = {key: tree[key] for key in ("backbone", "reading", "path") if key in tree}
    tree |= TREE | {"init": {"from": str(folder), **(init or {})}} | changes
    return Experiment.model_validate(tree | ({"objectives": objectives} if objectives else {}))


def moved(settings: ModelSettings, folder: Path) -> Path:
    """A folder with a network none of whose weights is at its start."""
    model = settings.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir()
    save(folder, model.state_dict(), settings, "ema_0.99")
    return folder


def small(kind: str, labels: int, **changes: Any) -> Experiment:
    """A run of one velocity head on images of 1 x 4 x 4."""
    backbone = {
        "mlp": {"width": 16, "depth": 2},
        "unet": {"channels": 8, "multipliers": (1,), "blocks": (1,)},
        "dit": {"width": 16, "depth": 1},
    }[kind]
    data = {"kind": "normal", "sizes": [1, 4, 4], "labels": labels}
    return Experiment.model_validate(
        TREE | {"data": data, "backbone": {"kind": kind, **backbone}, "objectives": FLOW, **changes}
    )


def asked(shape: tuple[int, ...], classes: int = 0, n: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    t = torch.linspace(0.1, 1, n)
    return torch.randn(n, *shape), t, t * torch.rand(n), torch.arange(n) % classes if classes else None


def test_a_new_head_is_a_copy_and_learns(tmp_path: Path) -> None:
    """The heads of DuMo on SiT's weights: at the first step both give its velocity, to the bit."""
    source = imported("sit_tiny_learnsigma", tmp_path).folder
    run = Run(experiment(source), tmp_path / "run")
    x, t, _, y = asked((4, 8, 8), 10)
    before, theirs = run.model.eval()(x, t, y=y), load(source).model(x, t, y=y)["v"]
    assert torch.equal(before["v"], theirs)
    assert torch.equal(before["u"], theirs)
    average = run.state.averages.network(run.model)
    assert torch.equal(average(x, t, y=y)["u"], theirs)
    run.model.train()
    run.go()
    after = load(tmp_path / "run", "live").model(x, t, y=y)
    assert not torch.equal(after["u"], before["u"])
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("kind", ["mlp", "unet", "dit"])
def test_a_second_time_starts_without_effect(kind: str, labels: int, tmp_path: Path) -> None:
    """MeanFlow on a velocity network: u(x, t, r) = v(x, t) for every r, and r gets gradients."""
    plain = small(kind, labels)
    source = moved(plain.model_settings(), tmp_path / "source")
    run = Assembly(small(kind, labels, objectives=MEAN_FLOW, init={"from": str(source)}))
    x, t, r, y = asked((1, 4, 4), labels)
    theirs = load(source).model(x, t, y=y)["v"]
    for target in (r, t, 0 * t):
        torch.testing.assert_close(run.model.eval()(x, t, r=target, y=y)["u"], theirs, rtol=1e-5, atol=1e-5)
    run.model(x, t, r=r, y=y)["u"].square().sum().backward()
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.sub_(1e-2 * (0 if parameter.grad is None else parameter.grad))
        assert not torch.equal(run.model(x, t, r=r, y=y)["u"], run.model(x, t, r=t, y=y)["u"])


def test_r_in_the_head_and_heads_at_zero(tmp_path: Path) -> None:
    source = moved(small("dit", 3).model_settings(), tmp_path / "source")
    x, t, r, y = asked((1, 4, 4), 3)
    theirs = load(source).model(x, t, y=y)["v"]
    copied = Assembly(small("dit", 3, objectives=DUAL, init={"from": str(source)})).model.eval()
    zero = Assembly(small("dit", 3, objectives=DUAL, init={"from": str(source), "heads": "zero"})).model.eval()
    assert torch.equal(copied(x, t, r=r, y=y)["u"], theirs)
    out = zero(x, t, r=r, y=y)
    assert torch.equal(out["v"], theirs)
    assert not out["u"].any()


def test_augmentation_labels_come_and_go_without_effect(tmp_path: Path) -> None:
    settings = small("unet", 3).model_settings()
    augmented = settings.model_copy(update={"augmentation": 2})
    x, t, _, y = asked((1, 4, 4), 3)
    for theirs, ours, folder in ((settings, augmented, "without"), (augmented, settings, "with")):
        source = moved(theirs, tmp_path / folder)
        model = ours.build(seed=1).eval()
        Init.model_validate({"from": str(source)}).start(model, ours)
        assert torch.equal(model(x, t, y=y)["v"], load(source).model(x, t, y=y)["v"])


def test_new_classes_keep_everything_else(tmp_path: Path) -> None:
    source = moved(small("dit", 3).model_settings(), tmp_path / "source")
    with pytest.raises(ValueError, match=r"knows 3 classes, this run's data have 5; type init\.classes=new"):
        Assembly(small("dit", 5, init={"from": str(source)}))
    model = Assembly(small("dit", 5, init={"from": str(source), "classes": "new"})).model.state_dict()
    old = load(source).model.state_dict()
    other = {
        name for name, value in old.items() if value.shape != model[name].shape or not torch.equal(value, model[name])
    }
    assert other == {"trunk.y_embedder.embedding_table.weight"}
    again = Assembly(small("dit", 3, init={"from": str(source), "classes": "new"})).model.state_dict()
    assert {name for name, value in old.items() if not torch.equal(value, again[name])} == other


def test_resumed_runs_start_from_their_checkpoint(tmp_path: Path) -> None:
    source = moved(small("mlp", 0).model_settings(), tmp_path / "source")
    begun = small("mlp", 0, init={"from": str(source)}, checkpoint={"every": 1})
    run = Run(begun, tmp_path / "run")
    run.go()
    again = Run(begun, tmp_path / "run", resume=True)
    assert again.state.step == 2
    for name, value in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    fresh = Assembly(begun, fresh=False).model.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in Assembly(small("mlp", 0)).model.state_dict().items())
    continued = small("mlp", 0, init={"from": str(tmp_path / "run"), "weights": "live"})
    assert all(
        torch.equal(value, Assembly(continued).model.state_dict()[name])
        for name, value in run.model.state_dict().items()
    )


def test_settings_are_part_of_what_is_learnt_and_survive_toml(tmp_path: Path) -> None:
    source = moved(small("mlp", 0).model_settings(), tmp_path / "source")
    plain, begun = small("mlp", 0), small("mlp", 0, init={"from": str(source)})
    assert "init" not in plain.tree()
    assert begun.run_name() != plain.run_name()
    assert Experiment.model_validate(begun.tree()) == begun
    assert begun.tree()["init"]["from"] == str(source)
    with pytest.raises(ValueError, match="Did you mean 'from'") as caught:
        small("mlp", 0, init={"form": str(source)})
    assert [where for where, _ in problems(caught.value)] == ["init"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"backbone": {"kind": "mlp"}},
            "another network than this run; type backbone=dit backbone.depth=1 backbone.width=16",
        ),
        ({"backbone": {"kind": "dit", "depth": 1, "width": 16, "heads": 2}}, "type backbone.heads=4"),
        ({"reading": "sit"}, "leave reading=sit out"),
        ({"path": "trig"}, "type path=linear"),
        (
            {"data": {"kind": "normal", "sizes": [1, 8, 8], "labels": 3}},
            "samples (1, 4, 4), this run's data are (1, 8, 8)",
        ),
        ({"init": {"head": "w"}}, "init.head=w"),
        ({"init": {"weights": "0.5"}}, "has no weights '0.5'"),
        ({"init": {"from": "runs/nowhere"}}, "there is no runs/nowhere here"),
        ({"objectives": DUAL, "heads": {"v": {}, "u": {"depth": 1}}}, "heads.u cannot copy 'v'"),
    ],
)
def test_what_cannot_start_is_refused_in_a_sentence(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = moved(small("dit", 3).model_settings(), tmp_path / "source")
    init = {"from": str(source)} | changes.get("init", {})
    with pytest.raises(ValueError, match=r"init|runs|heads|weights") as caught:
        Assembly(small("dit", 3, **(changes | {"init": init})))
    assert words in str(caught.value)


def test_latents_of_another_scale_are_refused(tmp_path: Path) -> None:
    """Only where both sides know their numbers; hashes and names of autoencoders may differ."""
    plain = small("dit", 3).model_settings()

    def scaled(**given: Any) -> ModelSettings:
        return plain.model_copy(update={"autoencoder": Autoencoder.model_validate({"source": "a/b"} | given)})

    start = Init.model_validate({"from": str(moved(scaled(scale=0.18125), tmp_path / "source"))})
    with pytest.raises(
        ValueError, match=r"with scale 0\.18125 and shift 0\.0, this run's have 0\.18215 and 0\.0"
    ) as caught:
        start.check(scaled(scale=0.18215, source="c/d"))
    typed_in = str(caught.value).partition("; type '")[2].removesuffix("'")
    where, value = parse_override(typed_in)
    assert (where, value) == (["data", "encoded_by"], {"source": "c/d", "scale": 0.18125, "shift": 0.0})
    start.check(scaled(**value))
    with pytest.raises(ValueError, match="shift"):
        start.check(scaled(scale=0.18125, shift=0.1))
    with pytest.raises(ValueError, match="scale"):
        start.start(plain.build(), scaled(scale=(0.5,)))
    for fits in (plain, scaled(), scaled(scale=(0.18125,), shift=(0.0,), source="c/d")):
        start.check(fits)


def test_what_has_no_place_or_no_model_is_refused(tmp_path: Path) -> None:
    two = moved(small("dit", 0, objectives=MEAN_FLOW).model_settings(), tmp_path / "two")
    with pytest.raises(ValueError, match=r"no place for 'trunk.r_embedder.*r_in = trunk"):
        Assembly(small("dit", 0, init={"from": str(two)}))
    several = moved(small("dit", 0, objectives=DUAL).model_settings(), tmp_path / "several")
    other = {"fm": {"head": "v"}, "cm": {"head": "w"}}
    with pytest.raises(ValueError, match=r"type init\.head=v or init\.head=u, or init\.heads=zero"):
        Assembly(small("dit", 0, objectives=other, init={"from": str(several)}))
    Assembly(small("dit", 0, objectives=other, init={"from": str(several), "head": "v"}))
    fed_t = small("dit", 0, backbone={"kind": "dit", "width": 16, "depth": 1, "two_times": True})
    two = moved(fed_t.model_settings(), tmp_path / "fed_t")
    with pytest.raises(ValueError, match="was fed t, and this run feeds it t - r"):
        Assembly(small("dit", 0, objectives=MEAN_FLOW, init={"from": str(two)}))
    (tmp_path / "none").mkdir()
    (tmp_path / "none/config.json").write_text(json.dumps({"genobj": 1}))
    with pytest.raises(ValueError, match="describes no model"):
        Assembly(small("dit", 0, init={"from": str(tmp_path / "none")}))
    (tmp_path / "none/config.json").write_text(json.dumps({"model": {"backbone": "ditt"}}))
    with pytest.raises(ValueError, match="no model that is known here: backbone: unknown backbone 'ditt'"):
        Assembly(small("dit", 0, init={"from": str(tmp_path / "none")}))


def test_a_plan_is_checked_without_weights(tmp_path: Path) -> None:
    source = moved(small("unet", 3).model_settings(), tmp_path / "source")
    (source / "model.safetensors").unlink()
    start = Init.model_validate({"from": str(source)})
    start.check(small("unet", 3, objectives=MEAN_FLOW).model_settings())
    with pytest.raises(ValueError, match="backbone=unet"):
        start.check(small("dit", 3).model_settings())


def test_shards_start_from_the_first_process(tmp_path: Path) -> None:
    """What every device gets of a network that is built in shards, here in a group of one."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    from genobj.training.distributed import Distributed, build
    from genobj.training.loop import Train
    from genobj.training.ranks import Ranks

    ours = small("dit", 3, objectives=MEAN_FLOW).model_settings()
    source = moved(small("dit", 3).model_settings(), tmp_path / "source")
    start = Init.model_validate({"from": str(source)})
    whole = ours.build()
    start.start(whole, ours)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        spread = build(
            ours,
            0,
            Train(),
            Distributed(strategy="fsdp2"),
            Ranks(),
            torch.device("cpu"),
            lambda net: start.start(net, ours),
        )
        for name, value in spread.state_dict().items():
            assert torch.equal(value.full_tensor(), whole.state_dict()[name]), name
    finally:
        dist.destroy_process_group()


def test_typed_settings_are_those_of_the_import(tmp_path: Path) -> None:
    settings = load(imported("unet_edm_tiny_ddpmpp", tmp_path).folder).settings
    assert typed(settings)[0] == "backbone=unet"
    assert {"backbone.multipliers=[1,2]", "reading=edm", "path=edm"} <= set(typed(settings))


# Readings, on data whose velocity is known.


def ideal(name: str, spread: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The best network of each kind for data N(0, spread^2): it answers with conditional means."""

    def means(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Of noise and data, given a z + b x."""
        both = a**2 + (b * spread) ** 2
        return a * x / both, b * spread**2 * x / both

    def sit(x: Tensor, t: Tensor) -> Tensor:
        noise, data = means(x, 1 - t, t)
        return data - noise

    def ddpm(x: Tensor, level: Tensor) -> Tensor:
        kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=x.dtype)).cumprod(0)
        at = (0.5 * (1 / kept - 1).log())[level.floor().long()]
        more = (0.5 * (1 / kept - 1).log())[level.ceil().long()]
        sigma = (at + (level - level.floor()) * (more - at)).exp()
        return means(x, sigma / (1 + sigma**2).sqrt(), 1 / (1 + sigma**2).sqrt())[0]

    def edm(x: Tensor, quarter: Tensor) -> Tensor:
        sigma = (4 * quarter).exp()
        norm = (sigma**2 + 0.25).sqrt()
        denoised = means(x * norm, sigma, torch.ones_like(sigma))[1]
        return (denoised - 0.25 / norm**2 * x * norm) / (sigma * 0.5 / norm)

    return {"sit": sit, "ddpm": ddpm, "edm": edm}[name]


@pytest.mark.parametrize("path", ["linear", "trig", "vp", "edm"])
@pytest.mark.parametrize("name", ["sit", "ddpm", "edm"])
def test_readings_give_the_velocity_on_every_path(name: Any, path: str) -> None:
    from genobj.parts import PATHS

    on, spread = PATHS.get(path)(), 0.7
    read_as = reading(name, on)
    assert read_as is not None
    t = torch.linspace(0.15, 0.97, 40, dtype=torch.float64)
    if path == "edm":
        t = torch.linspace(0.3, 0.85, 40, dtype=torch.float64)  # levels that all three know
    x_t = torch.randn(40, 1, dtype=torch.float64)
    line = read_as.line(t)
    v = line.velocity(ideal(name, spread)(line.state(x_t)[:, 0], read_as.time(t))[:, None], x_t)[:, 0]
    a, b, da, db = on.noise_scale(t), on.data_scale(t), on.noise_rate(t), on.data_rate(t)
    exact = (da * a + db * b * spread**2) / (a**2 + (b * spread) ** 2) * x_t[:, 0]
    check(name, v, exact, 1e-9)


def test_a_forward_draws_its_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And makes the table of levels for the line and for the time: a thousand numbers in float64 each."""
    from genobj import reading as rooms

    model, made, drawn = small("mlp", 0, reading="ddpm").model_settings().build(), list[int](), list[int]()
    table, line = rooms._ddpm_levels, rooms.DDPM.line
    monkeypatch.setattr(rooms, "_ddpm_levels", lambda like: (made.append(1), table(like))[1])
    monkeypatch.setattr(rooms.DDPM, "line", lambda self, t: (drawn.append(1), line(self, t))[1])
    model(*asked((1, 4, 4))[:2])
    assert (len(drawn), len(made)) == (1, 2)


@pytest.mark.parametrize("name", ["sit", "ddpm", "edm"])
def test_tangents_pass_through_readings(name: Any) -> None:
    """By forward mode, by a record of the forward, and between t = 0 and t = 1 finite."""
    from genobj.tangents.tape import Tape

    model = small("mlp", 0, reading=name).model_settings().build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, t, _, _ = asked((1, 4, 4))
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    along = torch.randn_like(x), torch.ones_like(t)
    forward = torch.func.jvp(lambda x, t: model(x, t)["v"], (x, t), along)[1]
    tape = Tape((x, t), (), model.buffers)
    with tape:
        out = model(x, t)
    tape.keep(out)
    assert not tape.problem
    torch.testing.assert_close(tape.along(*along)["v"], forward, rtol=1e-4, atol=1e-4)
    assert forward.isfinite().all()
    assert math.isfinite(out["v"].abs().max().item())
