"""Gaussian data has closed-form velocities and flow maps: fed as the network, every objective's residual vanishes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch

from genobj.objectives.alpha_flow import AlphaFlow
from genobj.objectives.consistency import Consistency
from genobj.objectives.easy_consistency import EasyConsistency
from genobj.objectives.flow_matching import FlowMatching
from genobj.objectives.improved_consistency import ImprovedConsistency
from genobj.objectives.improved_mean_flow import ImprovedMeanFlow
from genobj.objectives.mean_flow import MeanFlow
from genobj.objectives.shortcut import Shortcut
from genobj.objectives.solution_flow import SolutionFlow
from genobj.objectives.split_mean_flow import SplitMeanFlow
from genobj.parts import PATHS
from genobj.passes import StepPasses
from genobj.schedules import Constant
from genobj.testing import GaussianFlow
from genobj.times.dyadic import Dyadic
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon, Point, Samples, TimeTensor

SCALES = ["linear", "trig", "vp", "edm"]


def _draw(net: GaussianFlow, low: float = 0.05, high: float = 0.95) -> Draw:
    """A draw whose velocity is the marginal one, so that the identities hold sample by sample."""
    t = torch.linspace(low, high, 128, dtype=torch.float64)
    x_t = net.scale(t)[:, None] * torch.randn(128, 3, dtype=torch.float64)
    v = net.velocity(x_t, t)
    return Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v)


def _residual(objective: Any, net: GaussianFlow, draw: Draw) -> torch.Tensor:
    passes = StepPasses({"online": net, "ema": net}, len(draw.t))
    out = passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
    return out[objective.head] - objective.target(draw, passes)


@pytest.mark.parametrize("path", SCALES)
def test_flow_matching_vanishes(path: str) -> None:
    net = _flow(path)
    assert _residual(FlowMatching(), net, _draw(net)).abs().max() < 1e-12


@pytest.mark.parametrize("path", SCALES)
def test_consistency_vanishes_with_jvp(path: str) -> None:
    net = _flow(path)
    cm = Consistency.model_validate({"derivative": {"method": "jvp"}})
    assert _residual(cm, net, _draw(net)).abs().max() < 1e-12


@pytest.mark.parametrize(("method", "order"), [("central", 2), ("backward", 1)])
def test_differences_vanish_with_their_order(method: str, order: int) -> None:
    net = GaussianFlow()
    draw = _draw(net)

    def error(step: float) -> float:
        cm = Consistency.model_validate({"derivative": {"method": method, "step": step}})
        return _residual(cm, net, draw).abs().max().item()

    errors = [error(step) for step in (0.02, 0.01, 0.005)]
    slopes = [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]
    assert all(abs(slope - order) < 0.15 for slope in slopes), errors


@pytest.mark.parametrize("method", ["central", "backward"])
def test_differences_stay_inside_the_domain_and_finite_at_its_ends(method: str) -> None:
    net = GaussianFlow()
    times: list[torch.Tensor] = []

    class Watched(GaussianFlow):
        def __call__(self, x_t: Any, t: Any, *, r: Any = None, y: Any = None) -> dict[str, Any]:
            times.append(t)
            return super().__call__(x_t, t, r=r, y=y)

    draw = _draw(net, 0.0, 1.0)
    cm = Consistency.model_validate({"derivative": {"method": method, "step": 0.01}})
    residual = _residual(cm, Watched(), draw)
    assert residual.isfinite().all()
    assert residual.abs().max() < 0.1
    assert all(bool(((t >= 0) & (t <= 1)).all()) for t in times)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9])
def test_discrete_consistency_vanishes_as_lam_approaches_one(lam: float) -> None:
    """One Euler step of length (1 - lam) t along the exact velocity leaves an error of second order in it."""
    net = GaussianFlow()
    draw = _draw(net)
    gaps = [_residual(Consistency(lam=value), net, draw).abs().max().item() for value in (lam, 1 - (1 - lam) / 2)]
    assert gaps[1] < 0.45 * gaps[0]


def test_the_discrete_form_has_the_gradient_of_the_continuous_one_in_the_limit() -> None:
    """Theorem 1: residual / (1 - lam) tends to the residual of Eq. (8) as lam -> 1 (for a wrong network)."""
    wrong = GaussianFlow(std=0.8)
    draw = _draw(GaussianFlow())
    limit = _residual(Consistency.model_validate({"derivative": {"method": "jvp"}}), wrong, draw)
    errors = [
        (_residual(Consistency(lam=lam), wrong, draw) / (1 - lam) - limit).abs().max().item()
        for lam in (0.99, 0.999, 0.9999)
    ]
    assert errors[1] < 0.15 * errors[0]
    assert errors[2] < 0.15 * errors[1]


def test_a_wrong_flow_map_has_a_residual() -> None:
    """The tests above can fail: a network for other data does not satisfy the identity."""
    cm = Consistency.model_validate({"derivative": {"method": "jvp"}})
    assert _residual(cm, GaussianFlow(std=0.8), _draw(GaussianFlow())).abs().mean() > 0.01


def _jump(net: GaussianFlow, equal: int = 0) -> Draw:
    """The same with target times below t; the first `equal` rows have r = t."""
    draw = _draw(net)
    r = draw.t * torch.rand(128, dtype=torch.float64)
    r[:equal] = draw.t[:equal]
    return draw._replace(r=r, equal=equal, chance=torch.rand(128))


def _slopes(errors: list[float]) -> list[float]:
    return [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]


def _size(residual: torch.Tensor) -> float:
    return residual.abs().max().item()


def _flow(path: str, heads: tuple[str, ...] = ("v", "u", "w")) -> GaussianFlow:
    """The exact flow of data with std 0.4 (at 0.5, EDM's path does not change the scale of x_t and u is zero)."""
    return GaussianFlow(PATHS.get(path)(), 0.4, heads)


JVP = {"head": "w", "derivative": {"method": "jvp"}}
IMF_JVP = {"head": "w", "derivative": {"method": "jvp", "direction": "predicted"}}


class TestAverageVelocity:
    """mf, imf and alphaflow at a = 0."""

    @pytest.mark.parametrize("path", SCALES)
    @pytest.mark.parametrize("heads", [("v", "u", "w"), ("w",)], ids=["v beside u", "single branch"])
    @pytest.mark.parametrize("equal", [0, 40])
    def test_they_vanish_with_jvp(self, path: str, heads: tuple[str, ...], equal: int) -> None:
        net = _flow(path, heads)
        draw = _jump(net, equal)
        assert _size(_residual(MeanFlow.model_validate(JVP), net, draw)) < 1e-12
        assert _size(_residual(ImprovedMeanFlow.model_validate(IMF_JVP), net, draw)) < 1e-12
        assert _size(_residual(AlphaFlow.model_validate(JVP | {"a": 0.0}), net, draw)) < 1e-12

    @pytest.mark.parametrize("path", SCALES)
    @pytest.mark.parametrize(("method", "order"), [("central", 2), ("backward", 1)])
    def test_differences_vanish_with_their_order(self, path: str, method: str, order: int) -> None:
        net = _flow(path)
        draw = _jump(net)
        errors: list[list[float]] = [[], []]
        for step in (0.004, 0.002, 0.001):  # data of EDM's path are left within one such step at small t
            derivative = {"method": method, "step": step}
            mf = MeanFlow.model_validate({"head": "w", "derivative": derivative})
            imf = ImprovedMeanFlow.model_validate({"head": "w", "derivative": derivative | {"direction": "predicted"}})
            errors[0].append(_size(_residual(mf, net, draw)))
            errors[1].append(_size(_residual(imf, net, draw)))
        for found in errors:
            assert all(abs(slope - order) < 0.15 for slope in _slopes(found)), found

    @pytest.mark.parametrize("objective", [MeanFlow.model_validate(JVP), ImprovedMeanFlow.model_validate(IMF_JVP)])
    def test_a_wrong_network_has_a_residual(self, objective: Any) -> None:
        draw = _jump(GaussianFlow(), 10)
        residual = _residual(objective, GaussianFlow(std=0.8), draw)
        assert residual[10:].abs().mean() > 0.01
        assert residual[:10].abs().mean() > 0.01

    def test_the_own_velocity_of_a_wrong_network_is_another_direction(self) -> None:
        draw, wrong = _jump(GaussianFlow()), GaussianFlow(std=0.8)
        a, b = (
            _residual(o, wrong, draw) for o in (MeanFlow.model_validate(JVP), ImprovedMeanFlow.model_validate(IMF_JVP))
        )
        assert (a - b).abs().mean() > 1e-3

    def test_rows_with_r_at_t_have_the_velocity_as_target(self) -> None:
        net = GaussianFlow()
        draw = _jump(net, 30)
        draw = draw._replace(v_t=torch.randn_like(draw.v_t))
        passes = StepPasses({"online": net}, 128)
        passes.main(draw.point)
        assert torch.equal(MeanFlow.model_validate(JVP).target(draw, passes)[:30], draw.v_t[:30])
        assert passes.count.tangent == 98 / 128

    def test_with_r_at_zero_it_is_consistency(self) -> None:
        """mf with pairs=zero has cm's target, on a network for other data as well."""
        net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow())
        for method in ("jvp", "central", "backward"):
            settings = {"head": "w", "derivative": {"method": method}}
            same = [_residual(o.model_validate(settings), net, draw) for o in (MeanFlow, Consistency)]
            assert torch.equal(*same)
            alone = _residual(Consistency.model_validate(settings | {"head": "u"}), net, draw)
            torch.testing.assert_close(same[0], alone, rtol=1e-12, atol=1e-12)


class TestStepFraction:
    """alphaflow, soflow, ect and ict make one Euler step of length t - q: an error of second order in it."""

    @pytest.mark.parametrize("path", SCALES)
    @pytest.mark.parametrize("objective", [AlphaFlow, SolutionFlow])
    def test_residuals_are_of_second_order_in_a(self, objective: Any, path: str) -> None:
        net = _flow(path)
        draw = _jump(net)
        errors = [
            _size(_residual(objective(head="w", a=_constant(a), **_no_floor(objective)), net, draw))
            for a in (0.004, 0.002, 0.001)
        ]
        assert all(abs(slope - 2) < 0.15 for slope in _slopes(errors)), errors

    def test_ect_vanishes_from_stage_to_stage(self) -> None:
        net = GaussianFlow()
        draw = _draw(net)
        errors = [_size(_residual(EasyConsistency(stage=_constant(s)), net, draw)) for s in (8.0, 9.0, 10.0)]
        assert all(abs(slope - 2) < 0.15 for slope in _slopes(errors)), errors

    def test_ict_vanishes_on_finer_grids(self) -> None:
        net = GaussianFlow()
        draw = _draw(net)
        steps = (320.0, 640.0, 1280.0)
        errors = [_size(_residual(ImprovedConsistency(steps=_constant(n)), net, draw)) for n in steps]
        assert all(abs(slope - 2) < 0.15 for slope in _slopes(errors)), errors

    @pytest.mark.parametrize(
        "objective",
        [
            AlphaFlow.model_validate({"head": "w", "a": 0.001}),
            SolutionFlow.model_validate({"head": "w", "a": 0.001}),
            EasyConsistency.model_validate({"stage": 10.0}),
            ImprovedConsistency.model_validate({"steps": 1280.0}),
        ],
    )
    def test_a_wrong_network_has_a_residual_of_first_order(self, objective: Any) -> None:
        draw = _jump(GaussianFlow())
        right, wrong = (_residual(objective, GaussianFlow(std=std), draw).abs().mean() for std in (0.5, 0.8))
        assert wrong > 30 * right

    def test_a_whole_step_is_the_velocity(self) -> None:
        net, draw = GaussianFlow(), _jump(GaussianFlow())
        for objective in (AlphaFlow.model_validate({"head": "w", "a": 1.0}), SolutionFlow.model_validate({"a": 1.0})):
            passes = StepPasses({"online": net}, 128)
            assert torch.equal(objective.model_copy(update={"head": "w"}).target(draw, passes), draw.v_t)

    def test_the_limit_of_a_small_step_is_mean_flow(self) -> None:
        """Fact B: (u - u_tgt) / a tends to MeanFlow's residual; the relative gap is of first order in a."""
        wrong, draw = GaussianFlow(std=0.8), _jump(GaussianFlow(), 16)
        limit = _residual(MeanFlow.model_validate(JVP), wrong, draw)[16:]
        for objective in (AlphaFlow, SolutionFlow):
            gaps = []
            for a in (1e-1, 1e-2, 1e-3):
                small = _residual(objective(head="w", a=_constant(a), **_no_floor(objective)), wrong, draw)[16:] / a
                gaps.append(((small - limit).norm() / limit.norm()).item())
            assert gaps[0] < 0.2
            assert gaps[1] < 0.13 * gaps[0]
            assert gaps[2] < 0.13 * gaps[1]

    @pytest.mark.parametrize(
        "objective",
        [EasyConsistency.model_validate({"stage": s}) for s in (0.0, 3.0)]
        + [ImprovedConsistency.model_validate({"steps": n}) for n in (10.0, 160.0)],
    )
    def test_residuals_in_data_space_are_the_difference_of_two_denoised_ends(self, objective: Any) -> None:
        """f(x_t) - f(x_q) = -t (u - u_tgt) for f = x_t - t u, and x itself where q = 0."""
        net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow(), 0.01)
        q, t = objective.earlier(draw), draw.t
        x_q = draw.x_t - (t - q)[:, None] * draw.v_t
        ends = [x - time[:, None] * net(x, time)["u"] for x, time in ((draw.x_t, t), (x_q, q))]
        ends[1] = torch.where(q[:, None] == 0, x_q, ends[1])
        residual = _residual(objective, net, draw)
        torch.testing.assert_close(ends[0] - ends[1], -t[:, None] * residual, rtol=1e-10, atol=1e-13)
        assert bool((q == 0).any()) == (objective in _COARSE)


_COARSE = [EasyConsistency.model_validate({"stage": 0.0}), ImprovedConsistency.model_validate({"steps": 10.0})]


def _constant(value: float) -> Any:
    return Constant(value=value)


def _no_floor(objective: Any) -> dict[str, float]:
    return {"shortest": 0.0} if objective is SolutionFlow else {}


class TestHalfJumps:
    """sc and split: the identity is exact where the jumps are."""

    @pytest.mark.parametrize("path", SCALES)
    @pytest.mark.parametrize("objective", [Shortcut(head="w"), SplitMeanFlow(head="w")])
    @pytest.mark.parametrize("equal", [0, 16])
    def test_they_vanish(self, path: str, objective: Any, equal: int) -> None:
        net = _flow(path)
        assert _size(_residual(objective, net, _jump(net, equal))) < 1e-12

    @pytest.mark.parametrize("objective", [Shortcut(head="w"), SplitMeanFlow(head="w")])
    @pytest.mark.parametrize("finest", ["velocity", "step"])
    def test_they_vanish_on_dyadic_jumps_and_learn_the_velocity_on_the_finest(
        self, objective: Any, finest: Any
    ) -> None:
        net = GaussianFlow()
        pairs = Dyadic(equal_share=0.5, finest=finest)
        t, r = (time.double() for time in pairs.sample(Uniform(), 128, torch.Generator().manual_seed(0)))
        x_t = net.scale(t)[:, None] * torch.randn(128, 3, dtype=torch.float64)
        v = torch.where(torch.arange(128)[:, None] < 64, 7.0, net.velocity(x_t, t))
        draw = Draw(x_t, x_t, t, r, x_t, v, v, equal=64, gap=pairs.gap, chance=torch.rand(128))
        passes = StepPasses({"online": net, "ema": net}, 128)
        target = objective.target(draw, passes)
        assert torch.equal(target[:64], v[:64])
        assert _size(target[64:] - net.average(x_t, t, r)[64:]) < 1e-12
        assert passes.count.without_gradient == 1  # two half jumps on half of the rows

    @pytest.mark.parametrize("objective", [Shortcut(head="w"), SplitMeanFlow(head="w")])
    def test_jumps_that_do_not_agree_have_a_residual(self, objective: Any) -> None:
        """A network for other data agrees with itself: only rows with r = t tie these objectives to data."""
        draw = _jump(GaussianFlow())
        assert _size(_residual(objective, GaussianFlow(std=0.8), draw)) < 1e-12
        anchored = _jump(GaussianFlow(), 32)
        assert _residual(objective, GaussianFlow(std=0.8), anchored)[:32].abs().mean() > 0.01

        class Bent(GaussianFlow):
            def average(self, x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
                return super().average(x_t, t, r) + 0.1 * (t - r)[:, None]

        assert _residual(objective, Bent(), draw).abs().mean() > 0.001

    def test_halves_are_shortcut(self) -> None:
        net, draw = GaussianFlow(std=0.8), _jump(GaussianFlow(), 16)
        draw = draw._replace(chance=torch.full((128,), 0.5))
        same = [_residual(o(head="w", weights="online"), net, draw) for o in (Shortcut, SplitMeanFlow)]
        torch.testing.assert_close(*same, rtol=0, atol=1e-14)

    def test_the_clip_bounds_midpoints_and_targets(self) -> None:
        net, draw = GaussianFlow(), _jump(GaussianFlow(), 8)
        draw = draw._replace(v_t=3 * draw.v_t)
        passes = StepPasses({"ema": net, "online": net}, 128)
        target = Shortcut(head="w", clip=0.2).target(draw, passes)
        assert target[8:].abs().max() == 0.2
        assert torch.equal(target[:8], draw.v_t[:8])  # never the velocity


class Learner(torch.nn.Module):
    """A small network with one head u, for gradients."""

    horizons: ClassVar[dict[str, Horizon]] = {"u": "data"}
    sees_r: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        wide = torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
        self.net = torch.nn.Sequential(*wide).double()

    def forward(
        self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """u from (x_t, t)."""
        return {"u": self.net(torch.cat([x_t, t[:, None]], 1))}


class TestTheoremOne:
    """DuMo Eq. (10): the lambda surrogate has exactly the gradient of discrete consistency."""

    @staticmethod
    def gradient(net: Learner, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss(), list(net.parameters()))])

    def ours(self, net: Learner, draw: Draw, **settings: Any) -> torch.Tensor:
        passes = StepPasses({"online": net}, len(draw.t))
        cm = Consistency.model_validate(settings)
        return self.gradient(net, lambda: cm.loss(passes.main(draw.point), draw, passes).mean())

    @pytest.mark.parametrize("lam", [0.1, 0.5, 0.9, 0.99])
    def test_the_gradients_are_equal(self, lam: float) -> None:
        net, draw = Learner(), _draw(GaussianFlow())
        t = draw.t[:, None]

        def surrogate(mix: float) -> torch.Tensor:
            u = net(draw.x_t, draw.t)["u"]
            with torch.no_grad():
                neighbour = net(draw.x_t - (1 - lam) * t * draw.v_t, lam * draw.t)["u"]
            return ((u - draw.v_t) ** 2 + mix * (u - neighbour) ** 2).mean()

        ours = self.ours(net, draw, lam=lam)
        error = (ours - self.gradient(net, lambda: surrogate(lam / (1 - lam)))).norm() / ours.norm()
        assert error < 1e-14 / (1 - lam)  # rounding alone: 1 / (1 - lam) amplifies it
        assert (ours - self.gradient(net, lambda: surrogate(1.01 * lam / (1 - lam)))).norm() / ours.norm() > 1e-4

    def test_its_limit_is_equation_eight(self) -> None:
        net, draw = Learner(), _draw(GaussianFlow())
        limit = self.ours(net, draw, derivative={"method": "jvp"})
        errors = [(self.ours(net, draw, lam=lam) - limit).norm().item() for lam in (0.9, 0.99, 0.999, 0.9999)]
        assert all(0.08 < b / a < 0.12 for a, b in pairwise(errors[1:])), errors

    def test_lam_zero_is_flow_matching(self) -> None:
        net, draw = Learner(), _draw(GaussianFlow())
        plain = self.gradient(net, lambda: (net(draw.x_t, draw.t)["u"] - draw.v_t).square().mean())
        torch.testing.assert_close(self.ours(net, draw, lam=0.0), plain, rtol=1e-13, atol=1e-15)

    def test_soflow_has_the_gradient_of_its_squared_residual(self) -> None:
        """The linear form: grad <u, sg R> = grad ||u - u_tgt||^2 / (2 a), means over elements."""
        net, draw = Learner(), _draw(GaussianFlow())
        flow = SolutionFlow(head="u", a=_constant(0.2), power=0.0)
        passes = StepPasses({"online": net}, 128)
        ours = self.gradient(net, lambda: flow.loss(passes.main(draw.point), draw, passes).mean())
        with torch.no_grad():
            target = flow.target(draw, passes)
        square = self.gradient(net, lambda: (net(draw.x_t, draw.t)["u"] - target).square().mean() / 0.4)
        torch.testing.assert_close(ours, square, rtol=1e-12, atol=1e-14)
