"""RCGM and TwinFlow on Gaussian data, whose flow maps are known; the row groups of pairs=twin; what a step costs."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from genobj import seeds
from genobj.composer import Composer
from genobj.cost import measure
from genobj.experiment import Experiment
from genobj.guidance.mean_flow import MeanFlowGuidance
from genobj.objectives.any_step import AnyStep
from genobj.objectives.mean_flow import MeanFlow
from genobj.objectives.twin_flow import TwinFlow
from genobj.objectives.whole_twin_flow import WholeTwinFlow
from genobj.parts import PATHS
from genobj.passes import StepPasses
from genobj.paths.linear import Linear
from genobj.testing import GaussianFlow
from genobj.times.pairs import Below
from genobj.times.twin import Twin
from genobj.times.uniform import Uniform
from genobj.types import Draw, over

ROWS = 120


class BothWays(GaussianFlow):
    """The flow at negative times is that at positive ones: own samples are the data's."""

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        return super().__call__(x_t, t.abs(), r=None if r is None else r.abs(), y=y)


def _flow(path: str = "linear", std: float = 0.4) -> BothWays:
    return BothWays(PATHS.get(path)(), std, ("w",))


def _draw(net: GaussianFlow, equal: int = 0) -> Draw:
    """Pairs (t, r) with the marginal velocity, so that identities hold sample by sample."""
    t = torch.linspace(0.02, 0.98, ROWS, dtype=torch.float64)
    r = t * torch.rand(ROWS, dtype=torch.float64)
    r[:equal] = t[:equal]
    x_t = net.scale(t)[:, None] * torch.randn(ROWS, 3, dtype=torch.float64)
    v = net.velocity(x_t, t)
    return Draw(x_t, x_t, t, r, x_t, v, v, equal=equal, path=net.path)


def _residual(objective: Any, net: Any, draw: Draw) -> Tensor:
    networks: dict[Any, Any] = dict.fromkeys(("online", "ema", "frozen"), net)
    passes = StepPasses(networks, len(draw.t))
    return passes.main(draw.point)[objective.head] - objective.target(draw, passes)


def _slopes(errors: list[float]) -> list[float]:
    return [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]


def _composer(*objectives: Any, pairs: Any = None, **more: Any) -> Composer:
    named = {f"o{i}": objective for i, objective in enumerate(objectives)}
    guidance = more.pop("guidance", MeanFlowGuidance(kappa=0.5, ends="open"))
    pairs = Twin() if pairs is None else pairs
    return Composer(Linear(), Uniform(), pairs, named, guidance, **({"classes": 10, "label_drop": 0.1} | more))


class TestAnyStep:
    @pytest.mark.parametrize("path", ["linear", "trig", "vp"])
    @pytest.mark.parametrize("order", [1, 2, 5])
    def test_exact_flow_maps_leave_a_residual_of_first_order_in_delta(self, path: str, order: int) -> None:
        """The walk is exact whatever its order; the first step along the velocity is not."""
        net = _flow(path)
        draw = _draw(net)
        draw = draw._replace(t=draw.t.clamp(min=0.3), r=draw.r.clamp(max=0.2))  # no row falls below delta
        draw = draw._replace(v_t=net.velocity(draw.x_t, draw.t))
        steps = (0.004, 0.002, 0.001)
        errors = [_residual(AnyStep(head="w", order=order, delta=d), net, draw).abs().max().item() for d in steps]
        assert errors[-1] < 0.02
        assert all(abs(slope - 1) < 0.1 for slope in _slopes(errors)), errors

    @pytest.mark.parametrize("weights", ["online", "ema", "frozen"])
    def test_of_order_one_it_tends_to_mean_flow(self, weights: Any) -> None:
        wrong, draw = _flow(std=0.8), _draw(_flow())
        settings: dict[str, Any] = {"head": "w", "derivative": {"method": "jvp"}}
        limit = _residual(MeanFlow.model_validate(settings), wrong, draw)
        assert limit.abs().mean() > 0.01
        gaps = []
        for delta in (4e-3, 2e-3, 1e-3):
            small = AnyStep(head="w", order=1, delta=delta, clamp=None, weights=weights)
            far = draw.t - draw.r > 4e-3
            gaps.append((_residual(small, wrong, draw) - limit)[far].abs().max().item())
        assert all(abs(slope - 1) < 0.1 for slope in _slopes(gaps)), gaps

    def test_a_wrong_network_has_a_residual(self) -> None:
        draw = _draw(_flow())
        right, wrong = (_residual(AnyStep(head="w"), _flow(std=std), draw).abs().mean() for std in (0.4, 0.8))
        assert wrong > 20 * right

    def test_rows_with_r_at_t_learn_the_velocity_and_cost_nothing(self) -> None:
        net, draw = _flow(), _draw(_flow(), equal=30)
        draw = draw._replace(v_t=torch.randn_like(draw.v_t))
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        passes.main(draw.point)
        target = AnyStep(head="w", clamp=None).target(draw, passes)
        torch.testing.assert_close(target[:30], draw.v_t[:30])
        assert target.isfinite().all()
        assert passes.count.without_gradient == 2 * 90 / ROWS

    def test_corrections_are_bounded(self) -> None:
        net, draw = _flow(), _draw(_flow())
        draw = draw._replace(v_t=100 * draw.v_t)
        assert _residual(AnyStep(head="w"), net, draw).abs().max().item() == pytest.approx(1)
        assert _residual(AnyStep(head="w", clamp=0.1), net, draw).abs().max().item() == pytest.approx(0.1)


def _twin_draw(net: GaussianFlow, objective: TwinFlow, passes: StepPasses) -> Draw:
    """A draw of pairs=twin after prepare, with the marginal velocity in all rows."""
    t, r = Twin().sample(Uniform(), ROWS, seeds.generator(0))
    t, r = t.double(), r.double()
    x, z, *noise = torch.randn(4, ROWS, 3, dtype=torch.float64)
    groups = {name: slice(rows.start, rows.stop) for name, rows in Twin().groups(ROWS).items()}
    x, chance = net.std * x, torch.rand(ROWS)
    x_t, v = net.path.point(x, z, t.abs()), net.path.velocity(x, z, t.abs())
    draw = Draw(x, z, t, r, x_t, v, v, noise=tuple(noise), chance=chance, groups=groups, path=net.path)
    draw = objective.prepare(draw, passes)
    return draw._replace(v_t=net.velocity(draw.x_t, t.abs()))


class TestTwinFlow:
    @pytest.mark.parametrize("path", ["linear", "trig"])
    def test_it_vanishes_to_first_order_where_own_samples_are_the_data(self, path: str) -> None:
        net, errors = _flow(path), []
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, TwinFlow(head="w"), passes)
        u = passes.main(draw.point)["w"]
        for delta in (0.002, 0.001):
            objective = TwinFlow(head="w", delta=delta)
            far = (draw.t - draw.r > 0.002) | (draw.t < 0)
            errors.append((u - objective.target(draw, passes))[far].abs().max().item())
            rows = draw.groups["e2e"] if draw.groups else slice(0)
            part = draw.part(rows)
            assert objective.apart(part.x_t - u[rows], part, passes).abs().max() < 1e-12
            assert (u - draw.v_t)[draw.t < 0].abs().max() < 1e-12
        assert errors[0] < 0.02
        assert abs(_slopes(errors)[0] - 1) < 0.3, errors

    def test_own_samples_are_those_of_the_jump_and_take_the_place_of_data(self) -> None:
        net, objective = _flow(), TwinFlow(head="w")
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, objective, passes)
        own = draw.groups["adv"] if draw.groups else slice(0)
        torch.testing.assert_close(draw.x[own], net.std * draw.noise[0][own])
        torch.testing.assert_close(draw.x_t[own], net.path.point(draw.x[own], draw.z[own], draw.t[own].abs()))
        assert passes.count.without_gradient == 0.25
        free = TwinFlow(head="w", image_free=True)
        draw = _twin_draw(net, free, StepPasses({"online": net}, ROWS))
        torch.testing.assert_close(draw.x, net.std * draw.noise[0])

    def test_the_rectification_moves_own_samples_towards_the_data(self) -> None:
        """A head whose samples are too wide, with the exact velocities of both: sg(u - D) makes them narrower."""

        class TooWide(BothWays):
            def __call__(
                self, x_t: Tensor, t: Tensor, *, r: Any = None, y: Any = None, g: Any = None
            ) -> dict[str, Tensor]:
                own = GaussianFlow(std=0.8, heads=("w",))(x_t, t.abs(), r=r.abs())["w"]
                real = super().__call__(x_t, t, r=r)["w"]
                return {"w": torch.where(over((t < 0) | (r == 0), x_t), own, real)}

        net, objective = TooWide(std=0.4, heads=("w",)), TwinFlow(head="w", clamp=None)
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, objective, passes)
        rows = draw.groups["e2e"] if draw.groups else slice(0)
        part = draw.part(rows)
        u = passes.main(draw.point)["w"][rows]
        x = part.x_t - u
        torch.testing.assert_close(x.std() / part.x_t.std(), torch.tensor(0.8, dtype=torch.float64))
        better = part.x_t - (u - objective.apart(x, part, passes))
        assert 0.2 < (better * x).sum() / x.square().sum() < 1

    def test_the_weights_are_tangents(self) -> None:
        net = _flow()
        objective = TwinFlow(head="w")
        draw = _twin_draw(net, objective, StepPasses({"online": net}, ROWS))
        w = objective.importance(draw)
        assert w[draw.t < 0].eq(1).all()
        assert w[draw.r == 0].allclose(torch.ones((), dtype=w.dtype))
        assert (w <= 1 + torch.tan(torch.tensor(torch.pi / 2.5, dtype=w.dtype))).all()
        velocities = TwinFlow(head="w", order=0).importance(draw)
        assert velocities[: ROWS // 4].eq(0).all()
        torch.testing.assert_close(velocities[ROWS // 4 : ROWS // 2], 2 * w[ROWS // 4 : ROWS // 2])

    def test_its_terms_add_up(self) -> None:
        """The loss is mean of the base over all rows plus `rectify` times the mean over e2e."""
        net, none, one = _flow(std=0.8), TwinFlow(head="w", rectify=0), TwinFlow(head="w", rectify=1)
        means = []
        for objective in (none, one, one.model_copy(update={"rectify": 3.0})):
            torch.manual_seed(0)
            passes = StepPasses({"online": net, "ema": net}, ROWS)
            draw = _twin_draw(_flow(std=0.4), objective, passes)
            means.append(objective.loss(passes.main(draw.point), draw, passes).mean())
        assert means[2] - means[0] == pytest.approx(3 * (means[1] - means[0]).item(), abs=1e-9)


class TestWholeBatch:
    def test_where_own_samples_are_the_data_only_the_velocity_of_noise_is_left(self) -> None:
        net = _flow()
        draw = _draw(net)
        z = torch.randn(ROWS, 3, dtype=torch.float64)
        draw = draw._replace(z=z, noise=(torch.randn_like(z),), chance=torch.rand(ROWS, dtype=torch.float64))
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        objective = WholeTwinFlow(head="w", order=0)
        loss = objective.loss(passes.main(draw.point), draw, passes)
        x = net.std * z
        x_t, v = net.path.point(x, z, draw.t), net.path.velocity(x, z, draw.t)
        torch.testing.assert_close(loss, (v - net.velocity(x_t, draw.t)).square().mean(1))
        assert passes.count[:2] == (3, 2)

    def test_it_is_refused_no_law_without_negative_times(self) -> None:
        fm: dict[str, Any] = {"head": "u", "rows": "all"}
        settings = {"objectives": {"rcgm": {}, "fm": fm, "twin": {}}, "pairs": {"kind": "below"}, "train": {"batch": 8}}
        composer = Experiment.model_validate(settings).composer()
        assert composer.networks == {"online", "ema"}


class TestGroups:
    @pytest.mark.parametrize("batch", [4, 10, 16, 63, 256])
    def test_blocks_are_rounded_and_the_last_has_the_rest(self, batch: int) -> None:
        groups = Twin().groups(batch)
        assert list(groups) == ["e2e", "mul", "any", "adv"]
        assert [len(rows) for rows in groups.values()][:3] == [round(batch / 4)] * 3
        assert [row for rows in groups.values() for row in rows] == list(range(batch))

    def test_every_group_has_its_times(self) -> None:
        law = Twin(one=1.0, near=0.1)
        t, r = law.sample(Uniform(), 500, seeds.generator(0))
        rows = {name: slice(found.start, found.stop) for name, found in law.groups(500).items()}
        assert t[rows["e2e"]].eq(1).all()
        assert r[rows["e2e"]].eq(0).all()
        assert r[rows["one"]].eq(0).all()
        assert 0.3 < t[rows["one"]].mean() < 0.7
        near = (t - r)[rows["mul"]] / t[rows["mul"]]
        assert 0.08 < near.max() <= 0.1 + 1e-6
        assert 0.4 < (r / t)[rows["any"]].mean() < 0.6
        assert (t < 0).nonzero().flatten().tolist() == list(range(500))[rows["adv"]]
        assert torch.equal(t[rows["adv"]], r[rows["adv"]])
        assert ((r <= t) & (t.abs() <= 1)).all()

    def test_without_own_samples_no_time_is_negative(self) -> None:
        t, r = Twin(adv=0.0).sample(Uniform(), 64, seeds.generator(0))
        assert ((r >= 0) & (r <= t)).all()
        assert len(Twin(adv=0.0).groups(64)["any"]) == 64 - 2 * 21

    def test_impossible_shares_are_refused_with_what_to_type(self) -> None:
        with pytest.raises(ValueError, match=r"type pairs\.any=1"):
            Twin(e2e=0, mul=0, any=0, adv=0)
        with pytest.raises(ValueError, match=r"type pairs\.mul"):
            Twin(equal_share=0.5)
        assert "none for" in str(Twin().refusal(2))
        assert Twin().refusal(4) is None

    def test_twinflow_asks_for_its_groups(self) -> None:
        with pytest.raises(ValueError, match="type pairs=twin"):
            _composer(TwinFlow(), pairs=Below())
        with pytest.raises(ValueError, match="needs rows that are made for adv"):
            _composer(TwinFlow(), pairs=Twin(adv=0.0))


class TestCost:
    @pytest.mark.parametrize(
        ("settings", "passes"),
        [
            ({"twinflow": {}}, (1, 4.75)),
            ({"twinflow": {"order": 1}}, (1, 3.75)),
            ({"twinflow": {"order": 0}}, (1, 2.75)),
            ({"rcgm": {"order": 2}}, (1, 4)),
            ({"rcgm": {"order": 5}}, (1, 7)),
            ({"rcgm": {}, "fm": {"head": "u", "rows": "all"}, "twin": {}}, (4, 8)),
        ],
    )
    def test_a_step_costs_what_the_papers_count(self, settings: Any, passes: tuple[float, float]) -> None:
        """OBJECTIVES.md A10: RCGM 1 + N + 2, TwinFlow 1 + 4.75 at N = 2; the tutorial's loss 4 + 8. All guided."""
        tree = {
            "data": "digits",
            "backbone": "mlp",
            "objectives": settings,
            "pairs": "twin" if "twinflow" in settings else "below",
            "guidance": {"kind": "mean_flow", "kappa": 0.5, "ends": "open", "weights": "ema"},
            "train": {"batch": 64},
        }
        assert measure(Experiment.model_validate(tree)).passes[:2] == passes

    def test_rows_at_noise_are_not_guided_within_an_open_interval(self) -> None:
        composer = _composer(TwinFlow())
        t, _ = Twin().sample(Uniform(), 64, seeds.generator(0))
        covered = composer.guidance.covers(t)
        groups = Twin().groups(64)
        assert not covered[: groups["mul"].start].any()
        assert not covered[groups["adv"].start :].any()
        assert covered[groups["mul"].start : groups["adv"].start].all()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_in_parts_has_the_same_loss(parts: int) -> None:
    """Rows part, part + parts, ... keep the shares of the groups, so that the mean of the parts is the whole."""
    tree = {"objectives": {"twinflow": {}}, "pairs": "twin", "train": {"batch": 64}, "data": "moons"}
    experiment = Experiment.model_validate(tree)
    composer, model = experiment.composer(), experiment.model_settings().build()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeds.generator(1)))
    x = torch.randn(64, 2, generator=seeds.generator(2))
    totals = [
        composer(
            {"online": model, "ema": model}, x[part::parts], None, seeds.generator(3), part=part, parts=parts
        ).total
        for part in range(parts)
    ]
    whole = composer({"online": model, "ema": model}, x, None, seeds.generator(3)).total
    torch.testing.assert_close(torch.stack(totals).mean(), whole, rtol=1e-4, atol=1e-5)
