"""Training-time guidance: one formula, where it holds, who loses the label, and guidance as an input of the network."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from genobj import hub
from genobj.cli.resolve import resolve
from genobj.composer import Composer
from genobj.evaluation import Generator
from genobj.guidance.base import Guidance
from genobj.guidance.fed import FedGuidance
from genobj.guidance.frozen import FrozenGuidance
from genobj.guidance.mean_flow import MeanFlowGuidance
from genobj.guidance.own import SelfGuidance
from genobj.objectives.any_step import AnyStep
from genobj.objectives.flow_matching import FlowMatching
from genobj.objectives.improved_mean_flow import ImprovedMeanFlow
from genobj.objectives.mean_flow import MeanFlow
from genobj.objectives.twin_flow import TwinFlow
from genobj.objectives.whole_twin_flow import WholeTwinFlow
from genobj.parts import GUIDANCE
from genobj.passes import Count, StepPasses
from genobj.paths.linear import Linear
from genobj.run import Run
from genobj.samplers.euler import Euler
from genobj.samplers.flow_map import FlowMap
from genobj.samplers.heun import Heun
from genobj.testing import GaussianFlow
from genobj.times.pairs import Below, Pairs, Sorted
from genobj.times.twin import Twin
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon, Point

NULL = 10


class Labelled:
    """v = (1 + y) x_t t, w = (1 + y) x_t (t - r + 2); null is label 10. Remembers its points."""

    horizons: ClassVar[dict[str, Horizon]] = {"v": "instant", "w": "interval"}
    sees_r: ClassVar[frozenset[str]] = frozenset({"w"})

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.asked: list[Point] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.say(Point(x_t, t, r, y))

    def say(self, point: Point) -> dict[str, Tensor]:
        self.asked.append(point)
        assert point.y is not None
        time, gap = point.t[:, None], point.t - (point.t if point.r is None else point.r)
        y = self.factor * (1 + point.y[:, None])
        return {"v": y * point.x_t * time, "w": y * point.x_t * (gap[:, None] + 2)}


class Fed(Labelled):
    """The same, times the scale that it is told."""

    fed = 8.0

    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        r: Tensor | None = None,
        y: Tensor | None = None,
        g: Tensor | None = None,
    ) -> dict[str, Tensor]:
        said = self.say(Point(x_t, t, r, y, g))
        assert g is not None
        return {head: g[:, :1] * value for head, value in said.items()}


def _draw(t: Tensor, **changes: Any) -> Draw:
    """A draw of these times with labels 0, 1, ... that were all kept."""
    rows = len(t)
    x, v, y = torch.randn(rows, 2).double(), torch.randn(rows, 2).double(), torch.arange(rows)
    draw = Draw(x, x, t, t / 2, x, v, v, y, torch.zeros(rows, dtype=torch.bool), torch.full((rows,), NULL))
    return draw._replace(**changes)


def _guided(guidance: Guidance, draw: Draw, **networks: Any) -> Tensor:
    """The draw's velocity under guidance, as the composer makes it."""
    composer = Composer(Linear(), Uniform(), Below(), {"fm": FlowMatching()}, guidance, classes=NULL)
    passes = StepPasses({"online": Labelled(), **networks}, len(draw.t))
    return composer.guided(draw, passes).v_t


def _v(draw: Draw, y: Any, factor: float = 1.0) -> Tensor:
    return factor * (1 + y) * draw.x_t * draw.t[:, None]


T = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)


class TestFormula:
    @pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.5), (0.2, 0.92), (3.0, 0.0), (0.75, 0.75), (0.5, 0.5)])
    def test_mean_flow(self, omega: float, kappa: float) -> None:
        draw = _draw(T)
        y = torch.arange(7)[:, None]
        wanted = omega * draw.v_path + kappa * _v(draw, y) + (1 - omega - kappa) * _v(draw, NULL)
        torch.testing.assert_close(_guided(MeanFlowGuidance(omega=omega, kappa=kappa), draw), wanted)

    def test_self_guidance_is_omega_one(self) -> None:
        draw = _draw(T)
        two = MeanFlowGuidance(omega=1.0, kappa=0.4)
        torch.testing.assert_close(_guided(SelfGuidance(zeta=0.4), draw), _guided(two, draw))

    @pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.5), (0.2, 0.92), (3.0, 0.0)])
    def test_its_fixed_point_has_scale_omega_over_one_minus_kappa(self, omega: float, kappa: float) -> None:
        """With v = v_true, the formula leaves v_null + w (v_true - v_null) as it is, and nothing else."""
        true, null = torch.tensor([[1.5, -2.0]]).double(), torch.tensor([[0.3, 0.4]]).double()

        class Told(Labelled):
            def say(self, point: Point) -> dict[str, Tensor]:
                assert point.y is not None
                return {"v": torch.where(point.y[:, None] == NULL, null, told)}

        w = omega / (1 - kappa)
        draw = _draw(torch.tensor([0.5]).double(), v_t=true, v_path=true)
        told = null + w * (true - null)
        torch.testing.assert_close(_guided(MeanFlowGuidance(omega=omega, kappa=kappa), draw, online=Told()), told)
        told = told + 1  # an error shrinks by kappa
        again = _guided(MeanFlowGuidance(omega=omega, kappa=kappa), draw, online=Told())
        torch.testing.assert_close(again - (told - 1), torch.full_like(told, kappa))

    def test_so_flow_fades_to_none_at_the_noise_end(self) -> None:
        guidance = MeanFlowGuidance(omega=0.75, kappa=0.75, fade=0.8)
        t = torch.tensor([0.1, 0.8, 0.85, 0.9, 0.99, 1.0]).double()
        draw = _draw(t)
        d = ((1 - t) / 0.2).clamp(max=1 - 1e-12)
        strength = torch.where(t > 0.8, 1 - (-0.025 * d / (1 - d)).exp(), 1.0)[:, None]
        assert strength.squeeze().tolist()[:2] == [1.0, 1.0]
        assert strength[-1] == 0
        assert 0.05 < strength[2] < 0.12
        omega = 0.25 + strength * 0.5
        y = torch.arange(6)[:, None]
        wanted = omega * draw.v_path + 0.75 * _v(draw, y) + (0.25 - omega) * _v(draw, NULL)
        torch.testing.assert_close(_guided(guidance, draw), wanted)
        torch.testing.assert_close(wanted[-1], (0.25 * draw.v_path + 0.75 * _v(draw, y))[-1])  # scale 1

    def test_the_average_network_gives_both_velocities(self) -> None:
        draw = _draw(T)
        got = _guided(MeanFlowGuidance(omega=1.0, kappa=0.5, weights="ema"), draw, ema=Labelled(3.0))
        y = torch.arange(7)[:, None]
        torch.testing.assert_close(got, draw.v_path + 0.5 * (_v(draw, y, 3.0) - _v(draw, NULL, 3.0)))
        assert MeanFlowGuidance(weights="ema").networks == {"ema"}

    @pytest.mark.parametrize(("zeta", "omega"), [(1.5, 1.0), (2.0, 0.0), (1.5, 0.5)])
    def test_a_frozen_teacher(self, zeta: float, omega: float) -> None:
        draw = _draw(T)
        got = _guided(FrozenGuidance(zeta=zeta, omega=omega, teacher="x"), draw, frozen=Labelled(2.0))
        y = torch.arange(7)[:, None]
        given, free = _v(draw, y, 2.0), _v(draw, NULL, 2.0)
        torch.testing.assert_close(got, omega * draw.v_path + zeta * given + (1 - omega - zeta) * free)
        if omega == 0:  # distilled at scale zeta: the data's velocity does not enter
            torch.testing.assert_close(got, free + zeta * (given - free))

    def test_distilling_every_row_learns_from_the_teacher(self) -> None:
        """Without the data's velocity in the target, rows that lost their label learn the teacher's null too."""
        gone = torch.arange(7) % 2 == 0
        draw = _draw(T, y=torch.arange(7).masked_fill(gone, NULL), dropped=gone)
        assert draw.y is not None
        distilled = FrozenGuidance.model_validate({"omega": 0, "zeta": 1.5})
        given, free = _v(draw, draw.y[:, None], 2.0), _v(draw, NULL, 2.0)
        torch.testing.assert_close(_guided(distilled, draw, frozen=Labelled(2.0)), free + 1.5 * (given - free))
        again = FrozenGuidance.model_validate(distilled.model_dump(mode="json"))
        assert (distilled.dropped, again) == ("guided", distilled)
        plain = FrozenGuidance(omega=0.0, dropped="plain")
        assert torch.equal(_guided(plain, draw, frozen=Labelled(2.0))[gone], draw.v_path[gone])
        assert FrozenGuidance(omega=0.5).dropped == FrozenGuidance().dropped == "plain"
        typed, _ = resolve("dumo-digits", overrides=["guidance=frozen", "guidance.omega=0", "teacher.from=x"])
        assert typed.guidance.dropped == "guided"

    def test_only_the_unconditional_velocity_needs_labels(self) -> None:
        assert SelfGuidance().needs_labels
        assert MeanFlowGuidance(omega=0.5, kappa=0.5).needs_labels
        for zeta, omega, needs in ((1.0, 1.0, True), (2.0, 0.0, True), (1.0, 0.0, False), (0.3, 0.7, False)):
            frozen = FrozenGuidance(zeta=zeta, omega=omega, teacher="x")
            assert frozen.needs_labels == needs
            asked = Labelled()
            _guided(frozen, _draw(T), frozen=asked)
            assert len(asked.asked) == 1 + needs

    def test_what_changes_nothing_is_not_active(self) -> None:
        assert not MeanFlowGuidance(omega=1.0, kappa=0.0).active
        assert not FrozenGuidance(zeta=0.0).active
        assert FrozenGuidance(zeta=0.0, omega=0.0).active
        assert not SelfGuidance(zeta=0.0).active


class TestWhere:
    ENDS = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.8]).double()

    @pytest.mark.parametrize("kind", ["self", "mean_flow", "frozen"])
    @pytest.mark.parametrize(
        ("ends", "inside"), [("closed", [False, True, True, True, False]), ("open", [False, False, True, False, False])]
    )
    def test_ends_of_the_interval(self, kind: str, ends: Any, inside: list[bool]) -> None:
        guidance = GUIDANCE.get(kind).model_validate({"interval": [0.25, 0.75], "ends": ends})
        draw = _draw(self.ENDS)
        changed = (_guided(guidance, draw, frozen=Labelled()) != draw.v_path).any(1)
        assert changed.tolist() == inside

    def test_beyond_its_interval_the_null_label_is_the_samples_own(self) -> None:
        draw = _draw(self.ENDS)
        guidance = MeanFlowGuidance(omega=2.0, kappa=0.5, null_within=(0.25, 0.75))
        y = torch.arange(5)[:, None]
        label = torch.where(((self.ENDS >= 0.25) & (self.ENDS <= 0.75))[:, None], NULL, y)
        wanted = 2 * draw.v_path + 0.5 * _v(draw, y) - 1.5 * _v(draw, label)
        torch.testing.assert_close(_guided(guidance, draw), wanted)

    @pytest.mark.parametrize("dropped", ["plain", "guided"])
    def test_rows_without_a_label(self, dropped: Any) -> None:
        gone = torch.tensor([True, False] * 3 + [True])
        y = torch.arange(7).masked_fill(gone, NULL)
        draw = _draw(T, y=y, dropped=gone)
        got = _guided(MeanFlowGuidance(omega=0.2, kappa=0.5, dropped=dropped), draw)
        formula = 0.2 * draw.v_path + 0.5 * _v(draw, y[:, None]) + 0.3 * _v(draw, NULL)
        wanted = formula if dropped == "guided" else torch.where(gone[:, None], draw.v_path, formula)
        torch.testing.assert_close(got, wanted)

    def test_intervals_run_from_low_to_high(self) -> None:
        for name in ("interval", "null_within"):
            with pytest.raises(
                ValueError, match=rf"{name} runs from low to high, got \[0\.8, 0\.2\]; type \[0\.2, 0\.8\]"
            ):
                SelfGuidance.model_validate({name: [0.8, 0.2]})

    @pytest.mark.parametrize("kind", ["self", "mean_flow", "fed"])
    def test_the_null_label_has_to_be_trained(self, kind: str) -> None:
        with pytest.raises(ValueError, match=r"label_drop=0 never trains; type label_drop=0\.1"):
            resolve("dumo-digits", overrides=[f"guidance={kind}", "label_drop=0"])
        resolve("dumo-digits", overrides=[f"guidance={kind}", "label_drop=0.1"])


def _composer(guidance: Guidance, pairs: Pairs | None = None, objectives: Any = None, **options: Any) -> Composer:
    objectives = objectives or {"mf": MeanFlow(head="w")}
    return Composer(Linear(), Uniform(), pairs or Sorted(), objectives, guidance, classes=NULL, **options)


class TestLabelDrop:
    def drawn(self, where: Any, guidance: Guidance | None = None) -> Draw:
        composer = _composer(guidance or SelfGuidance(), Sorted(equal_share=0.5), label_drop=0.25, drop_where=where)
        return composer.draw(torch.randn(400, 2), torch.arange(400) % 10, torch.Generator().manual_seed(0))

    def test_a_prefix_of_as_many_rows(self) -> None:
        anywhere, prefix = self.drawn("anywhere"), self.drawn("prefix")
        assert anywhere.dropped is not None
        assert prefix.dropped is not None
        count = int(anywhere.dropped.sum())
        assert 70 < count < 130
        assert prefix.dropped.tolist() == [True] * count + [False] * (400 - count)
        assert bool((prefix.r == prefix.t)[prefix.dropped].all())  # they lie in the equal share
        assert prefix.y is not None
        assert torch.equal(prefix.y == NULL, prefix.dropped)
        assert not anywhere.dropped[:count].all()

    def test_only_where_guidance_holds(self) -> None:
        guidance = SelfGuidance(interval=(0.3, 0.6), ends="open")
        anywhere, guided = self.drawn("anywhere", guidance), self.drawn("guided", guidance)
        assert anywhere.dropped is not None
        assert guided.dropped is not None
        inside = (guided.t > 0.3) & (guided.t < 0.6)
        assert torch.equal(guided.dropped, anywhere.dropped & inside)
        assert guided.dropped.any()

    def test_it_is_a_setting(self) -> None:
        e, _ = resolve("dumo-digits", overrides=["label_drop_where=prefix"])
        assert e.composer().drop_where == "prefix"
        with pytest.raises(ValueError, match="label_drop_where"):
            resolve("dumo-digits", overrides=["label_drop_where=nowhere"])


class TestFed:
    """guidance=fed: the network is told scale and interval (improved MeanFlow)."""

    def draw(self, rows: int = 64, **pairs: Any) -> tuple[Composer, Draw]:
        composer = _composer(FedGuidance(), Sorted(equal_share=0.25, **pairs))
        return composer, composer.draw(torch.randn(rows, 2), torch.arange(rows) % 10, torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
    def test_laws_of_scale_and_interval(self, power: float) -> None:
        t = torch.rand(20_000)
        g, g_v = FedGuidance(power=power).inputs(t, t / 2, torch.Generator().manual_seed(0))
        w, low, high = g.T
        assert 1 <= w.min() < 1.01
        assert 7.9 < w.max() <= 8.001
        assert 0 <= low.min() <= low.max() <= 0.5 <= high.min() <= high.max() <= 1
        means = {0.0: 4.5, 1.0: 7 / torch.log(torch.tensor(8.0)), 2.0: torch.log(torch.tensor(8.0)) / (1 - 1 / 8)}
        assert abs(w.mean() - means[power]) < 0.08
        inside = (t >= low) & (t <= high)
        assert torch.equal(g_v[:, 0], torch.where(inside, w, 1.0))
        assert torch.equal(g_v[:, 1:], torch.tensor([[0.0, 1.0]]).expand(len(t), 2))
        assert 0.3 < inside.float().mean() < 0.9

    def test_velocity_rows_are_trained_on_the_whole_interval(self) -> None:
        _, draw = self.draw()
        assert draw.g is not None
        assert draw.g_v is not None
        assert (draw.g[:16, 1:] == torch.tensor([0.0, 1.0])).all()
        assert not (draw.g[16:, 1:] == torch.tensor([0.0, 1.0])).all(1).any()
        assert torch.equal(draw.g[:16], draw.g_v[:16])

    @pytest.mark.parametrize(
        ("objectives", "pairs"),
        [
            ({"own": TwinFlow(head="w")}, Twin()),
            ({"rcgm": AnyStep(head="w"), "own": WholeTwinFlow(head="w")}, Sorted(equal_share=0.25)),
        ],
    )
    def test_the_flow_to_own_samples_is_asked_what_it_learns(self, objectives: Any, pairs: Any) -> None:
        """The fake flow is told a scale and an interval as it is in training; the real one the scale that holds."""
        learnt, asked = list[Tensor](), list[tuple[Tensor, Tensor]]()

        class Asked(GaussianFlow):
            """Keeps what it is told where it learns the fake flow, and where both flows are asked for in one batch."""

            fed = 8.0

            def __call__(self, x_t: Any, t: Any, *, r: Any = None, y: Any = None, g: Any = None) -> dict[str, Tensor]:
                half = len(t) // 2
                if torch.is_grad_enabled():
                    learnt.append(g[t < 0])
                elif torch.equal(t[:half], -t[half:]):
                    asked.append((g[:half], torch.cat([t[half:, None], g[half:]], 1)))
                return super().__call__(x_t, t.abs(), r=r.abs())

        composer = _composer(FedGuidance(), pairs, objectives)
        draw = composer.draw(torch.randn(64, 2), torch.arange(64) % 10, torch.Generator().manual_seed(0))
        net = Asked(heads=("w",))
        composer.loss({"online": net, "ema": net}, draw)
        ((fake, real),) = asked
        fed = torch.cat(learnt)

        def partial(g: Tensor) -> float:
            return (g[:, -2:] != torch.tensor([0.0, 1.0])).any(1).float().mean().item()

        assert draw.g is not None
        assert partial(fake) == partial(fed) == (0.75 if "rcgm" in objectives else 0.0)
        assert torch.equal(fake[:, 0], draw.g[: len(fake), 0])
        held = draw.g[: len(real)]
        inside = (real[:, 0] >= held[:, 1]) & (real[:, 0] <= held[:, 2])
        assert torch.equal(real[:, 1], torch.where(inside, held[:, 0], 1.0))
        assert partial(real) == 0

    def test_the_formula(self) -> None:
        composer, draw = self.draw()
        passes = StepPasses({"online": Fed()}, 64)
        null = torch.full((64,), NULL)
        got = composer.guided(draw._replace(null=null), passes).v_t
        assert draw.g_v is not None
        assert draw.y is not None
        w = draw.g_v[:, :1]
        velocity = draw.x_t * draw.t[:, None]
        wanted = draw.v_path + (1 - 1 / w) * (w * (1 + draw.y[:, None]) - 1 * (1 + NULL)) * velocity
        torch.testing.assert_close(got, wanted)
        assert torch.equal(got[w.squeeze() == 1], draw.v_path[w.squeeze() == 1])

    def test_what_the_network_is_told(self) -> None:
        """w and its interval in the forward and its derivative; the scale at rest where velocities are asked for."""
        objectives = {"imf": ImprovedMeanFlow(head="w")}
        composer = Composer(Linear(), Uniform(), Sorted(), objectives, FedGuidance(), classes=NULL)
        net = Fed()
        net.weight = torch.nn.Parameter(torch.ones(()))  # type: ignore[attr-defined]
        draw = composer.draw(torch.randn(8, 2), torch.arange(8), torch.Generator().manual_seed(0))
        loss = composer.loss({"online": net}, draw)
        assert loss.passes == Count(1, 4, 0)
        main, *velocities, difference = net.asked
        assert main.g is draw.g
        assert [point.g is draw.g_v for point in velocities] == [True, False]
        nulls = velocities[1]
        assert nulls.g is not None
        assert nulls.y is not None
        assert torch.equal(nulls.g, torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3))
        assert (nulls.y == NULL).all()
        assert difference.g is not None
        assert draw.g is not None
        assert torch.equal(difference.g, torch.cat([draw.g, draw.g]))

    def test_a_teacher_or_plain_network_is_told_nothing(self) -> None:
        draw = _draw(T, g=torch.ones(7, 3), g_v=torch.ones(7, 3))
        _guided(FrozenGuidance(teacher="x"), draw, frozen=Labelled())  # would raise: it takes no g

    @pytest.mark.parametrize(("sampler", "calls"), [(FlowMap(steps=3), 3), (Euler(steps=4), 4), (Heun(steps=2), 4)])
    def test_samplers_feed_it_for_one_evaluation_a_step(self, sampler: Any, calls: int) -> None:
        net, y = Fed(), torch.arange(5)
        sampler = type(sampler).model_validate(dict(sampler) | {"guidance": 3.0, "interval": (0.2, 0.7)})
        walk = sampler(net, torch.randn(5, 2), y, null=NULL)
        assert walk.nfe == len(net.asked) == calls
        for point in net.asked:
            assert point.g is not None
            assert torch.equal(point.g, torch.tensor([[3.0, 0.2, 0.7]]).expand(5, 3))
            assert point.y is y
        with pytest.raises(ValueError, match="is told its guidance scale, from 1 to 8"):
            type(sampler).model_validate(dict(sampler) | {"guidance": 0.5})(net, torch.randn(5, 2), y, null=NULL)

    @pytest.mark.parametrize("objectives", ["imf@u", "fm@v,imf@u"])
    def test_train_save_load_and_sample(self, objectives: str, tmp_path: Path) -> None:
        small = ["train.steps=3", "train.batch=8", "pictures.count=10", "evaluation.nfe=[1]", "backbone.width=32"]
        small += ["evaluation.count=16", "evaluation.reference=16", "pairs.equal_share=0.5", "guidance=fed"]
        e, _ = resolve(objectives=objectives, data="digits", backbone="mlp", overrides=small)
        run = Run(e, tmp_path / "run")
        run.go()
        loaded = hub.load(tmp_path / "run", "live")
        assert loaded.model.fed
        assert loaded.settings == e.model_settings()
        x, t, y = torch.randn(4, 1, 8, 8), torch.rand(4), torch.arange(4)
        g = torch.tensor([[4.0, 0.1, 0.9]]).expand(4, 3)
        run.model.eval()
        for guide in (g, None):
            ours, theirs = (net(x, t, r=t / 2, y=y, g=guide)["u"] for net in (run.model, loaded.model))
            assert torch.equal(ours, theirs)
        assert not torch.equal(loaded.model(x, t, r=t / 2, y=y, g=g)["u"], loaded.model(x, t, r=t / 2, y=y)["u"])
        generate = Generator(loaded.model, loaded.settings, torch.device("cpu"))
        drawn = [generate(FlowMap(steps=2, guidance=scale), 4, 0) for scale in (1.0, 3.0)]
        assert drawn[0][0].x.isfinite().all()
        assert not torch.equal(drawn[0][0].x, drawn[1][0].x)
