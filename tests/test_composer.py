"""Passes are counted, shared and batched; guidance changes exactly the rows it should; contradictions are refused."""

from typing import Any, ClassVar, final

import pytest
import torch
from torch import Tensor

from genobj.composer import Composer
from genobj.derivatives import Derivative
from genobj.experiment import Experiment
from genobj.guidance.base import Guidance
from genobj.guidance.mean_flow import MeanFlowGuidance
from genobj.guidance.none import NoGuidance
from genobj.guidance.own import SelfGuidance
from genobj.objectives.base import Regression
from genobj.parts import OBJECTIVES
from genobj.passes import Count, StepPasses
from genobj.paths.linear import Linear
from genobj.testing import GaussianFlow
from genobj.times.base import Times
from genobj.times.grouped import Grouped
from genobj.times.pairs import Below, Pairs
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon, Passes, Point, Samples


class Recording:
    """A network of three heads that remembers how many rows each of its calls had."""

    horizons: ClassVar[dict[str, Horizon]] = {"v": "instant", "u": "data", "w": "interval"}
    sees_r = frozenset({"w"})

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -0.5, 0.3]))

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, Tensor]:
        self.rows.append(len(x_t))
        time = t.view(-1, *[1] * (x_t.ndim - 1))
        label = torch.zeros(len(x_t)) if y is None else y
        shift = label.view_as(time).to(x_t)
        gap = time if r is None else time - r.view_as(time)
        w = self.weight.to(x_t)
        return {"v": w[0] * x_t * time + shift, "u": w[1] * x_t * time**2 + shift, "w": w[2] * x_t * gap}


def _compose(names: dict[str, dict[str, Any]], guided: bool = False, **options: Any) -> Composer:
    objectives = {
        name: OBJECTIVES.get(settings.get("kind", name[:2])).model_validate(
            {key: value for key, value in settings.items() if key != "kind"}
        )
        for name, settings in names.items()
    }
    guidance = SelfGuidance(zeta=0.5) if guided else NoGuidance()
    return Composer(Linear(), Uniform(), Below(), objectives, guidance, classes=10 if guided else 0, **options)


class Single(Recording):
    """One interval head."""

    horizons: ClassVar[dict[str, Horizon]] = {"w": "interval"}


def _at(guidance: Guidance, objectives: dict[str, dict[str, Any]], net: Recording, **pairs: Any) -> Count:
    """What a step of 8 rows costs, objectives on the heads that they name."""
    parts = {name: OBJECTIVES.get(name).model_validate(settings) for name, settings in objectives.items()}
    composer = Composer(Linear(), Uniform(), Below(**pairs), parts, guidance, classes=10)
    draw = composer.draw(torch.randn(8, 2), torch.arange(8), torch.Generator().manual_seed(0))
    count = composer.loss(dict.fromkeys(composer.networks, net), draw).passes
    assert sum(net.rows) == 8 * (count.with_gradient + count.without_gradient + count.tangent)
    return count


def _step(composer: Composer, guided: bool = False) -> tuple[Count, list[int]]:
    net = Recording()
    y = torch.arange(8) if guided else None
    draw = composer.draw(torch.randn(8, 2), y, torch.Generator().manual_seed(0))
    return composer.loss({"online": net, "ema": net}, draw).passes, net.rows


class TestPasses:
    def test_dumo_costs_one_and_three(self) -> None:
        count, rows = _step(_compose({"fm": {}, "cm": {}}, guided=True), guided=True)
        assert count == Count(1, 3, 0)
        assert rows == [8, 8, 16]  # the forward, the null velocity, both difference points in one batch

    def test_unguided_dumo_costs_one_and_two(self) -> None:
        count, rows = _step(_compose({"fm": {}, "cm": {}}))
        assert count == Count(1, 2, 0)
        assert rows == [8, 16]

    def test_flow_matching_costs_one(self) -> None:
        assert _step(_compose({"fm": {}}))[0] == Count(1, 0, 0)

    def test_equal_points_are_evaluated_once_whoever_asks(self) -> None:
        twice = {"cm": {}, "cm2": {"head": "u", "distance": "pseudo_huber"}}
        assert _step(_compose({"fm": {}, **twice}, guided=True), guided=True)[0] == Count(1, 3, 0)

    def test_other_steps_are_other_points(self) -> None:
        twice = {"cm": {}, "cm2": {"derivative": {"step": 0.01}}}
        assert _step(_compose(twice))[0] == Count(1, 4, 0)

    def test_backward_differences_use_the_main_forward(self) -> None:
        assert _step(_compose({"cm": {"derivative": {"method": "backward"}}}))[0] == Count(1, 1, 0)

    def test_tangents_are_counted_apart_and_shared(self) -> None:
        exact = {"derivative": {"method": "jvp"}}
        assert _step(_compose({"cm": exact, "cm2": exact}))[0] == Count(1, 0, 1)

    def test_the_average_network_is_another_network(self) -> None:
        twice = {"cm": {}, "cm2": {"derivative": {"weights": "ema"}}}
        composer = _compose(twice)
        assert composer.networks == {"online", "ema"}
        assert _step(composer)[0] == Count(1, 4, 0)

    def test_a_single_interval_head_pays_for_its_velocity(self) -> None:
        """MeanFlow's 1 + 4: v at r = t is not the forward at r, so guidance costs two passes."""

        class Interval(Recording):
            horizons: ClassVar[dict[str, Horizon]] = {"w": "interval"}
            sees_r = frozenset({"w"})

        class Mean(Regression):
            """A flow-map objective with r."""

            horizon = "interval"
            head: str = "w"

            def target(self, draw: Draw, passes: Passes) -> Samples:
                a = Point(draw.x_t + 0.1, draw.t, draw.r, draw.y)
                b = Point(draw.x_t - 0.1, draw.t, draw.r, draw.y)
                ahead, behind = passes(a, b)
                return draw.v_t - (ahead["w"] - behind["w"])

        composer = Composer(Linear(), Uniform(), Below(), {"mean": Mean()}, SelfGuidance(zeta=0.5), classes=10)
        net = Interval()
        draw = composer.draw(torch.randn(8, 2), torch.arange(8), torch.Generator().manual_seed(0))
        assert composer.loss({"online": net}, draw).passes == Count(1, 4, 0)

    def test_results_equal_separate_evaluations(self) -> None:
        net = GaussianFlow()
        passes = StepPasses({"online": net}, 4)
        points = [Point(torch.randn(4, 2), torch.rand(4), torch.zeros(4)) for _ in range(3)]
        together = passes(*points)
        for point, out in zip(points, together, strict=True):
            alone = net(point.x_t, point.t, r=point.r)
            assert all(torch.equal(out[head], alone[head]) for head in alone)
        assert passes.count == Count(0, 3, 0)
        passes(points[1])
        assert passes.count == Count(0, 3, 0)

    def test_other_points_are_never_taken_for_known_ones(self) -> None:
        """Derivatives of two draws in one step, and of points that live no longer."""
        net = GaussianFlow()
        passes = StepPasses({"online": net}, 4)
        for method in ("central", "jvp"):
            derivative = Derivative.model_validate({"method": method})
            for scale in range(1, 60):
                t, x = torch.rand(4), scale * torch.randn(4, 2)
                v = net.velocity(x, t)
                draw = Draw(x, x, t, torch.zeros(4), x, v, v)
                fresh = derivative(draw, StepPasses({"online": net}, 4), "u")
                assert torch.equal(derivative(draw, passes, "u"), fresh)

    def test_a_point_asked_for_twice_at_once_is_evaluated_once(self) -> None:
        passes = StepPasses({"online": GaussianFlow()}, 4)
        point = Point(torch.randn(4, 2), torch.rand(4), torch.zeros(4))
        one, two = passes(point, point._replace())
        assert one is two
        assert passes.count == Count(0, 1, 0)

    def test_dropout_masks_are_shared_by_all_passes_of_a_step(self) -> None:
        layer = torch.nn.Dropout(0.5)

        class Noisy(Recording):
            def __call__(self, x_t: Tensor, t: Tensor, *, r: Any = None, y: Any = None) -> dict[str, Tensor]:
                self.rows.append(len(x_t))
                return {"u": layer(torch.ones_like(x_t))}

        composer = _compose({"cm": {}}, shared_masks=True)
        net = Noisy()
        draw = composer.draw(torch.randn(8, 2), None, torch.Generator().manual_seed(0))
        draw = draw._replace(v_t=torch.zeros_like(draw.x_t), v_path=torch.zeros_like(draw.x_t))
        loss = composer.loss({"online": net}, draw)
        # u has the same masks at t + h and t - h, so du/dt = 0 and the target is 0: the loss is mean(u^2), exactly.
        assert net.rows == [8, 8, 8]
        assert loss.total.item() in {4 * k / 16 for k in range(17)}


class TestRows:
    """Passes run on the rows that need them: not on a planned prefix with r = t, where t - r multiplies du/dt."""

    MF: ClassVar[dict[str, Any]] = {"mf": {"head": "w"}}

    @pytest.mark.parametrize(
        ("derivative", "count"),
        [
            ({}, Count(1, 2 * 5 / 8, 0)),
            ({"method": "backward"}, Count(1, 5 / 8, 0)),
            ({"method": "jvp"}, Count(1, 0, 5 / 8)),
        ],
    )
    def test_derivatives_leave_out_the_equal_prefix(self, derivative: dict[str, Any], count: Count) -> None:
        got = _at(NoGuidance(), {"mf": {"head": "w", "derivative": derivative}}, Single(), equal_share=0.375)
        assert got == count

    @pytest.mark.parametrize(("derivative", "count"), [({}, Count(1, 2, 0)), ({"method": "jvp"}, Count(1, 0, 1))])
    def test_a_share_by_chance_leaves_out_none(self, derivative: dict[str, Any], count: Count) -> None:
        objectives = {"mf": {"head": "w", "derivative": derivative}}
        assert _at(NoGuidance(), objectives, Single(), equal_share=0.5, share_by="bernoulli") == count

    def test_a_batch_of_equal_rows_costs_no_derivative(self) -> None:
        assert _at(NoGuidance(), self.MF, Single(), equal_share=1.0) == Count(1, 0, 0)
        assert _at(NoGuidance(), {"sc": {"head": "w"}}, Single(), equal_share=1.0) == Count(1, 0, 0)

    def test_jumps_leave_out_the_equal_prefix(self) -> None:
        for name, passes in (("sc", 2), ("split", 2), ("alphaflow", 1), ("soflow", 1)):
            assert _at(NoGuidance(), {name: {"head": "w"}}, Single(), equal_share=0.75) == Count(1, passes / 4, 0)

    def test_rows_are_completed_when_another_objective_asks_for_all(self) -> None:
        both = {"mf": {"head": "w"}, "cm": {"head": "u"}}
        for order in (["mf", "cm"], ["cm", "mf"]):
            objectives = {name: both[name] for name in order}
            assert _at(NoGuidance(), objectives, Recording(), equal_share=0.5) == Count(1, 2, 0)

    @pytest.mark.parametrize("method", ["central", "jvp"])
    @pytest.mark.parametrize("skips", [(3, 0), (0, 3), (5, 3, 0), (3, 5, 0, 2)])
    def test_completed_rows_equal_a_fresh_evaluation(self, method: Any, skips: tuple[int, ...]) -> None:
        net, t = GaussianFlow(), torch.rand(8)
        x = torch.randn(8, 2)
        draw = Draw(x, x, t, t / 3, x, net.velocity(x, t), x)
        derivative, passes = Derivative(method=method), StepPasses({"online": net}, 8)
        fresh = derivative(draw, StepPasses({"online": net}, 8), "w")
        for skip in skips:
            found = derivative(draw, passes, "w", skip)
            assert torch.equal(found[skip:], fresh[skip:])
            assert not found[:skip].any()
        cost = Count(0, 2, 0) if method == "central" else Count(0, 0, 1)
        assert passes.count == cost  # no row twice

    def test_rows_of_another_precision_are_not_put_together(self) -> None:
        passes = StepPasses({"online": GaussianFlow()}, 8, low=True)
        point = Point(torch.randn(8, 2), torch.rand(8), torch.rand(8))
        for precise, skip, rows in ((True, 4, 4), (False, 4, 4), (False, 0, 12), (True, 4, 12), (True, 0, 16)):
            assert len(passes(point, precise=precise, skip=skip)[0]["w"]) == 8 - skip
            assert passes.count.without_gradient == rows / 8
        assert passes(point)[0]["w"].shape == (8, 2)
        assert passes.count.without_gradient == 2

    def test_with_dropout_every_pass_has_all_rows(self) -> None:
        composer = Composer(
            Linear(),
            Uniform(),
            Below(equal_share=0.5),
            {"mf": OBJECTIVES.get("mf").model_validate({"head": "w"})},
            NoGuidance(),
            shared_masks=True,
        )
        net = Single()
        draw = composer.draw(torch.randn(8, 2), None, torch.Generator().manual_seed(0))
        assert composer.loss({"online": net}, draw).passes == Count(1, 2, 0)
        assert net.rows == [8, 8, 8]


class TestCounts:
    """The paper's counts of passes, in units of the batch."""

    SELF = SelfGuidance(zeta=0.5)

    def test_tri_head_with_mean_flow_costs_what_dumo_costs(self) -> None:
        three = {"fm": {"head": "v"}, "mf": {"head": "w"}, "cm": {"head": "u"}}
        for order in (three, dict(reversed(three.items()))):
            assert _at(self.SELF, order, Recording()) == Count(1, 3, 0)

    def test_tri_head_with_shortcut_costs_at_most_five(self) -> None:
        three = {"fm": {"head": "v"}, "sc": {"head": "w"}, "cm": {"head": "u"}}
        assert _at(self.SELF, three, Recording(), equal_share=0.25) == Count(1, 3 + 2 * 0.75, 0)

    @pytest.mark.parametrize(
        ("guidance", "without"),
        [
            (SelfGuidance(zeta=0.5), 4),
            (MeanFlowGuidance(omega=0.2, kappa=0.92), 4),
            (MeanFlowGuidance(omega=2.0, kappa=0.0), 3),
            (MeanFlowGuidance(omega=0.5, kappa=0.5), 3),
            (MeanFlowGuidance(omega=1.0, kappa=0.0), 2),
            (NoGuidance(), 2),
        ],
    )
    def test_single_branch_mean_flow(self, guidance: Guidance, without: int) -> None:
        """kappa = 0 saves the conditional velocity; omega + kappa = 1 saves the unconditional one."""
        assert _at(guidance, {"mf": {"head": "w"}}, Single()) == Count(1, without, 0)

    def test_improved_mean_flow_takes_the_velocity_from_a_head_that_does_not_see_r(self) -> None:
        both = {"fm": {"head": "v"}, "imf": {"head": "w"}}
        assert _at(NoGuidance(), both, Recording()) == Count(1, 2, 0)
        assert _at(self.SELF, both, Recording()) == Count(1, 3, 0)

    def test_a_single_branch_pays_for_its_velocity_once(self) -> None:
        assert _at(NoGuidance(), {"imf": {"head": "w"}}, Single()) == Count(1, 3, 0)
        assert _at(self.SELF, {"imf": {"head": "w"}}, Single()) == Count(1, 4, 0)  # the guidance asks for it as well


class TestGuidance:
    def test_line_nine_and_where_it_holds(self) -> None:
        composer = _compose({"fm": {}}, guided=True)
        net = Recording()
        draw = composer.draw(torch.randn(8, 2), torch.arange(8), torch.Generator().manual_seed(0))
        dropped = torch.tensor([True, False] * 4)
        draw = draw._replace(y=torch.arange(8).masked_fill(dropped, 10), dropped=dropped)
        passes = StepPasses({"online": net}, 8)
        passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
        guided = composer.guided(draw._replace(null=torch.full((8,), 10)), passes)
        # v(y) - v(null) = y - 10 in this network
        expected = draw.v_path + 0.5 * (torch.arange(8.0) - 10)[:, None]
        assert torch.allclose(guided.v_t[~dropped], expected[~dropped])
        assert torch.equal(guided.v_t[dropped], draw.v_path[dropped])

    def test_the_interval_is_closed(self) -> None:
        composer = _compose({"fm": {}}, guided=True)
        composer.guidance = SelfGuidance(zeta=0.5, interval=(0.25, 0.75))
        draw = composer.draw(torch.randn(5, 2), torch.arange(5), torch.Generator().manual_seed(0))
        t = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.8])
        draw = draw._replace(t=t, y=torch.arange(5), dropped=torch.zeros(5, dtype=torch.bool))
        draw = draw._replace(null=torch.full((5,), 10))
        passes = StepPasses({"online": Recording()}, 5)
        passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
        changed = (composer.guided(draw, passes).v_t != draw.v_path).any(1)
        assert changed.tolist() == [False, True, True, True, False]

    def test_its_fixed_point_is_classifier_free_guidance_of_scale_one_over_one_minus_zeta(self) -> None:
        """If the head already says v_null + w (v_true - v_null), the guided target's mean is what the head says."""
        zeta = 0.55
        w, v_true, v_null = 1 / (1 - zeta), 1.0, -0.4

        class Fixed(Recording):
            def __call__(self, x_t: Tensor, t: Tensor, *, r: Any = None, y: Any = None) -> dict[str, Tensor]:
                given = torch.full_like(x_t, v_null + w * (v_true - v_null))
                return {"v": torch.where(y[:, None] == 10, torch.full_like(x_t, v_null), given)}

        x, t, y = torch.randn(6, 2), torch.rand(6), torch.arange(6)
        v = torch.full_like(x, v_true)
        passes = StepPasses({"online": Fixed()}, 6)
        draw = Draw(x, x, t, torch.zeros_like(t), x, v, v, y, torch.zeros(6, dtype=torch.bool))
        passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
        guided = SelfGuidance(zeta=zeta).velocity(draw._replace(null=torch.full_like(y, 10)), passes)
        assert torch.allclose(guided, torch.full_like(x, v_null + w * (v_true - v_null)))

    def test_guidance_needs_labels(self) -> None:
        with pytest.raises(ValueError, match="labelled data"):
            Composer(Linear(), Uniform(), Below(), {"fm": OBJECTIVES.get("fm")()}, SelfGuidance(zeta=0.5))

    def test_the_conditional_direction_is_refused_under_guidance_unless_forced(self) -> None:
        with pytest.raises(ValueError, match="diverges"):
            _compose({"fm": {}, "cm": {"derivative": {"direction": "conditional"}}}, guided=True)
        _compose({"fm": {}, "cm": {"derivative": {"direction": "conditional", "force": True}}}, guided=True)
        _compose({"fm": {}, "cm": {"derivative": {"direction": "conditional"}}})


class TestDraw:
    def test_it_lies_on_the_path_and_drops_labels(self) -> None:
        composer = _compose({"fm": {}, "cm": {}}, guided=True, label_drop=0.3)
        x = torch.randn(4000, 2)
        draw = composer.draw(x, torch.full((4000,), 3), torch.Generator().manual_seed(0))
        assert torch.allclose(draw.x_t, draw.t[:, None] * draw.z + (1 - draw.t[:, None]) * x)
        assert torch.equal(draw.v_t, draw.z - x)
        assert draw.y is not None
        assert draw.dropped is not None
        assert torch.equal(draw.y == 10, draw.dropped)
        assert abs(draw.dropped.float().mean() - 0.3) < 0.03

    def test_bridge_noise_moves_the_state_only(self) -> None:
        composer = _compose({"fm": {}})
        composer.path = Linear(bridge=0.1)
        draw = composer.draw(torch.randn(4000, 2), None, torch.Generator().manual_seed(0))
        gap = draw.x_t - (draw.t[:, None] * draw.z + (1 - draw.t[:, None]) * draw.x)
        assert abs(gap.std() - 0.1) < 0.01
        assert torch.equal(draw.v_t, draw.z - draw.x)


def test_loss_is_the_weighted_sum_of_terms() -> None:
    composer = _compose({"fm": {"weight": 0.7}, "cm": {"weight": 0.3}})
    draw = composer.draw(torch.randn(8, 2), None, torch.Generator().manual_seed(0))
    loss = composer.loss({"online": Recording()}, draw)
    assert torch.allclose(loss.total, 0.7 * loss.terms["fm"] + 0.3 * loss.terms["cm"])


def test_dumo_equals_a_direct_transcription_of_algorithm_one() -> None:
    """Written out once by hand, with a real network in float64."""
    e = Experiment.model_validate(
        {
            "data": "digits",
            "objectives": {"fm": {"weight": 0.7}, "cm": {"weight": 0.3}},
            "guidance": {"kind": "self", "zeta": 0.4},
            "evaluation": {"metrics": ["accuracy"]},
        }
    )
    net = e.model_settings().build().double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, z = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64)
    t, y = torch.rand(6, dtype=torch.float64) * 0.9 + 0.05, torch.tensor([0, 1, 2, 3, 10, 5])
    x_t, v = over(t) * z + (1 - over(t)) * x, z - x
    dropped = y == 10
    composer = e.composer()
    loss = composer.loss({"online": net}, Draw(x, z, t, torch.zeros_like(t), x_t, v, v, y, dropped))

    out = net(x_t, t, y=y)
    v_null = net(x_t, t, y=torch.full_like(y, 10))["v"]
    guided = torch.where(over(dropped), v, v + 0.4 * (out["v"] - v_null)).detach()
    h = 0.005
    ahead, behind = (net(x_t + s * guided, t + s, y=y)["u"] for s in (h, -h))
    target = (guided - over(t) * (ahead - behind) / (2 * h)).detach()
    expected = 0.7 * (out["v"] - guided).square().mean() + 0.3 * (out["u"] - target).square().mean()
    assert torch.allclose(loss.total, expected, rtol=1e-10)


def over(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)


class Own(Regression):
    """Rows of a group get other data; looks at everything that a draw holds for objectives."""

    horizon: ClassVar[Horizon] = "interval"
    negative: ClassVar[bool] = True
    draws_noise: ClassVar[int] = 2

    head: str = "w"
    """Head."""

    @property
    def groups(self) -> frozenset[str]:
        """One."""
        return frozenset({"own"})

    def prepare(self, draw: Draw, passes: Passes) -> Draw:
        """Noise as data in the rows of the group, after one pass over them."""
        assert draw.groups is not None
        assert draw.path is not None
        rows = draw.groups["own"]
        mine = draw.part(rows)
        passes(mine.point)
        x = draw.x.clone()
        x[rows] = mine.noise[1]
        place = draw.t.abs()
        v = draw.path.velocity(x, draw.z, place)
        return draw._replace(x=x, x_t=draw.path.point(x, draw.z, place), v_t=v, v_path=v)

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """The velocity."""
        return draw.v_t


@final
class Halves(Pairs):
    """The second half of the batch holds own samples, at negative times."""

    @property
    def negative(self) -> str:
        """That half."""
        return "own"

    def groups(self, batch: int) -> dict[str, range]:
        """One group."""
        return {"own": range(batch // 2, batch)}

    def draw(self, times: Times, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """r = t = -place there."""
        t = times.sample(batch, generator) * (1 - 2 * (torch.arange(batch) >= batch // 2))
        return t, torch.where(t < 0, t, 0.5 * t)


class TestGroupsOfRows:
    composer = Composer(Linear(), Uniform(), Halves(), {"own": Own()}, NoGuidance())

    def test_rows_are_made_before_the_forward_and_their_passes_counted(self) -> None:
        net = Recording()
        draw = self.composer.draw(torch.randn(8, 2), None, torch.Generator().manual_seed(0))
        assert (draw.t < 0).tolist() == [False] * 4 + [True] * 4
        torch.testing.assert_close(draw.x_t, Linear().point(draw.x, draw.z, draw.t.abs()))
        scored = self.composer.score({"online": net}, draw)
        assert net.rows == [4, 8]
        assert scored.passes.count == Count(1, 0.5)
        torch.testing.assert_close(scored.draw.x[4:], draw.noise[1][4:])
        torch.testing.assert_close(scored.draw.x[:4], draw.x[:4])
        torch.testing.assert_close(scored.draw.v_t, draw.z - scored.draw.x)
        fed = scored.terms["own"].draw.point
        assert fed.t is scored.draw.t

    @pytest.mark.parametrize("parts", [2, 4])
    def test_parts_of_a_batch_hold_what_the_whole_does(self, parts: int) -> None:
        x = torch.randn(8, 2)
        whole = self.composer.draw(x, None, torch.Generator().manual_seed(0))
        for part in range(parts):
            rows = slice(part, None, parts)
            drawn = self.composer.draw(x[rows], None, torch.Generator().manual_seed(0), part=part, parts=parts)
            for mine, full in zip((drawn.t, drawn.x_t, *drawn.noise), (whole.t, whole.x_t, *whole.noise), strict=True):
                assert torch.equal(mine, full[rows])
            assert drawn.groups is not None
            assert (drawn.t < 0).nonzero().flatten().tolist() == list(range(8 // parts))[drawn.groups["own"]]

    def test_rows_that_share_their_times_stay_together_in_parts(self) -> None:
        composer = Composer(Linear(), Uniform(), Grouped(size=4), {"mf": OBJECTIVES.get("mf")()}, NoGuidance())
        for part in range(2):
            draw = composer.draw(torch.randn(8, 2), None, torch.Generator().manual_seed(0), part=part, parts=2)
            assert draw.together == 4
            t = draw.t.view(draw.together, -1)
            assert (t == t[0]).all()
            assert t[0].unique().numel() == 2
        with pytest.raises(
            ValueError,
            match=r"type train\.micro_batch=4, or a train\.batch that is a multiple of 8",
        ):
            composer.draw(torch.randn(6, 2), None, torch.Generator(), part=0, parts=2)

    def test_objectives_that_know_no_negative_times_are_refused(self) -> None:
        with pytest.raises(ValueError, match="negative times, own, which mean nothing to it; leave it or own out"):
            Composer(Linear(), Uniform(), Halves(), {"own": Own(), "cm": OBJECTIVES.get("cm")()}, NoGuidance())
        with pytest.raises(ValueError, match=r"negative times, own, which mean nothing to it; type pairs\.own=0"):
            Composer(Linear(), Uniform(), Halves(), {"mf": OBJECTIVES.get("mf")()}, NoGuidance())
        with pytest.raises(ValueError, match=r"rows own for .* which nothing puts there; type pairs\.own=0"):
            Composer(Linear(), Uniform(), Halves(), {"rcgm": OBJECTIVES.get("rcgm")()}, NoGuidance())
        with pytest.raises(ValueError, match="rows of its own kinds \\(own\\)"):
            Composer(Linear(), Uniform(), Below(), {"own": Own()}, NoGuidance())
