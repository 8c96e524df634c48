"""RCGM and TwinFlow on Gaussian data, whose flow maps are known; the row groups of pairs=twin; what a step costs."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from genobj import seeds
from genobj.composer import Composer
from genobj.cost import measure
from genobj.distances.barron import Barron
from genobj.experiment import Experiment
from genobj.guidance.frozen import FrozenGuidance
from genobj.guidance.mean_flow import MeanFlowGuidance
from genobj.guidance.none import NoGuidance
from genobj.objectives.any_step import AnyStep
from genobj.objectives.flow_matching import FlowMatching
from genobj.objectives.mean_flow import MeanFlow
from genobj.objectives.split_mean_flow import SplitMeanFlow
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


class TwoFlows(GaussianFlow):
    """The flow to data of one size at times t > 0, to own samples of size `fake` at t < 0 and in jumps to r = 0."""

    def __init__(self, path: str = "linear", std: float = 0.4, fake: float = 0.4):
        super().__init__(PATHS.get(path)(), std, ("w",))
        self.fake = GaussianFlow(self.path, fake, ("w",))

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        r = t if r is None else r
        own, real = self.fake(x_t, t.abs(), r=r.abs())["w"], super().__call__(x_t, t.abs(), r=r.abs())["w"]
        return {"w": torch.where(over((t < 0) | ((r == 0) & (t > 0)), x_t), own, real)}


def _flow(path: str = "linear", std: float = 0.4) -> TwoFlows:
    return TwoFlows(path, std, std)


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
            small = AnyStep(head="w", order=1, delta=delta, clamp=0.0, weights=weights)
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
        target = AnyStep(head="w", clamp=0.0).target(draw, passes)
        torch.testing.assert_close(target[:30], draw.v_t[:30])
        assert target.isfinite().all()
        assert passes.count.without_gradient == 2 * 90 / ROWS

    def test_corrections_are_bounded(self) -> None:
        net, draw = _flow(), _draw(_flow())
        draw = draw._replace(v_t=100 * draw.v_t)
        assert _residual(AnyStep(head="w"), net, draw).abs().max().item() == pytest.approx(1)
        assert _residual(AnyStep(head="w", clamp=0.1), net, draw).abs().max().item() == pytest.approx(0.1)


def _twin_draw(net: GaussianFlow, objective: TwinFlow, passes: StepPasses) -> Draw:
    """A draw of pairs=twin after prepare."""
    t, r = Twin().sample(Uniform(), ROWS, seeds.generator(0))
    t, r = t.double(), r.double()
    x, z, *noise = torch.randn(4, ROWS, 3, dtype=torch.float64)
    groups = {name: slice(rows.start, rows.stop) for name, rows in Twin().groups(ROWS).items()}
    x, chance = net.std * x, torch.rand(ROWS)
    x_t, v = net.path.point(x, z, t.abs()), net.path.velocity(x, z, t.abs())
    draw = Draw(x, z, t, r, x_t, v, v, noise=tuple(noise), chance=chance, groups=groups, path=net.path)
    return objective.prepare(draw, passes)


def _rows(draw: Draw, group: str) -> slice:
    assert draw.groups is not None
    return draw.groups[group]


def _differ(net: TwoFlows, x: Tensor, z: Tensor, s: Tensor) -> Tensor:
    """The fake flow's velocity less the real one's at own samples x under noise z, from the closed forms."""
    x_s = over(net.path.noise_scale(s), z) * z + over(net.path.data_scale(s), x) * x
    return net.fake.velocity(x_s, s) - net.velocity(x_s, s)


SCALES = ["linear", "trig", "vp", "edm"]


class TestTwinFlow:
    @pytest.mark.parametrize("path", ["linear", "trig"])
    def test_jumps_vanish_to_first_order_where_own_samples_are_the_data(self, path: str) -> None:
        net, errors = _flow(path), []
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, TwinFlow(head="w"), passes)
        draw = draw._replace(v_t=net.velocity(draw.x_t, draw.t.abs()))  # the marginal one
        u = passes.main(draw.point)["w"]
        for delta in (0.002, 0.001):
            target = TwinFlow(head="w", delta=delta).target(draw, passes)
            errors.append((u - target)[draw.t - draw.r > 0.002].abs().max().item())
        assert errors[0] < 0.02
        assert abs(_slopes(errors)[0] - 1) < 0.3, errors

    @pytest.mark.parametrize("path", SCALES)
    def test_own_samples_are_those_of_the_jump_and_take_the_place_of_data(self, path: str) -> None:
        """The jump from noise lands on data_scale(0) times a sample; own samples have the size of data."""
        net, objective = TwoFlows(path, std=0.4, fake=0.3), TwinFlow(head="w")
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, objective, passes)
        adv, path_of, ends = _rows(draw, "adv"), net.path, torch.tensor([0.0, 1.0], dtype=torch.float64)
        (start, end), noise, data = net.fake.scale(ends), path_of.noise_scale(ends)[1], path_of.data_scale(ends)[0]
        own, z, place = start / end * noise / data * draw.noise[0][adv], draw.z[adv], draw.t[adv].abs()
        torch.testing.assert_close(draw.x[adv], own)
        assert (own.square().mean() / draw.noise[0][adv].square().mean()).sqrt().item() == pytest.approx(0.3, rel=2e-3)
        torch.testing.assert_close(draw.x_t[adv], path_of.point(own, z, place))
        torch.testing.assert_close(draw.v_t[adv], path_of.velocity(own, z, place))
        torch.testing.assert_close(draw.v_path[adv], draw.v_t[adv])
        rest = slice(0, adv.start)
        torch.testing.assert_close(draw.v_t[rest], path_of.velocity(draw.x[rest], draw.z[rest], draw.t[rest]))
        assert passes.count.without_gradient == 0.25
        free = TwinFlow(head="w", image_free=True)
        draw = _twin_draw(net, free, StepPasses({"online": net}, ROWS))
        torch.testing.assert_close(draw.x, start / end * noise / data * draw.noise[0])

    @pytest.mark.parametrize("path", SCALES)
    def test_the_flows_are_compared_at_their_own_times(self, path: str) -> None:
        net, objective = TwoFlows(path, std=0.4, fake=0.8), TwinFlow(head="w")
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, objective, passes)
        x, s = torch.randn(ROWS, 3, dtype=torch.float64), draw.chance
        assert s is not None
        expected = _differ(net, x, draw.noise[1], s.double())
        assert expected.abs().mean() > 0.05
        torch.testing.assert_close(objective.apart(x, draw, passes, None), expected)

    @pytest.mark.parametrize("path", SCALES)
    def test_the_rectification_is_that_difference_at_own_samples(self, path: str) -> None:
        net, objective = TwoFlows(path, std=0.4, fake=0.8), TwinFlow(head="w", rectify=1)
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, objective, passes)
        out = passes.main(draw.point)
        plain = TwinFlow(head="w", rectify=0).loss(out, draw, passes)
        rows, rectified = _rows(draw, "e2e"), objective.loss(out, draw, passes) - plain
        u, part = out["w"][rows], draw.part(rows)
        assert part.chance is not None
        own = (part.x_t - u) / net.path.data_scale(torch.zeros(1, dtype=torch.float64))
        better = u - _differ(net, own, part.noise[1], part.chance.double()).clamp(-1, 1)
        torch.testing.assert_close(rectified[rows], 4 * objective.distance(u, better))
        assert rectified[rows.stop :].eq(0).all()

    def test_the_rectification_moves_own_samples_towards_the_data(self) -> None:
        """A head whose samples are too wide, with the exact velocities of both: sg(u - D) makes them narrower."""
        net, objective = TwoFlows(std=0.4, fake=0.8), TwinFlow(head="w", clamp=0.0)
        passes = StepPasses({"online": net, "ema": net}, ROWS)
        draw = _twin_draw(net, objective, passes)
        rows = _rows(draw, "e2e")
        part = draw.part(rows)
        u = passes.main(draw.point)["w"][rows]
        x = objective.landed(part, part.x_t, u)
        torch.testing.assert_close(x.std() / part.x_t.std(), torch.tensor(0.8, dtype=torch.float64))
        better = part.x_t - (u - objective.apart(x, part, passes, None))
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
        means, noted = [], list[dict[str, float]]()
        for objective in (none, one, one.model_copy(update={"rectify": 3.0})):
            torch.manual_seed(0)
            passes = StepPasses({"online": net, "ema": net}, ROWS)
            draw = _twin_draw(_flow(std=0.4), objective, passes)
            means.append(objective.loss(passes.main(draw.point), draw, passes).mean())
            noted.append({name: value.mean().item() for name, value in passes.noted().items()})
        assert means[2] - means[0] == pytest.approx(3 * (means[1] - means[0]).item(), abs=1e-9)
        assert noted[0] == noted[1] == noted[2]
        assert means[1] - means[0] == pytest.approx(noted[1]["rectification"], rel=1e-9)
        rows = range(3 * ROWS // 4, ROWS)  # adv, where the weight is 1
        alone = Barron()(passes.main(draw.point)["w"], draw.v_t)[rows.start :]
        assert noted[2]["fake"] == pytest.approx(alone.mean().item(), rel=1e-9)


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

    @pytest.mark.parametrize("path", ["linear", "trig"])
    def test_the_jump_from_noise_follows_the_velocity_there(self, path: str) -> None:
        """What order 1 adds to order 0 is the regression of u* at (x_1, 1, 0), of first order in delta here.

        The velocity of a pair with x = 0, the mean of the data, is the marginal one at t = 1, and no other elsewhere.
        """
        net = _flow(path)
        draw = _draw(net)
        x, z = torch.zeros_like(draw.x), torch.randn_like(draw.x)
        x_t, v = net.path.point(x, z, draw.t), net.path.velocity(x, z, draw.t)
        draw = draw._replace(x=x, z=z, x_t=x_t, v_t=v, v_path=v, noise=(torch.randn_like(z),), chance=draw.t)
        errors = []
        for delta in (0.004, 0.002, 0.001):
            losses, noted = [], []
            for order in (0, 1):
                passes = StepPasses({"online": net, "ema": net}, ROWS)
                objective = WholeTwinFlow(head="w", order=order, delta=delta)
                losses.append(objective.loss(passes.main(draw.point), draw, passes))
                noted.append(passes.noted())
            torch.testing.assert_close(losses[1] - losses[0], noted[1]["jump"])
            for order in (0, 1):
                parts = noted[order]
                torch.testing.assert_close(
                    losses[order], parts["fake"] + objective.rectify * parts["rectification"] + parts["jump"]
                )
                assert bool(parts["jump"].any()) is (order == 1)
            errors.append((losses[1] - losses[0]).max().sqrt().item())
        assert errors[-1] < 0.02
        assert all(abs(slope - 1) < 0.1 for slope in _slopes(errors)), errors

    def test_rows_that_need_no_walk_elsewhere_have_one_here(self) -> None:
        """Its jumps start at t = 1, whatever t and r the draw has."""
        net, draw = _flow(std=0.8), _draw(_flow())
        z = torch.randn_like(draw.x)
        draw, jumps = draw._replace(z=z, noise=(torch.randn_like(z),), chance=draw.t), list[Tensor]()
        for equal in (0, 30):
            passes = StepPasses({"online": net, "ema": net}, ROWS)
            WholeTwinFlow(head="w").loss(passes.main(draw.point), draw._replace(equal=equal), passes)
            jumps.append(passes.noted()["jump"])
        assert torch.equal(*jumps)

    def test_beside_a_velocity_on_the_same_head_it_keeps_every_row(self) -> None:
        tree = {"objectives": {"rcgm": {}, "fm": {"head": "u"}, "twin": {}}, "train": {"batch": 8}}
        tree |= {"pairs": {"kind": "below", "equal_share": 0.5}}
        shares = Experiment.model_validate(tree).composer().shares
        assert [shares[name].rows for name in ("rcgm", "fm", "twin")] == ["rest", "equal", "all"]
        tree["objectives"]["twin"] = {"rows": "rest"}
        with pytest.raises(ValueError, match=r"objectives\.twin.* type objectives\.twin\.rows=all"):
            Experiment.model_validate(tree)

    def test_it_stands_beside_other_objectives_of_the_head_on_laws_without_negative_times(self) -> None:
        tree = {"objectives": {"rcgm": {}, "fm": {"head": "u", "rows": "all"}, "twin": {}}, "train": {"batch": 8}}
        for pairs in ({"kind": "below"}, {"kind": "twin", "adv": 0}):
            composer = Experiment.model_validate(tree | {"pairs": pairs}).composer()
            assert composer.networks == {"online", "ema"}
        objectives = {"twinflow": {}, "twin": {}}
        with pytest.raises(ValueError, match=r"objectives\.twin: .* negative times, adv, which mean nothing to it"):
            Experiment.model_validate({"objectives": objectives, "pairs": {"kind": "twin"}})

    def test_without_a_walk_there_is_no_network_for_it(self) -> None:
        for objective in (TwinFlow(order=0, weights="frozen"), WholeTwinFlow(order=0)):
            assert objective.networks == frozenset()
            assert not objective.precise
        assert TwinFlow().networks == {"ema"}
        assert TwinFlow().precise


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

    def test_labels_are_not_dropped_from_one_group_alone(self) -> None:
        with pytest.raises(ValueError, match=r"makes for e2e; type label_drop_where=anywhere"):
            _composer(TwinFlow(), drop_where="prefix")
        _composer(TwinFlow(), drop_where="prefix", label_drop=0.0, guidance=NoGuidance())

    def test_its_rows_are_its_groups(self) -> None:
        with pytest.raises(ValueError, match=r"has to score every row of the batch; type objectives\.o0\.rows=all"):
            _composer(TwinFlow(rows="rest"))

    def test_twinflow_asks_for_its_groups(self) -> None:
        with pytest.raises(ValueError, match="type pairs=twin"):
            _composer(TwinFlow(), pairs=Below())
        with pytest.raises(ValueError, match=r"needs rows of its own kinds \(adv\); type pairs\.adv=1"):
            _composer(TwinFlow(), pairs=Twin(adv=0.0))
        _composer(TwinFlow(), pairs=Twin(mul=0.0))
        with pytest.raises(ValueError, match=r"needs rows of its own kinds \(mul\); type pairs\.mul=1"):
            _composer(TwinFlow(order=0), pairs=Twin(mul=0.0))

    @pytest.mark.parametrize("objective", [AnyStep(), MeanFlow(head="u")])
    def test_own_samples_need_an_objective_that_puts_them_there(self, objective: Any) -> None:
        with pytest.raises(ValueError, match=r"pairs\.adv=0"):
            _composer(objective)
        _composer(objective, pairs=Twin(adv=0.0))
        _composer(TwinFlow(), AnyStep())

    def test_velocities_beside_it_are_told_to_score_all_rows(self) -> None:
        with pytest.raises(ValueError, match=r"there are none; type objectives\.o1\.rows=all") as told:
            _composer(TwinFlow(), FlowMatching(head="u"))
        assert "equal_share" not in str(told.value)
        _composer(TwinFlow(), FlowMatching(head="u", rows="all"))
        with pytest.raises(ValueError, match=r"no row has r = t; type objectives\.o0\.rows=all"):
            _composer(TwinFlow(rows="equal"))
        with pytest.raises(ValueError, match=r"type pairs=below pairs\.equal_share=0\.25"):
            _composer(SplitMeanFlow(head="u"), pairs=Twin(adv=0.0))

    @pytest.mark.parametrize(
        "guidance",
        [
            NoGuidance(),
            MeanFlowGuidance(kappa=0.5),
            FrozenGuidance(omega=0.5),
            FrozenGuidance(omega=0.0, interval=(0.2, 0.5)),
            FrozenGuidance(omega=0.0, dropped="plain"),
        ],
    )
    def test_image_free_learns_from_a_teacher_alone(self, guidance: Any) -> None:
        with pytest.raises(ValueError, match=r"type guidance=frozen guidance\.omega=0"):
            _composer(TwinFlow(image_free=True), guidance=guidance)
        _composer(TwinFlow(image_free=True), guidance=FrozenGuidance(omega=0.0))

    @pytest.mark.parametrize("law", [{"twinflow": {}}, {"rcgm": {}, "fm": {"head": "u", "rows": "all"}, "twin": {}}])
    @pytest.mark.parametrize(
        ("reading", "path", "fits"),
        [
            ("target", {"kind": "linear"}, True),
            ("target", {"kind": "trig", "quarter": 1.57}, True),
            ("target", {"kind": "trig", "target": "difference"}, False),
            ("target", {"kind": "random"}, False),
            ("target", {"kind": "edm"}, False),
            ("target", {"kind": "vp"}, False),
            ("sit", {"kind": "linear"}, True),
            ("sit", {"kind": "trig"}, False),
            ("edm", {"kind": "linear"}, False),
            ("ddpm", {"kind": "linear"}, False),
        ],
    )
    def test_readings_that_know_no_negative_times_are_refused(
        self, law: Any, reading: str, path: Any, fits: bool
    ) -> None:
        tree = {"objectives": law, "reading": reading, "path": path, "pairs": "twin" if "twinflow" in law else "below"}
        if fits:
            Experiment.model_validate(tree)
            return
        with pytest.raises(ValueError, match=f"reading={reading} knows no negative times"):
            Experiment.model_validate(tree)
        Experiment.model_validate(tree | {"objectives": {"rcgm": {}}, "pairs": "below"})


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


def _parts(batch: int, parts: int, settings: Any, pairs: Any) -> tuple[Tensor, Tensor]:
    """Mean of the parts' losses, and that of the whole batch."""
    tree = {"objectives": {"twinflow": settings}, "pairs": {"kind": "twin", **pairs}, "train": {"batch": batch}}
    experiment = Experiment.model_validate(tree)
    composer, model = experiment.composer(), experiment.model_settings().build()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeds.generator(1)))
    x = torch.randn(batch, 2, generator=seeds.generator(2))
    networks: dict[Any, Any] = {"online": model, "ema": model}
    totals = [
        composer(networks, x[part::parts], None, seeds.generator(3), part=part, parts=parts).total
        for part in range(parts)
    ]
    return torch.stack(totals).mean(), composer(networks, x, None, seeds.generator(3)).total


@pytest.mark.parametrize("pairs", [{}, {"mul": 2.0, "any": 3.0, "adv": 2.0}])
@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("parts", [2, 8])
def test_a_batch_in_parts_has_the_same_loss(parts: int, order: int, pairs: Any) -> None:
    """Rows part, part + parts, ... keep the shares of the groups, so that the mean of the parts is the whole."""
    mean, whole = _parts(64, parts, {"order": order}, pairs)
    torch.testing.assert_close(mean, whole, rtol=1e-4, atol=1e-5)


def test_a_batch_whose_groups_cannot_be_shared_out_is_refused() -> None:
    """15 rows of a group in 4 parts: means over it would not be those of the batch, and of a part might be 0 / 0."""
    with pytest.raises(
        ValueError, match=r"60 rows in 4 parts .* for adv, e2e evenly; type train\.batch=64, or another"
    ):
        _parts(60, 4, {}, {})
    with pytest.raises(ValueError, match="for adv, e2e, mul evenly"):
        _parts(16, 16, {"order": 0}, {})
    tree = {"objectives": {"twinflow": {}}, "pairs": "twin", "train": {"batch": 60, "micro_batch": 15}}
    with pytest.raises(ValueError, match=r"pairs: 60 rows in 4 parts .* type train\.batch=64, or another train\.micro"):
        Experiment.model_validate(tree)
    Experiment.model_validate(tree | {"objectives": {"rcgm": {}}, "pairs": {"kind": "twin", "adv": 0}})
