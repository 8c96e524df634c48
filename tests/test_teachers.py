"""A frozen network guides a run or is distilled: what it is asked, what it may be, where it lives."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from genobj import cost, hub
from genobj.assembly import Assembly
from genobj.cli.main import run
from genobj.cli.resolve import resolve
from genobj.composer import Composer, Loss, Networks
from genobj.experiment import Experiment
from genobj.guidance.frozen import FrozenGuidance
from genobj.model import Model
from genobj.objectives.consistency import Consistency
from genobj.objectives.flow_matching import FlowMatching
from genobj.objectives.mean_flow import MeanFlow
from genobj.parts import PATHS
from genobj.passes import Count, StepPasses
from genobj.paths.linear import Linear
from genobj.teacher import OnPath, Teacher
from genobj.testing import GaussianFlow
from genobj.times.pairs import Below
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon
from tests.test_distributed import WORKER, difference, launched
from tests.worker import STEPS, trained

NULL = 10
TINY = ["train.steps=3", "train.batch=16", "pictures.count=10", "evaluation.nfe=[1]", "train.device=cpu"]
TINY += ["evaluation.count=16", "evaluation.reference=16"]
DISTIL = {"kind": "frozen", "omega": 0.0}


def saved(folder: Path, seed: int = 7, **changes: Any) -> Path:
    """A network that says something, in a folder of its own."""
    tree = {"data": "digits", "backbone": {"kind": "mlp", "width": 16, "depth": 2}} | changes
    settings = Experiment.model_validate(tree).model_settings()
    torch.manual_seed(seed)
    folder.mkdir()
    hub.save(folder, {k: moved(v) for k, v in settings.build(seed).state_dict().items()}, settings, "ema_0.9")
    return folder


def moved(value: Tensor) -> Tensor:
    """Output layers are zero at first."""
    return value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value


def student(source: Path | None, objectives: Any = "fm", guidance: Any = None, **changes: Any) -> Experiment:
    tree = {
        "data": "digits",
        "backbone": {"kind": "mlp", "width": 16, "depth": 2},
        "objectives": objectives,
        "guidance": guidance or DISTIL,
        "train": {"steps": 3, "batch": 16, "device": "cpu"},
    }
    named = {"teacher": {"from": str(source)}} if source else {}
    return Experiment.model_validate(tree | named | changes)


def step(assembly: Assembly) -> Loss:
    """The loss of the run's first step."""
    x, y, a = assembly.source.train(range(16), 0)
    return assembly.step_module()(x, y, torch.Generator().manual_seed(0), a=a)


# What a distilled objective learns


def _wrong(net: GaussianFlow, labelled: bool = True) -> Draw:
    """Points of the flow whose pairs of data and noise are wrong."""
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    x_t = net.scale(t)[:, None] * torch.randn(64, 3, dtype=torch.float64)
    v = torch.randn_like(x_t)
    y = torch.arange(64) % NULL if labelled else None
    null = torch.full((64,), NULL) if labelled else None
    return Draw(torch.randn_like(x_t), torch.randn_like(x_t), t, t / 3, x_t, v, v, y, null=null)


EXACT = {"method": "jvp"}
DISTILLED = {
    "fm": FlowMatching(),
    "cm": Consistency.model_validate({"derivative": EXACT}),
    "mf": MeanFlow.model_validate({"head": "w", "derivative": EXACT}),
}


@pytest.mark.parametrize("name", DISTILLED)
@pytest.mark.parametrize(("guidance", "labelled"), [(0.0, True), (2.0, True), (0.0, False)])
def test_the_datas_velocity_leaves_the_target(name: str, guidance: float, labelled: bool) -> None:
    """An exact network is a fixed point although every pair (x, z) is wrong; with omega > 0 it is none."""
    net, objective = GaussianFlow(), DISTILLED[name]

    def residual(omega: float) -> float:
        frozen = FrozenGuidance(omega=omega, zeta=1 - omega + guidance)
        composer = Composer(Linear(), Uniform(), Below(), {name: objective}, frozen, classes=NULL * labelled)
        draw, passes = _wrong(net, labelled), StepPasses({"online": net, "frozen": net}, 64)
        draw = composer.guided(draw, passes)
        out = passes.main(draw.point)
        return float((out[objective.head] - objective.target(draw, passes)).abs().max())

    assert residual(0.0) < 1e-12
    assert residual(0.5) > 0.1


def test_a_wrong_teacher_is_learnt_as_it_is() -> None:
    """What vanishes is the distance to the teacher, not to the data."""
    teacher, net = GaussianFlow(std=1.5), GaussianFlow(std=1.5)
    composer = Composer(Linear(), Uniform(), Below(), {"cm": DISTILLED["cm"]}, FrozenGuidance(omega=0), classes=NULL)

    def loss(online: GaussianFlow) -> float:
        networks: Networks = {"online": online, "frozen": teacher}
        return float(composer.loss(networks, _wrong(net)._replace(r=torch.zeros(64).double())).total)

    assert loss(net) < 1e-24
    assert loss(GaussianFlow(std=0.5)) > 1e-3


class Said(GaussianFlow):
    """A network with a derivative of its own: everything times a factor."""

    def __call__(self, x_t: Any, t: Any, *, r: Any = None, y: Any = None, g: Any = None) -> dict[str, Tensor]:
        return {head: 3 * value for head, value in super().__call__(x_t, t, r=r, y=y).items()}


@pytest.mark.parametrize("method", ["jvp", "central", "backward"])
def test_a_frozen_network_can_be_differentiated(method: str) -> None:
    net, draw = GaussianFlow(), _wrong(GaussianFlow())
    targets = []
    for weights, frozen in (("online", net), ("frozen", Said()), ("frozen", net)):
        cm = Consistency.model_validate({"derivative": {"method": method, "weights": weights}})
        passes = StepPasses({"online": net, "frozen": frozen}, 64)
        targets.append(cm.target(draw, passes) - draw.v_t)
        assert cm.networks == {weights}
    torch.testing.assert_close(targets[1], 3 * targets[0])
    torch.testing.assert_close(targets[2], targets[0], rtol=1e-12, atol=1e-12)


# What it costs


@pytest.mark.parametrize(
    ("objectives", "guidance", "passes"),
    [
        ({"mf": {}}, DISTIL, Count(1, 3, 0, 1)),
        ({"mf": {"derivative": EXACT}}, DISTIL, Count(1, 1, 1, 1)),
        ({"cm": {}}, DISTIL | {"zeta": 2.0}, Count(1, 4, 0, 2)),
        ({"fm": {}, "cm": {}}, DISTIL, Count(1, 3, 0, 1)),
        ({"fm": {}, "cm": {"derivative": {"weights": "frozen"}}}, {"kind": "self"}, Count(1, 3, 0, 2)),
    ],
)
def test_passes_are_planned_as_they_are_run(objectives: Any, guidance: Any, passes: Count, tmp_path: Path) -> None:
    heads = {"fm": {}, "cm": {}}
    e = student(saved(tmp_path / "teacher", objectives=heads), objectives, guidance, pairs="below")
    assert step(Assembly(e)).passes == cost.measure(e).passes == passes


def test_cost_shows_a_teacher_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = saved(tmp_path / "big", backbone={"kind": "mlp", "width": 64, "depth": 2})
    plain, small, large = (
        cost.measure(e) for e in (student(None, guidance="none"), student(saved(tmp_path / "small")), student(big))
    )
    assert plain.teacher is None
    assert "teacher" not in plain.memory
    assert large.teacher is not None
    assert large.teacher == (str(big), sum(p.numel() for p in hub.load(big).model.parameters()), True)
    assert large.memory == plain.memory | {"teacher": 4 * large.teacher.parameters}
    assert small.parameters == large.parameters == plain.parameters
    assert plain.flops < small.flops < large.flops
    forward = (small.flops - plain.flops) / plain.flops
    assert 0.3 < forward < 0.4, "a forward without gradients is a third of one with them"
    words = ["cost", "-r", "fm-digits", "--backbone", "mlp", "guidance.kind=frozen", "--teacher", str(big)]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert "1 with gradients + 2 without (2 of the teacher)" in printed
    assert f"teacher      {big}: {large.teacher.parameters:,} parameters" in printed
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["teacher"] == large.teacher._asdict()
    assert told["passes"]["teacher"] == 2
    assert told["memory"]["teacher"] == large.memory["teacher"]


@pytest.mark.parametrize("objectives", ["mf", "cm", "fm,cm"])
def test_before_there_is_a_teacher_the_network_stands_in(objectives: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-r", "dumo-distill-digits", "--objectives", objectives]
    assert run(["train", *words, "--dry-run"]) == 0
    assert "runs/teacher: not here yet, counted like the network" in capsys.readouterr().out
    assert run(["show", *words]) == 0
    assert run(["train", *words]) == 2
    error = capsys.readouterr().err
    assert "there is no runs/teacher here; type a run's folder as the teacher, or train a velocity on the same" in error


# Settings


def test_runs_without_a_teacher_keep_their_names() -> None:
    e = Experiment()
    assert e.run_name() == "run-e6ff31ff"
    assert "teacher" not in e.tree()
    old = Experiment.model_validate({"data": "digits", "guidance": {"kind": "frozen", "teacher": "runs/x"}})
    assert old.run_name() == "run-214213fa"
    assert old.frozen is not None
    assert (old.frozen.source, old.frozen.weights) == ("runs/x", "ema")


def test_what_decides_what_is_learnt() -> None:
    def name(**teacher: Any) -> str:
        return student(None, teacher={"from": "runs/x", **teacher}).run_name()

    assert name() == name(shards=True) == name(shards=False)
    assert len({name(), name(weights="live"), student(Path("runs/y")).run_name()}) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guidance": "frozen"}, r"frozen guidance needs a teacher; type teacher\.from=runs/NAME"),
        (
            {"guidance": "none", "objectives": {"cm": {"derivative": {"weights": "frozen"}}}},
            r"an objective needs a teacher; type teacher\.from=runs/NAME",
        ),
        (
            {"guidance": {"kind": "frozen", "teacher": "a"}, "teacher": {"from": "b"}},
            r"both name a teacher; leave guidance\.teacher out",
        ),
        (
            {"guidance": "none", "teacher": {"from": "b"}},
            r"nothing asks for the teacher; type guidance=frozen guidance\.omega=0",
        ),
        ({"teacher": {"from": ""}}, "teacher.from"),
        ({"teacher": {"form": "x"}}, "Did you mean 'from'"),
    ],
)
def test_choices_that_contradict_each_other(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        student(None, **({"guidance": DISTIL} | changes))


def test_data_without_labels_can_be_distilled_but_not_guided() -> None:
    for guidance in (DISTIL, {"kind": "frozen", "omega": 0.25, "zeta": 0.75}, DISTIL | {"omega": -1.0, "zeta": 2.0}):
        student(Path("x"), data="moons", guidance=guidance)
    with pytest.raises(ValueError, match="guidance needs labelled data"):
        student(Path("x"), data="moons", guidance=DISTIL | {"zeta": 2.0})


# What a teacher may be


@pytest.mark.parametrize(
    ("teacher", "changes", "says"),
    [
        ({"data": "moons"}, {}, r"was trained on \(2,\) with 0 classes, the data is \(1, 8, 8\) with 10 classes"),
        ({"objectives": "cm"}, {}, r"has only u \(data\), and distilling or guidance needs a velocity: type"),
        ({"path": {"kind": "linear", "bridge": 0.1}}, {}, r"another path, and extra noise .* type path=linear"),
        ({"path": {"kind": "linear", "damped_below": 0.1}}, {}, "damped velocity"),
        ({}, {"guidance": DISTIL | {"told": 3.0}}, r"was told no scale; leave guidance\.told out"),
        (
            {},
            {"guidance": "none", "objectives": {"cm": {"derivative": {"weights": "frozen"}}}},
            r"asked for head 'u' \(data\) on this run's path, and has v \(instant\)",
        ),
        ({}, {"teacher": {"from": "teacher", "weights": "0.5"}}, "teacher cannot be read: .* no weights '0.5'"),
    ],
)
def test_teachers_that_do_not_fit(
    teacher: Any, changes: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("teacher"), **teacher)
    with pytest.raises(ValueError, match=says):
        Assembly(student(Path("teacher"), **changes))


def test_a_teacher_of_other_data_is_told_and_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [*TINY, "--objectives", "fm", "backbone.width=16"]
    assert run(["train", "--out", "teacher", *small]) == 0
    distil = ["train", *small, "guidance=frozen", "guidance.omega=0", "--teacher", "teacher"]
    line = "the teacher teacher learnt moons, the data is checkerboard"
    for more in (["--dry-run"], ["--out", "student"]):
        assert run([*distil, "--data", "checkerboard", *more]) == 0
        assert [record.getMessage() for record in caplog.records] == [line]
        caplog.clear()
    assert run([*distil, "--dry-run"]) == 0
    assert not caplog.records
    teacher = Teacher.named("teacher")
    (tmp_path / "teacher/config.toml").write_text('data = "normal"\n')
    assert teacher.other_data("moons") == "the teacher teacher learnt normal, the data is moons"
    for silent in ("seed = 1\n", "[data\n"):
        (tmp_path / "teacher/config.toml").write_text(silent)
        assert teacher.other_data("moons") is None
    assert Teacher.named("nowhere").other_data("moons") is None


def test_damaged_files(tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"teacher cannot be read: .* is damaged"):
        Assembly(student(folder))
    for text, says in (('{"model": 3}', "describes no model known here"), ("{", "is damaged")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=says):
            Assembly(student(folder))


def test_it_is_the_folders_network(tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher", objectives={"fm": {}, "cm": {}})
    asked = torch.randn(5, 1, 8, 8), torch.rand(5)
    y, theirs = torch.arange(5), hub.load(folder).model
    for e in (student(folder), student(None, guidance=DISTIL | {"teacher": str(folder)})):
        net = Assembly(e).teacher["frozen"]
        assert isinstance(net, Model)
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
        assert torch.equal(net(*asked, y=y)["v"], theirs(*asked, y=y)["v"])
    assert Assembly(student(None, guidance="none")).teacher == {}


@pytest.mark.parametrize("path", ["trig", "vp", "edm"])
def test_a_flow_is_the_same_on_every_path(path: str) -> None:
    """The linear flow of Gaussian data, read on another path, is that path's; and back."""
    ours = PATHS.get(path)()
    t = torch.linspace(0.06, 0.94, 50, dtype=torch.float64)
    for there, here in ((Linear(), ours), (ours, Linear())):
        read = OnPath(GaussianFlow(there, std=0.8), there, here)
        x_t = torch.randn(50, 3, dtype=torch.float64)
        wanted = GaussianFlow(here, std=0.8)(x_t, t)["v"]
        torch.testing.assert_close(read(x_t, t)["v"], wanted, rtol=1e-9, atol=1e-9)
        low = read(x_t.float(), t.float())["v"]
        assert (low - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_a_teacher_of_another_path_is_distilled(tmp_path: Path) -> None:
    """Our own networks by OnPath; foreign ones by their reading, which holds on every path."""
    x_t, t, y = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.4, 0.7, 0.9]), torch.arange(4)
    angle = torch.pi / 2 * t
    there = angle.sin() / (angle.sin() + angle.cos())
    size = (1 / (angle.sin() + angle.cos())).view(-1, 1, 1, 1)
    read: dict[str, Any] = {"own": None, "foreign": "sit"}
    for name, reading in read.items():
        folder = saved(tmp_path / name, reading=reading)
        assembly = Assembly(student(folder, path="trig"))
        net = assembly.teacher["frozen"]
        assert isinstance(net, OnPath) == (name == "own")
        v = hub.load(folder).model(size * x_t, there, y=y)["v"]
        x, z = Linear().ends(size * x_t, v, there)
        scales = (angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1))
        wanted = torch.pi / 2 * (scales[0] * z - scales[1] * x)
        torch.testing.assert_close(net(x_t, t, y=y)["v"], wanted, rtol=1e-4, atol=1e-4)
        assert step(assembly).passes == cost.measure(assembly.experiment).passes == Count(1, 1, 0, 1)


# How it is run


class Heard(nn.Module):
    """Stands in for a teacher and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.horizons: dict[str, Horizon] = {"v": "instant"}
        self.sees_r, self.augmentation = frozenset[str](), 9
        self.told: list[dict[str, Any]] = []

    def forward(self, x_t: Tensor, t: Tensor, **told: Any) -> dict[str, Tensor]:
        self.told.append(told)
        return {"v": x_t}


def test_what_a_teacher_is_told() -> None:
    """Its own scale of guidance, never the network's; labels of augmentations."""
    draw = _wrong(GaussianFlow())._replace(g=torch.full((64, 3), 5.0), g_v=torch.full((64, 3), 5.0))
    net, a = Heard(), torch.randn(64, 9).double()
    passes = StepPasses({"online": GaussianFlow(), "frozen": net}, 64, a=a)
    FrozenGuidance(omega=0, zeta=2.0, told=3.0).velocity(draw, passes)
    FrozenGuidance(omega=0, zeta=2.0).velocity(draw, passes)
    given, free, plain = net.told[0], net.told[1], net.told[2]
    assert torch.equal(given["g"], torch.tensor([[3.0, 0.0, 1.0]]).double().expand(64, 3))
    assert "g" not in free
    assert "g" not in plain
    assert torch.equal(given["y"], torch.arange(64) % NULL)
    assert bool((free["y"] == NULL).all())
    assert all(torch.equal(told["a"], a) for told in net.told)


def test_a_fed_teacher_gives_guided_velocities_in_one_pass(tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher", guidance="fed", objectives="imf")
    e = student(folder, "fm", DISTIL | {"told": 4.0})
    assembly = Assembly(e)
    assert step(assembly).passes == cost.measure(e).passes == Count(1, 1, 0, 1)
    with pytest.raises(ValueError, match=r"guidance\.told=9: the teacher .* was told scales up to 8"):
        Assembly(student(folder, "fm", DISTIL | {"told": 9.0}))


def test_augmentation_labels_have_to_mean_the_same(tmp_path: Path) -> None:
    unet = {"kind": "unet-tiny"}
    folder = saved(tmp_path / "teacher", backbone=unet)
    ours = student(folder, backbone=unet).model_settings()
    teacher = student(folder).frozen
    assert teacher is not None
    assert teacher.settings(ours.model_copy(update={"augmentation": 0})).shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"never saw augmented samples; leave data\.augment out"):
        teacher.settings(ours.model_copy(update={"augmentation": 9}))
    tree = json.loads((folder / "config.json").read_text())
    tree["model"]["augmentation"] = 6
    (folder / "config.json").write_text(json.dumps(tree))
    assert teacher.settings(ours).augmentation == 6
    with pytest.raises(ValueError, match="is told 6 numbers about augmentations, this run has 9"):
        teacher.settings(ours.model_copy(update={"augmentation": 9}))


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
@pytest.mark.parametrize("path", ["linear", "trig"])
def test_a_teacher_runs_in_the_precision_of_the_run(precision: str, path: str, tmp_path: Path) -> None:
    net = {"kind": "dit", "width": 32, "depth": 1, "heads": 2}
    folder = saved(tmp_path / "teacher", backbone=net)
    losses, seen = [], set[torch.dtype]()
    for kind in ("float32", precision):
        e = student(folder, path=path, backbone=net, train={"batch": 16, "device": "cpu", "precision": kind})
        assembly = Assembly(e)
        frozen = assembly.teacher["frozen"]
        inner = frozen.net if isinstance(frozen, OnPath) else frozen
        assert isinstance(inner, Model)
        assert all(p.dtype == torch.float32 for p in inner.parameters())
        seen.clear()
        inner.get_submodule("trunk.blocks.0.mlp").register_forward_hook(lambda *call: seen.add(call[-1].dtype))
        losses.append(step(assembly).total)
    assert seen == {torch.bfloat16}
    assert losses[0].dtype == losses[1].dtype == torch.float32
    assert losses[1] != losses[0]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)


def test_rows_without_a_label_learn_the_teacher_without_one(tmp_path: Path) -> None:
    """dropped=guided, the default where omega is 0; beyond the interval it is the data's velocity."""
    folder = saved(tmp_path / "teacher")
    for guidance, plain in (
        (DISTIL | {"dropped": "plain"}, lambda draw: draw.dropped),
        (DISTIL, lambda draw: draw.dropped & False),
        (DISTIL | {"dropped": "guided", "interval": [0.0, 0.5]}, lambda draw: draw.t > 0.5),
    ):
        assembly = Assembly(student(folder, guidance=guidance, label_drop=0.4))
        composer, net = assembly.step_module().composer, assembly.teacher["frozen"]
        draw = composer.draw(torch.randn(32, 1, 8, 8), torch.arange(32) % NULL, torch.Generator().manual_seed(0))
        with torch.no_grad():
            found = composer.score({"online": assembly.model, "frozen": net}, draw).draw
            wanted = net(draw.x_t, draw.t, y=draw.y)["v"]
        expected = torch.where(plain(draw).view(-1, 1, 1, 1), draw.v_path, wanted)
        torch.testing.assert_close(found.v_t, expected, rtol=1e-5, atol=1e-5)
        assert draw.dropped is not None
        assert 0 < int(draw.dropped.sum()) < 32


@pytest.mark.parametrize("compiled", ["blocks", "model"])
def test_a_teacher_is_compiled_as_the_network_is(compiled: str, tmp_path: Path) -> None:
    net = {"kind": "dit", "width": 32, "depth": 1, "heads": 2}
    train = {"batch": 16, "device": "cpu", "compile": compiled}
    frozen = Assembly(student(saved(tmp_path / "teacher"), backbone=net, train=train)).teacher["frozen"]
    assert isinstance(frozen, Model)
    assert frozen._compiled_call_impl is not None  # an mlp has no blocks: it is compiled whole


def test_recomputation_asks_nothing_of_a_teacher(tmp_path: Path) -> None:
    net = {"kind": "dit", "width": 32, "depth": 1, "heads": 2}
    e = student(saved(tmp_path / "teacher"), backbone=net, train={"batch": 16, "device": "cpu", "recompute": True})
    assert step(Assembly(e)).total.isfinite()  # the teacher is an mlp, which has no blocks


# Whole runs


def test_distillation_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three recipes, as their comments say; a run goes on where it was, and is sampled without its teacher."""
    monkeypatch.chdir(tmp_path)
    for data, recipes in (("moons", ["meanflow"]), ("digits", ["meanflow", "dumo"])):
        assert run(["train", "-r", f"fm-{data}", "--out", "runs/teacher", "--resume", "auto", *TINY]) == 0
        for name in recipes:
            words = ["train", "-r", f"{name}-distill-{data}", "--out", f"runs/{name}", "--resume", "auto", *TINY]
            assert run(words) == 0, capsys.readouterr().err
            assert json.loads(Path(f"runs/{name}/results.json").read_text())
        Path("runs/teacher").rename(f"runs/{data}")
        assert run(["sample", f"runs/{recipes[-1]}", "--count", "4"]) == 0
        for name in recipes:
            Path(f"runs/{name}").rename(f"runs/{name}-{data}")


# Several processes


@pytest.fixture
def _one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of one, in which FSDP2 spreads weights over one device."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize(
    ("strategy", "shards", "spread"),
    [("fsdp2", None, True), ("fsdp2", False, False), ("ddp", True, True), ("ddp", None, False)],
)
def test_a_teacher_in_shards(strategy: str, shards: bool | None, spread: bool, tmp_path: Path) -> None:
    net = {"kind": "dit", "width": 32, "depth": 2, "heads": 2}
    folder = saved(tmp_path / "teacher", backbone=net)
    teacher = {"from": str(folder)} | ({} if shards is None else {"shards": shards})
    e = student(None, ["fm", "cm"], backbone=net, distributed={"strategy": strategy}, teacher=teacher)
    assembly, alone = Assembly(e), Assembly(student(folder, ["fm", "cm"], backbone=net))
    frozen = assembly.teacher["frozen"]
    assert isinstance(frozen, Model)
    assert frozen.in_shards == spread
    assert all(isinstance(p, DTensor) == spread for p in frozen.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())
    found, wanted = step(assembly), step(alone)
    assert all(isinstance(p, DTensor) == spread for p in frozen.parameters()), "given back after a forward"
    torch.testing.assert_close(found.total, wanted.total)
    assert found.passes == wanted.passes


def test_shards_need_processes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher\.shards=true needs several processes; leave it out"):
        Assembly(student(None, teacher={"from": str(saved(tmp_path / "teacher")), "shards": True}))


@pytest.mark.slow
def test_two_processes_distil_as_one(tmp_path: Path) -> None:
    dit = ["backbone.width=16", "backbone.depth=2", "backbone.heads=2", "optim.eps=1e-4", "log.every=1"]
    dit += [f"train.steps={STEPS}", "train.batch=16", "ema.decays=[0.9]"]
    folder = saved(tmp_path / "teacher", backbone={"kind": "dit", "width": 24, "depth": 2, "heads": 2})
    base, _ = resolve("dumo-distill-digits", backbone="dit", overrides=[*dit, f"teacher.from={folder}"])
    torch.use_deterministic_algorithms(True)
    try:
        alone = trained(base.tree())
    finally:
        torch.use_deterministic_algorithms(False)
    spread = {
        "whole": ({"strategy": "ddp"}, {}),
        "shared": ({"strategy": "ddp"}, {"shards": True}),
        "shards": ({"strategy": "fsdp2"}, {}),
        "own": ({"strategy": "fsdp2", "reshard": False}, {"shards": False}),
    }
    cases = {
        name: base.tree() | {"distributed": distributed, "teacher": {"from": str(folder), **teacher}}
        for name, (distributed, teacher) in spread.items()
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = launched(tmp_path, WORKER, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [line for name in cases if (line := difference(tmp_path, name, *alone))]
