"""Shipped recipes: they load, cost what the papers count, carry the published numbers; the toys run."""

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from genobj.backbones.base import Features
from genobj.backbones.dit import DiT
from genobj.backbones.unet import UNet
from genobj.citations import entries
from genobj.cli.main import run
from genobj.cli.resolve import resolve
from genobj.config.load import RECIPES, find_recipe, read_toml, recipe_names, write_toml
from genobj.cost import Cost, measure
from genobj.expected import Expected
from genobj.experiment import Experiment
from genobj.parts import FAMILIES
from genobj.passes import Count
from genobj.testing import GaussianFlow
from genobj.training.averages import Averages
from genobj.training.step import StepModule

IMAGENET = 1_281_167
TINY = ["train.steps=3", "train.batch=16", "pictures.count=16", "evaluation.count=64", "evaluation.reference=64"]


class Row(NamedTuple):
    """What a full-size recipe has to say."""

    without_gradient: float
    parameters: int
    fid: dict[int, float]
    """By nfe, the paper's table."""
    with_gradient: float = 1
    tangent: float = 0
    teacher: float = 0

    @property
    def passes(self) -> Count:
        return Count(self.with_gradient, self.without_gradient, self.tangent, self.teacher)


FULL = {
    "dumo-in256-xl2": Row(3, 679_410_464, {1: 3.07, 2: 2.82}),
    "dumo-in256-xl2-long": Row(3, 679_410_464, {1: 2.60, 2: 1.79}),
    "dumo-in512-xl4": Row(3, 679_576_448, {1: 3.47, 2: 2.76}),
    "dumo-in512-xl1-dcae": Row(3, 679_465_792, {1: 2.89, 2: 2.23}),
    "meanflow-in256-xl2": Row(4, 676_735_504, {1: 3.43, 2: 2.93}),
    "meanflow-in256-xl2-long": Row(4, 676_735_504, {2: 2.20}),
    "meanflow-in512-xl4": Row(4, 676_846_144, {1: 4.21, 2: 3.41}),
    "meanflow-in512-xl1-dcae": Row(4, 676_772_384, {2: 2.73}),
    "shortcut-in256-xl2": Row(0.28125, 676_735_504, {1: 10.6, 4: 7.80}),
    "trihead-mf-in256-xl2": Row(3, 682_235_568, {1: 2.84}),
    "trihead-sc-in256-xl2": Row(4.5, 682_235_568, {1: 4.73}),
    "dumo-in256-b2": Row(3, 132_481_568, {1: 63.86}),
    "meanflow-in256-b2": Row(4, 131_288_080, {1: 76.04}),
    "dumo-cifar10": Row(2, 55_807_238, {1: 2.86}),
    "meanflow-cifar10": Row(2, 55_932_419, {1: 2.92}),
    "meanflow-cifar10-v1": Row(2, 55_932_419, {}),  # the paper's number is that of other times
    "ict-cifar10": Row(1, 56_395_523, {1: 2.83}),
    "ect-cifar10": Row(1, 55_732_739, {1: 3.60, 2: 2.11}),
    "ct-cifar10": Row(1, 56_395_523, {1: 8.70, 2: 5.83}),
    "imm-cifar10": Row(1, 55_798_275, {1: 3.20}),
    "imm-in256-xl2": Row(1, 676_735_504, {2: 8.05, 4: 3.99}),
    "ucgm-in256-xl2": Row(1, 675_111_184, {}),
    "ucgm-in256-xl2-few": Row(3, 675_111_184, {1: 2.10, 2: 1.94}, teacher=1),
    "facm-in256-xl2": Row(2, 677_786_144, {}, tangent=1, teacher=2),
    "scm-cifar10": Row(2, 55_733_380, {1: 2.97}),
    "scd-cifar10": Row(3, 55_733_380, {}, teacher=1),
    "scm-in64": Row(2, 267_952_580, {}),
    "twinflow-in256-xl2": Row(4.75, 676_735_504, {}),
    "trihead-gan-in256-xl2": Row(4.25, 680_526_625, {}, with_gradient=2),
}
STARTS = ("dumo-images",)
"""Where data of one's own start from: neither a toy, which runs without files, nor a row of a paper."""
TOYS = [name for name in recipe_names() if name not in {*FULL, *STARTS}]
WIDER = ("ct", "facm", "imm", "rcgm", "scm", "twinflow", "ucgm")
DISTILLED = ("meanflow-distill-moons", "meanflow-distill-digits", "dumo-distill-digits", "scd-moons")
"""These need a teacher, which is trained first: tests/test_teachers.py does."""
PUBLISHED = {"dumo": 679_000_000, "meanflow": 676_000_000, "shortcut": 676_000_000}


@cache
def recipe(name: str) -> Experiment:
    return Experiment.model_validate(read_toml(find_recipe(name)))


@cache
def _cost(name: str) -> Cost:
    return measure(recipe(name))


def cost(name: str) -> Cost:
    """Longer training costs the same a step (see test_longer_training_differs_in_its_length_alone)."""
    return _cost(name.removesuffix("-long"))


def small(name: str, **pairs: Any) -> Experiment:
    """The recipe with a small network on small images; all else as it is, but for settings of its law of r."""
    tree: dict[str, Any] = recipe(name).tree()
    data = recipe(name).data
    tree["data"] = {"kind": "normal", "sizes": [data.shape[0], 8, 8], "labels": data.classes}
    if tree["backbone"]["kind"] == "dit":
        tree["backbone"] |= {"width": 32, "depth": 2, "heads": 2}
    else:
        tree["backbone"] = {"kind": "unet-tiny", "dropout": tree["backbone"]["dropout"]}
    tree["evaluation"] = {"nfe": tree["evaluation"]["nfe"]}
    tree["train"] |= {"batch": 64, "micro_batch": 64}
    tree["pairs"] |= pairs
    return Experiment.model_validate(tree)


def counted(experiment: Experiment) -> Count:
    """Rows that really pass through the network in one training step, in units of the batch."""
    batch = experiment.train.batch
    model, rows = experiment.model_settings().build(), [0, 0]  # without and with gradients

    def watch(_: Any, inputs: tuple[torch.Tensor, ...], features: Features) -> None:
        rows[features.hidden.requires_grad] += len(inputs[0])

    model.trunk.register_forward_hook(watch)  # a critic judges features
    step = StepModule(
        model,
        {"ema": Averages(model, experiment.ema).network(model), "frozen": GaussianFlow()},
        experiment.composer(shared_masks=model.has_dropout),
    )
    x, y, _ = experiment.data.open().train(range(batch), 0)
    loss = step(x, y, torch.Generator().manual_seed(0))
    assert loss.total.isfinite()
    plain = loss.passes.without_gradient - loss.passes.teacher + loss.passes.tangent  # forward mode is a forward
    assert [row / batch for row in rows] == [plain, loss.passes.with_gradient], "passes are told as they are run"
    return loss.passes


@pytest.mark.parametrize("name", recipe_names())
class TestEveryRecipe:
    def test_it_loads_back_to_an_equal_experiment(self, name: str) -> None:
        experiment = recipe(name)
        assert experiment.name == name
        again = Experiment.model_validate(tomllib.loads(write_toml(experiment.tree())))
        assert again == experiment
        assert again.run_name() == experiment.run_name()
        assert json.dumps(again.tree()) == json.dumps(experiment.tree())

    def test_it_begins_with_what_it_is(self, name: str) -> None:
        text = find_recipe(name).read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert max(map(len, text.splitlines())) <= 120

    def test_its_cost_can_be_told(self, name: str) -> None:
        told = cost(name).as_dict()
        assert told["passes"]["with_gradient"] in (1, 2)
        assert told["flops"] > 0
        assert told["memory"]["activations"] > 0

    def test_it_can_be_cited(self, name: str) -> None:
        texts = entries(recipe(name))
        assert all(text.startswith("@") for text in texts)
        assert ("Duality Models" in "".join(texts)) == name.startswith(("dumo", "trihead"))


def test_recipes_are_in_the_package() -> None:
    assert {*FULL, *STARTS} < set(recipe_names())
    assert set(TOYS) == {
        *("dumo-moons", "fm-moons", "meanflow-moons", "shortcut-moons", "trihead-mf-moons", "trihead-sc-moons"),
        *("dumo-digits", "fm-digits", "meanflow-digits", "shortcut-digits", "imf-digits"),
        *("trihead-mf-digits", "trihead-sc-digits", "trihead-gan-digits", "trihead-gan-moons", "trihead-dmd-moons"),
        *(f"{name}-{data}" for name in WIDER for data in ("moons", "digits")),
        *DISTILLED,
    }
    assert all(find_recipe(name) == RECIPES / f"{name}.toml" for name in recipe_names())


@pytest.mark.parametrize("name", [name for name in TOYS if name not in DISTILLED])
def test_toys_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nfe = f"evaluation.nfe={list(recipe(name).evaluation.nfe[:2])}"
    assert run(["train", "-r", name, "--out", str(tmp_path / "run"), nfe, *TINY]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_on_equal_terms(name: str) -> None:
    first, other = recipe(f"dumo-{name.rpartition('-')[2]}"), recipe(name)
    for part in ("data", "backbone", "path", "times", "optim", "ema", "train"):
        assert getattr(first, part) == getattr(other, part), part


@pytest.mark.parametrize("name", FULL)
class TestFullSize:
    def test_its_passes_are_those_that_the_paper_counts(self, name: str) -> None:
        assert cost(name).passes == FULL[name].passes

    def test_planned_passes_are_run_on_a_small_network_with_the_same_settings(self, name: str) -> None:
        experiment = small(name)
        assert counted(experiment) == measure(experiment).passes == cost(name).passes

    def test_it_has_as_many_parameters_as_the_paper_says(self, name: str) -> None:
        assert sum(cost(name).parameters.values()) == FULL[name].parameters
        published = [number.parameters for number in recipe(name).expected if number.parameters]
        wanted = 55_000_000 if "cifar10" in name else PUBLISHED.get(name.partition("-")[0])
        assert set(published) == ({wanted} if wanted and FULL[name].fid and not name.endswith("-b2") else set())
        assert all(abs(FULL[name].parameters - number) < 1.5e6 for number in published)

    def test_its_published_numbers_and_its_length(self, name: str) -> None:
        experiment = recipe(name)
        first = next(iter(experiment.expected), Expected(value=0.0))
        rows = [n for n in experiment.expected if n.metric == "fid" and n.epochs == first.epochs]
        assert {number.nfe: number.value for number in rows} == FULL[name].fid
        papers = "DuMo ", "locuslab/ect", "arXiv 2303.01469"
        assert all(number.source.startswith(papers) for number in experiment.expected)
        assert set(FULL[name].fid) <= set(experiment.evaluation.nfe)
        if first.epochs:
            assert experiment.train.steps == round(first.epochs * IMAGENET / experiment.train.batch)


def test_the_prefix_share_spares_mean_flow_its_derivative_in_rows_of_the_velocity() -> None:
    experiment = small("meanflow-in256-xl2", share_by="prefix")
    assert counted(experiment) == measure(experiment).passes == Count(1, 1.75)


def test_shortcut_beside_two_heads_costs_five_passes_at_most() -> None:
    experiment = small("trihead-sc-in256-xl2", share_by="bernoulli")
    assert counted(experiment) == measure(experiment).passes == Count(1, 5)


@pytest.mark.parametrize("name", [name for name in FULL if name.endswith("-long")])
def test_longer_training_differs_in_its_length_alone(name: str) -> None:
    longer, first = recipe(name), recipe(name.removesuffix("-long"))
    same = {"name": first.name, "expected": first.expected}
    steps = longer.train.model_copy(update={"steps": first.train.steps})
    assert longer.train.steps > first.train.steps
    assert longer.model_copy(update={**same, "train": steps}) == first


def test_every_micro_batch_of_shortcut_has_jumps_of_all_lengths() -> None:
    experiment = recipe("shortcut-in256-xl2")
    assert experiment.train.micro_batch
    lengths = experiment.pairs.lengths(experiment.train.micro_batch)  # type: ignore[attr-defined]
    assert set(lengths.int().tolist()) == set(range(8))


class TestTheSecondTimeEmbedder:
    @pytest.mark.parametrize(
        ("name", "head_alone"),
        [
            ("dumo-in256-xl2", 677_786_144),
            ("dumo-in512-xl4", 677_952_128),
            ("dumo-in512-xl1-dcae", 677_841_472),
        ],
    )
    def test_the_second_head_alone_is_smaller_than_the_tables_say(self, name: str, head_alone: int) -> None:
        for two_times, wanted in (("true", FULL[name].parameters), ("false", head_alone)):
            experiment, _ = resolve(name, overrides=[f"backbone.two_times={two_times}"])
            with torch.device("meta"):
                model = experiment.model_settings().build()
            assert sum(p.numel() for p in model.parameters()) == wanted

    def test_it_is_told_the_way_to_data(self) -> None:
        x, t, y = torch.randn(3, 4, 8, 8), torch.rand(3), torch.tensor([0, 1, 10])
        alone = DiT(width=32, heads=2, two_times=True).build((4, 8, 8), 10, sees_r=False)
        told = DiT(width=32, heads=2).build((4, 8, 8), 10, sees_r=True)
        told.load_state_dict(alone.state_dict())
        for name, p in [*alone.named_parameters(), *told.named_parameters()]:
            if "adaLN" in name:
                torch.nn.init.constant_(p, 0.01)
        there = alone(x, t, y=y)
        assert torch.equal(there.hidden, told(x, t, r=torch.zeros(3), y=y).hidden)
        assert not torch.equal(there.hidden, told(x, t, r=t / 2, y=y).hidden)
        there.hidden.sum().backward()
        assert alone.r_embedder is not None
        assert all(p.grad is not None and p.grad.any() for p in alone.r_embedder.parameters())


class TestExpected:
    def test_it_changes_neither_the_hash_nor_what_may_be_resumed(self) -> None:
        experiment = recipe("dumo-in256-xl2")
        other = experiment.model_copy(update={"expected": ()})
        assert other != experiment
        assert other.run_name() == experiment.run_name()

    def test_show_prints_a_line_for_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["show", "-r", "dumo-in256-xl2-long"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "expected: fid 1.79 at nfe 2 after 432 epochs with 679M parameters (DuMo Tab. 1)" in lines
        assert len([line for line in lines if "expected" in line]) == len(recipe("dumo-in256-xl2-long").expected)

    def test_cost_prints_the_published_size_beside_the_count(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, row = tmp_path / "mine.toml", {"value": 1.5, "parameters": 50_000, "source": "Tab. 7"}
        file.write_text(write_toml({"objectives": {"fm": {}}, "expected": [row]}))
        assert run(["cost", "-r", str(file)]) == 0
        assert "parameters   50,690  (trunk 50,432; 0.05M in Tab. 7)" in capsys.readouterr().out
        assert run(["cost", "--json", "-r", str(file)]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"]["published"] == 50_000

    def test_another_objective_is_not_that_row_of_the_table(self) -> None:
        assert resolve("dumo-cifar10", overrides=["seed=3", "train.micro_batch=8", "log.every=7"])[0].expected
        assert not resolve("dumo-cifar10", overrides=["optim.lr=1e-3"])[0].expected
        assert not resolve("dumo-cifar10", heads="v", objectives="fm")[0].expected

    def test_it_reads_as_a_sentence(self) -> None:
        assert Expected(metric="mmd", value=0.001).sentence() == "mmd 0.001"
        assert (
            Expected(value=3.07, nfe=1, epochs=240.0, source="T").sentence() == "fid 3.07 at nfe 1 after 240 epochs (T)"
        )


OPTIM = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.0, "schedule": "constant", "warmup": 0}
DUMO = {
    "weights": {"fm": 0.7, "cm": 0.3},
    "guidance": ("self", {"zeta": 0.55}),
    "times": ("beta", {"a": 2.4, "b": 2.4}),
}
MEANFLOW = {
    "guidance": ("mean_flow", {"omega": 0.2, "kappa": 0.92, "interval": (0.0, 0.75)}),
    "times": ("logit_normal", {"mean": -0.4, "std": 1.0}),
    "pairs": ("sorted", {"equal_share": 0.75}),
    "distance": ("mf", {"power": 1.0, "eps": 0.01, "reduce": "sum"}),
}
LARGER = {"guidance": ("self", {"zeta": 0.66})}
CONSISTENCY = {
    "reading": "edm",
    "times": ("logit_normal", {"mean": -1.1, "std": 2.0}),
    "optim": {"betas": (0.9, 0.999)},
}
PUBLISHED_SETTINGS: dict[str, dict[str, Any]] = {
    "dumo-in256-xl2": DUMO | {"batch": 512},
    "dumo-in256-xl2-long": DUMO | {"batch": 512},
    "dumo-in512-xl4": DUMO | LARGER | {"batch": 512},
    "dumo-in512-xl1-dcae": DUMO | LARGER | {"batch": 512, "times": ("beta", {"a": 1.0, "b": 1.0})},
    "meanflow-in256-xl2": MEANFLOW | {"batch": 256},
    "meanflow-in256-xl2-long": MEANFLOW | {"batch": 256},
    "trihead-mf-in256-xl2": DUMO | {"batch": 512, "weights": {"fm": 0.7, "mf": 0.15, "cm": 0.15}},
    "trihead-sc-in256-xl2": DUMO | {"batch": 512, "weights": {"fm": 0.7, "sc": 0.15, "cm": 0.15}},
    "shortcut-in256-xl2": {
        "batch": 256,
        "pairs": ("dyadic", {"equal_share": 0.875, "levels": 7, "finest": "step"}),
        "optim": {"betas": (0.9, 0.999), "weight_decay": 0.1},
        "ema": 0.999,
    },
    "ect-cifar10": CONSISTENCY
    | {"batch": 128, "backbone": UNet.preset("edm") | {"dropout": 0.2}, "distance": ("ect", {"c": 0.0})},
    "ict-cifar10": CONSISTENCY
    | {
        "batch": 1024,
        "ema": 0.99993,
        "backbone": UNet.preset("ncsnpp") | {"dropout": 0.3, "bandwidth": 0.02},
        "distance": ("ict", {"c": 0.02993}),
    },
}


@pytest.mark.parametrize("name", PUBLISHED_SETTINGS)
def test_a_full_size_recipe_has_the_published_settings(name: str) -> None:
    """DuMo Sec. 4.1, App. C.1 and Tab. 3; others' own settings as OBJECTIVES B1, B3 and B4 list them."""
    e, wanted = recipe(name), PUBLISHED_SETTINGS[name]
    optim = OPTIM | wanted.get("optim", {})
    assert {key: getattr(e.optim, key) for key in optim} == optim
    assert e.train.batch == wanted["batch"]
    assert e.ema.decays == (wanted.get("ema", 0.9999),)
    assert e.reading == wanted.get("reading")
    if "backbone" in wanted:
        assert e.backbone == UNet.model_validate(wanted["backbone"])
    for family in ("guidance", "times", "pairs"):
        if family in wanted:
            kind, settings = wanted[family]
            part = getattr(e, family)
            assert type(part) is FAMILIES[family].get(kind)
            assert {key: getattr(part, key) for key in settings} == settings
    if "weights" in wanted:
        assert {key: o.weight(0.5) for key, o in e.objectives.items()} == pytest.approx(wanted["weights"])
    if "distance" in wanted:
        objective, settings = wanted["distance"]
        distance = e.objectives[objective].distance  # type: ignore[attr-defined]
        assert {key: getattr(distance, key) for key in settings} == settings
