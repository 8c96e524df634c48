"""Diagnostics are right where the answer is known, say so where it is not defined, and change nothing in a run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genobj.cli.main import run
from genobj.cli.resolve import resolve
from genobj.composer import Composer
from genobj.experiment import Experiment
from genobj.run import Run
from genobj.testing import GaussianFlow
from genobj.training import diagnose
from genobj.training.diagnose import Diagnosis, gaps, gradients, tangents, targets
from genobj.types import Draw, Guide, over, resting

TINY = {
    "train.steps": 12,
    "train.batch": 16,
    "backbone.width": 16,
    "diagnose.batch": 32,
    "diagnose.steps": 2,
    "checkpoint.every": 5,
    "pictures.every": 1000,
    "pictures.count": 16,
    "evaluation.count": 16,
    "evaluation.reference": 16,
    "evaluation.nfe": [1],
    "evaluation.metrics": ["sliced_w2"],
}
DIGITS = {key: value for key, value in TINY.items() if key != "backbone.width"}
DIGITS |= {"train.steps": 2, "train.batch": 8, "train.micro_batch": 4, "diagnose.batch": 8}


def experiment(
    recipe: str = "dumo-moons", heads: str | None = None, names: str | None = None, **more: Any
) -> Experiment:
    settings = (TINY if recipe.endswith("moons") else DIGITS) | {k.replace("__", "."): v for k, v in more.items()}
    typed = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return resolve(recipe, heads=heads, objectives=names, overrides=typed)[0]


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / diagnose.LOG).read_text().splitlines()]


def last(tmp_path: Path, recipe: str = "dumo-moons", **settings: Any) -> dict[str, float]:
    """The line of a look at a network with random weights."""
    run = Run(experiment(recipe, diagnose__every=6, **settings), tmp_path / "run")
    with torch.no_grad():
        for p in run.model.parameters():  # output layers start at zero, where the trunk has no gradient
            p.add_(0.1 * torch.randn_like(p))
    step = run.step_module()
    Diagnosis(run.folder, run.experiment.diagnose, step, run.source, 0, 192)(run.state, {})
    return lines(run.folder)[-1]


def draws(composer: Composer, count: int = 64, std: float = 0.5) -> Draw:
    return composer.draw(std * torch.randn(count, 2), None, torch.Generator().manual_seed(0))


class LinearTrunk(nn.Module):
    """h = A x_t with A = 0, and heads that are fixed maps of h."""

    def __init__(self, heads: dict[str, Tensor]):
        super().__init__()
        self.trunk, self.heads = nn.Linear(2, 2, bias=False), heads
        nn.init.zeros_(self.trunk.weight)
        self.horizons, self.sees_r = dict.fromkeys(heads, "instant"), frozenset[str]()

    def forward(self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        return {name: self.trunk(x_t) @ head.T for name, head in self.heads.items()}


def turn(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]])


def two(**second: Any) -> Composer:
    objectives = {"a": {"kind": "fm"}, "b": {"kind": "fm", **second}}
    return Experiment.model_validate({"objectives": objectives}).composer()


class TestGradients:
    @pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, 2.0, math.pi])
    def test_heads_turned_against_each_other_have_the_cosine_of_the_angle(self, angle: float) -> None:
        # d/dA mean |W A x - v|^2 at A = 0 is -2 W^T E[v x^T], and <M, R^T M> = cos(angle) |M|^2 in the plane.
        composer, net = two(head="v2", weight=0.25), LinearTrunk({"v": torch.eye(2), "v2": turn(angle)})
        found = gradients(composer.score({"online": net}, draws(composer)), list(net.trunk.parameters()))
        assert found["cosine/a/b"] == pytest.approx(math.cos(angle), abs=1e-6)
        assert found["norm_ratio/a/b"] == pytest.approx(4, rel=1e-5)
        assert found["norm/a"] == pytest.approx(4 * found["norm/b"], rel=1e-5)

    def test_the_norm_is_that_of_the_gradient_of_the_loss(self) -> None:
        composer = Experiment().composer()
        net = LinearTrunk({"v": torch.eye(2)})
        draw = draws(composer)
        found = gradients(composer.score({"online": net}, draw), list(net.trunk.parameters()))
        composer.loss({"online": net}, draw).total.backward()
        assert net.trunk.weight.grad is not None
        assert found == {"norm/fm": pytest.approx(net.trunk.weight.grad.norm().item(), rel=1e-6)}

    def test_one_objective_twice_has_cosine_one_and_the_ratio_of_the_weights(self, tmp_path: Path) -> None:
        twice = {"objectives__again__kind": "fm", "objectives__again__weight": 0.2, "objectives__fm__weight": 0.8}
        found = last(tmp_path, "fm-moons", **twice)
        assert found["cosine/fm/again"] == pytest.approx(1, abs=1e-5)
        assert found["norm_ratio/fm/again"] == pytest.approx(4, rel=1e-4)

    def test_the_cosine_with_nothing_is_left_out(self, tmp_path: Path) -> None:
        found = last(tmp_path, objectives__cm__weight=0.0)
        assert found["norm/cm"] == 0
        assert "cosine/fm/cm" not in found
        assert "norm_ratio/fm/cm" not in found

    def test_the_parameters_keep_their_empty_gradients(self) -> None:
        composer, net = two(head="v2"), LinearTrunk({"v": torch.eye(2), "v2": turn(1.0)})
        gradients(composer.score({"online": net}, draws(composer)), list(net.trunk.parameters()))
        assert net.trunk.weight.grad is None


class Stretched(GaussianFlow):
    """Its flow maps are too long: u by a tenth, w by a fifth."""

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        factors = {"v": 1.0, "u": 1.1, "w": 1.2}
        return {head: factors[head] * value for head, value in super().__call__(x_t, t, r=r, y=y, g=g).items()}


TRI = {"objectives": {"fm": {}, "mf": {"head": "w"}, "cm": {}}, "pairs": {"equal_share": 0.25}}


class TestGaps:
    def test_the_exact_flow_has_none(self) -> None:
        composer = Experiment.model_validate(TRI).composer()
        draw = draws(composer)
        coarse, fine = (gaps(GaussianFlow(), draw, steps) for steps in (8, 16))
        assert fine.keys() == {"gap/w/velocity", "gap/w/integral", "gap/u/integral"}
        assert fine["gap/w/velocity"] == 0
        for name in ("gap/u/integral", "gap/w/integral"):
            assert fine[name] < 5e-3
            assert 3 < coarse[name] / fine[name] < 6, "Heun is of second order"

    def test_an_error_is_told_in_proportion(self) -> None:
        composer = Experiment.model_validate(TRI).composer()
        found = gaps(Stretched(), draws(composer), 64)
        assert found["gap/u/integral"] == pytest.approx(0.1, abs=2e-3)
        assert found["gap/w/integral"] == pytest.approx(0.2, abs=2e-3)
        assert found["gap/w/velocity"] == pytest.approx(0.2, abs=1e-6)

    def test_without_an_instant_head_the_interval_head_is_its_own_velocity(self) -> None:
        composer = Experiment.model_validate(TRI).composer()
        draw = draws(composer)
        alone = gaps(GaussianFlow(heads=("w", "u")), draw, 16)
        assert alone.keys() == {"gap/w/integral", "gap/u/integral"}
        assert max(alone.values()) < 5e-3
        assert gaps(GaussianFlow(heads=("u",)), draw, 16) == {}
        assert gaps(GaussianFlow(heads=("v",)), draw, 16) == {}

    def test_rows_with_r_at_t_are_no_jumps(self) -> None:
        composer = Experiment.model_validate(TRI | {"pairs": {"kind": "equal"}}).composer()
        assert gaps(GaussianFlow(), draws(composer), 4).keys() == {"gap/w/velocity", "gap/u/integral"}

    def test_fed_guidance_is_told_to_the_velocity_where_it_holds(self) -> None:
        class Fed(GaussianFlow):
            """Guidance w multiplies the velocity; u does the same for all of its way."""

            def __call__(
                self,
                x_t: Tensor,
                t: Tensor,
                *,
                r: Tensor | None = None,
                y: Tensor | None = None,
                g: Guide | None = None,
            ) -> dict[str, Tensor]:
                assert g is not None
                assert (r is None or not torch.equal(r, t)) or bool(((g[:, 1] == 0) & (g[:, 2] == 1)).all())
                return {head: g[:, :1] * torch.ones_like(x_t) for head in ("v", "w", "u")}

        composer = Experiment.model_validate(TRI).composer()
        t = torch.full((8,), 0.8)
        g = torch.tensor([3.0, 0.0, 0.4]).expand(8, 3)
        draw = draws(composer, 8)._replace(t=t, r=torch.zeros(8), g=g, g_v=resting(g, t))
        # v = 1 for t in (0.4, 0.8], 3 below: the mean is 2, u says 3.
        assert gaps(Fed(), draw, 400)["gap/u/integral"] == pytest.approx(0.5, abs=0.01)


class TestTangents:
    def test_they_are_those_of_the_exact_flow(self) -> None:
        composer, net = Experiment.model_validate(TRI).composer(), GaussianFlow()
        draw = draws(composer)
        found = tangents(net, draw)
        for head, end, rows in (("u", torch.zeros_like(draw.r), draw.t >= 0), ("w", draw.r, draw.r < draw.t)):
            inputs = (draw.x_t, draw.t), (draw.v_t, torch.ones_like(draw.t))
            du_dt = torch.func.jvp(lambda x, t, end=end: net.average(x, t, end), *inputs)[1]
            scaled = over(draw.t - end, du_dt) * du_dt
            assert found[f"tangent/{head}"] == pytest.approx(du_dt[rows].square().mean().sqrt().item(), rel=2e-2)
            assert found[f"scaled_tangent/{head}"] == pytest.approx(
                scaled[rows].square().mean().sqrt().item(), rel=2e-2
            )

    def test_targets_add_the_scaled_tangent_to_the_velocity(self) -> None:
        composer, net = Experiment.model_validate(TRI).composer(), GaussianFlow()
        draw = draws(composer)
        scored = composer.score({"online": Scalable(net)}, draw)
        found, tangent = targets(composer, scored), tangents(net, draw)
        assert found["added/fm"] == 0
        assert found["target/fm"] == pytest.approx(draw.v_t.square().mean().sqrt().item())
        assert found["added/cm"] == pytest.approx(tangent["scaled_tangent/u"], rel=1e-5)
        # Three quarters of the rows are jumps, the others add nothing.
        assert found["added/mf"] == pytest.approx(tangent["scaled_tangent/w"] * math.sqrt(0.75), rel=1e-5)

    def test_of_a_mixture_only_the_rows_that_an_objective_scores(self) -> None:
        table = {
            "objectives": {"fm": {"head": "w"}, "cm": {"head": "w"}},
            "pairs": {"kind": "zero", "equal_share": 0.5},
        }
        composer, net = Experiment.model_validate(table).composer(), GaussianFlow(heads=("w",))
        draw = draws(composer)
        found = targets(composer, composer.score({"online": net}, draw))
        jumps = draw.r < draw.t
        assert found["target/fm"] == pytest.approx(draw.v_t[~jumps].square().mean().sqrt().item())
        assert found["added/cm"] == pytest.approx(tangents(net, draw)["scaled_tangent/w"], rel=1e-5)

    def test_an_objective_with_a_forward_of_its_own_is_asked_there(self) -> None:
        table = {"objectives": {"mf": {}, "cm": {"head": "u", "rows": "all"}}, "pairs": {"equal_share": 0.5}}
        composer, net = Experiment.model_validate(table).composer(), Renamed()
        draw = draws(composer)
        to_data = tangents(net, draw._replace(r=torch.zeros_like(draw.t)))
        found = targets(composer, composer.score({"online": net}, draw))
        assert found["added/cm"] == pytest.approx(to_data["scaled_tangent/u"], rel=1e-5)


class Scalable:
    """A network whose outputs do not depend on anything that is learnt."""

    def __init__(self, net: GaussianFlow):
        self.net, self.horizons, self.sees_r = net, net.horizons, net.sees_r

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.net(x_t, t, r=r, y=y)


class Renamed(GaussianFlow):
    """An interval head called u."""

    def __init__(self) -> None:
        super().__init__(heads=("w",))
        self.horizons, self.sees_r = {"u": "interval"}, frozenset({"u"})

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"u": self.average(x_t, t, t if r is None else r)}


def weights(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.safetensors"), *(folder / "checkpoints/latest").glob("*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class TestRuns:
    @pytest.mark.parametrize(
        ("recipe", "more"),
        [("dumo-moons", {}), ("dumo-digits", {"guidance.kind": "self", "backbone.dropout": 0.2})],
    )
    def test_looking_changes_no_bit_of_what_is_learnt(self, recipe: str, more: dict[str, Any], tmp_path: Path) -> None:
        for name, every in (("without", 0), ("with", 1)):
            Run(experiment(recipe, **more, **{"diagnose.every": every}), tmp_path / name).go()
        assert weights(tmp_path / "with") == weights(tmp_path / "without")
        assert len(weights(tmp_path / "with")) >= 4
        assert not (tmp_path / "without" / diagnose.LOG).exists()
        assert not (tmp_path / "without" / diagnose.PICTURE).exists()
        steps = [line["step"] for line in lines(tmp_path / "with")]
        assert steps == list(range(1, (12 if recipe == "dumo-moons" else 2) + 1))

    def test_modes_and_random_numbers_are_left_as_they_were(self) -> None:
        model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
        model[1].eval()
        before = torch.get_rng_state()

        def fail() -> None:
            with diagnose.untouched(model, torch.device("cpu")):
                assert not any(module.training for module in model.modules())
                torch.randn(3)
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert [module.training for module in model.modules()] == [True, True, False]
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        "settings",
        [
            {"heads": "u", "names": "cm"},
            {"heads": "u", "names": "mf", "pairs__equal_share": 0.5},
            {"heads": "v,u", "names": "fm,sc", "pairs__equal_share": 0.5},
            {"heads": "v,w,u", "names": "fm,mf,cm", "train__precision": "bf16"},
            {"objectives__fm__uncertainty": True, "objectives__cm__uncertainty": True},
            {"heads": "u", "names": "fm@u,mf@u", "pairs__equal_share": 0.5},
            {"heads": "u", "names": "fm@u,cm@u", "objectives__fm__rows": "all", "objectives__cm__rows": "all"},
            {"heads": "v,u", "names": "fm,alphaflow"},
            {"recipe": "dumo-digits", "guidance.kind": "fed"},
            {"recipe": "dumo-digits", "guidance.kind": "self", "backbone.dropout": 0.1},
        ],
        ids=str,
    )
    def test_every_kind_of_run_can_be_looked_at(self, settings: dict[str, Any], tmp_path: Path) -> None:
        found = last(tmp_path, **settings)
        objectives = experiment(**settings).objectives
        assert {f"norm/{name}" for name in objectives} <= found.keys()
        assert sum(key.startswith("cosine/") for key in found) == len(objectives) * (len(objectives) - 1) // 2
        assert {f"target/{name}" for name in objectives} <= found.keys()
        assert any(key.startswith("tangent/") for key in found)
        assert all(math.isfinite(value) for value in found.values())

    def test_a_compiled_model_is_looked_at_without_its_compiled_form(self, tmp_path: Path) -> None:
        def never(*_: Any) -> Any:
            raise AssertionError("compiled")

        run = Run(experiment(diagnose__every=1), tmp_path / "run")
        step = run.step_module()
        look = Diagnosis(run.folder, run.experiment.diagnose, step, run.source, 0, 192, compiled=True)
        plain = look.look(run.state)
        run.model.compile(backend=never)
        run.model.trunk.compile(backend=never)
        assert look.look(run.state) == plain

    def test_resume_cuts_the_log_and_writes_the_same_again(self, tmp_path: Path) -> None:
        settings = experiment(diagnose__every=4)
        Run(settings, tmp_path / "whole").go()
        whole = lines(tmp_path / "whole")
        assert [line["step"] for line in whole] == [4, 8, 12]
        folder = Run(experiment(diagnose__every=4, checkpoint__keep=9), tmp_path / "parts").go().folder
        for path in (folder / "checkpoints").glob("step_0000001*"):
            path.rename(folder / "checkpoints" / f"away_{path.name}")
        with (folder / diagnose.LOG).open("a") as file:
            file.write('{"step": 9, "torn')
        again = Run(settings, folder, resume=True)
        assert [line["step"] for line in lines(folder)] == [4]
        again.go()
        assert lines(folder) == whole

    def test_it_may_change_on_resume_and_is_no_part_of_the_name(self, tmp_path: Path) -> None:
        assert experiment(diagnose__every=3).run_name() == experiment().run_name()
        Run(experiment(), tmp_path / "run").go()
        (tmp_path / "run" / diagnose.LOG).write_text("")  # all of its lines were cut
        assert Run(experiment(diagnose__every=3), tmp_path / "run", resume=True).go().diagnostics is None

    def test_the_end_of_a_run_names_the_picture(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        words = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]
        assert run(["train", "--out", "run", *words]) == 0
        assert diagnose.PICTURE not in capsys.readouterr().out
        assert run(["train", "--out", "looked", *words, "diagnose.every=4"]) == 0
        assert "looked/diagnostics.png" in capsys.readouterr().out.replace("\\", "/")
        assert (tmp_path / "looked" / diagnose.PICTURE).stat().st_size > 20_000

    def test_tensorboard_gets_the_values_too(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        Run(experiment(diagnose__every=6, log__tensorboard=True), tmp_path / "run").go()
        found = lines(tmp_path / "run")[-1]
        events = EventAccumulator(str(tmp_path / "run/tensorboard"))
        events.Reload()
        shown = events.Scalars("cosine/fm/cm")
        assert [event.step for event in shown] == [6, 12]
        assert shown[-1].value == pytest.approx(found["cosine/fm/cm"], abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("diagnose.every=-1", "diagnose.every"),
        ("diagnose.batch=0", "diagnose.batch"),
        ("diagnose.steps=0", "diagnose.steps"),
        ("diagnose.evry=5", "'every'"),
        ("diagnose=200", "table of settings"),
    ],
)
def test_bad_settings_are_told_in_one_line(
    setting: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--out", "new", setting]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not (tmp_path / "new").exists()
