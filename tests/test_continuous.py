"""sCM: exact where the flow map is known, equal to Algorithm 1 in the angles of its paper."""

from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.composer import Composer
from genobj.experiment import Experiment
from genobj.guidance.frozen import FrozenGuidance
from genobj.guidance.none import NoGuidance
from genobj.objectives.continuous import ContinuousConsistency
from genobj.passes import StepPasses
from genobj.paths.linear import Linear
from genobj.paths.trig import Trig
from genobj.testing import GaussianFlow
from genobj.times.pairs import Sorted
from genobj.times.uniform import Uniform
from genobj.types import Draw, over

FORMS = ["trig", "linear"]


def _scm(**settings: Any) -> ContinuousConsistency:
    return ContinuousConsistency.model_validate({"derivative": {"method": "jvp"}, "warmup": 1.0} | settings)


def _draw(net: GaussianFlow, low: float = 0.05, high: float = 0.95) -> Draw:
    """A draw whose velocity is the marginal one: there the flow map has no residual, sample by sample."""
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(low, high, 128, dtype=torch.float64)
    x_t = net.scale(t)[:, None] * torch.randn(128, 3, dtype=torch.float64, generator=generator)
    v = net.velocity(x_t, t)
    return Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v, path=net.path)


def _asked(objective: ContinuousConsistency, net: Any, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """u, its target and the losses."""
    passes = StepPasses({"online": net}, len(draw.t))
    out = passes.main(draw.point)
    return out["u"], objective.target(draw, passes), objective.loss(out, draw, passes)


class TestExact:
    @pytest.mark.parametrize("std", [1.0, 0.5])
    @pytest.mark.parametrize("form", FORMS)
    def test_it_vanishes_on_the_flow_map(self, form: str, std: float) -> None:
        net = GaussianFlow(Linear(noise_std=std), std=0.8 * std)
        u, target, loss = _asked(_scm(form=form), net, _draw(net))
        assert (u - target).abs().max() < 1e-12
        assert loss.max() < 1e-24

    @pytest.mark.parametrize("form", FORMS)
    def test_a_difference_errs_by_the_square_of_its_step(self, form: str) -> None:
        net, errors = GaussianFlow(), []
        for step in (0.02, 0.01):
            u, target, _ = _asked(_scm(form=form, derivative={"step": step}), net, _draw(net))
            errors.append((u - target).abs().max().item())
        assert 3.5 < errors[0] / errors[1] < 4.5, errors

    @pytest.mark.parametrize("form", FORMS)
    def test_another_flow_map_has_a_residual(self, form: str) -> None:
        u, target, _ = _asked(_scm(form=form), GaussianFlow(std=0.8), _draw(GaussianFlow()))
        assert (u - target).abs().mean() > 0.05

    def test_the_network_of_the_derivative_is_asked_for_all_of_the_target(self) -> None:
        net, other, draw = GaussianFlow(std=0.8), GaussianFlow(), _draw(GaussianFlow())
        objective = _scm(derivative={"method": "jvp", "weights": "ema"})
        found = [objective.target(draw, StepPasses({"online": n, "ema": other}, 128)) for n in (net, other)]
        torch.testing.assert_close(*found)

    @pytest.mark.parametrize("form", FORMS)
    def test_its_loss_has_no_unit(self, form: str) -> None:
        """Data, noise and floor all made .3 of what they were."""
        losses = []
        for size in (1.0, 0.3):
            path = Linear(noise_std=size)
            draw = _draw(GaussianFlow(path, std=0.5 * size))
            losses.append(_asked(_scm(floor=0.1 * size, form=form), GaussianFlow(path, std=0.8 * size), draw)[2])
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)

    def test_a_teacher_takes_the_place_of_the_data(self) -> None:
        """sCD: with the teacher's velocities the residual vanishes on every pair of data and noise, not on average."""
        net, y = GaussianFlow(), torch.zeros(256, dtype=torch.long)
        x = net.std * torch.randn(256, 3, dtype=torch.float64)
        for guidance, low, high in ((FrozenGuidance(omega=0.0), 0.0, 1e-20), (NoGuidance(), 1e-3, 10.0)):
            composer = Composer(Linear(), Uniform(), Sorted(), {"scm": _scm()}, guidance, classes=1)
            draw = composer.draw(x, y, torch.Generator().manual_seed(0), progress=1.0)
            wide = {k: v.double() for k, v in draw._asdict().items() if isinstance(v, Tensor) and v.is_floating_point()}
            draw = draw._replace(**wide)
            loss = composer.loss({"online": net, "frozen": net}, draw)
            assert low <= loss.total.item() <= high
            assert loss.passes.teacher == (guidance.active if isinstance(guidance, FrozenGuidance) else 0)


class TestPulls:
    @pytest.mark.parametrize("floor", [0.1, 3.0])
    @pytest.mark.parametrize("norm", ["l2", "rms"])
    @pytest.mark.parametrize("form", FORMS)
    def test_they_have_the_length_of_a_normalised_tangent(self, form: str, norm: str, floor: float) -> None:
        objective, net, draw = _scm(form=form, norm=norm, floor=floor), GaussianFlow(std=0.8), _draw(GaussianFlow())
        u, target, loss = _asked(objective, net, draw)
        g = objective.pull(u, draw, StepPasses({"online": net}, 128))
        length = g.square().sum(1).sqrt() / (3**0.5 if norm == "rms" else 1)
        rho = torch.hypot(draw.t, 1 - draw.t) if form == "trig" else torch.ones(())
        pull = (target - u) * over(rho * torch.ones_like(draw.t), u)
        torch.testing.assert_close(pull, g / (length + floor)[:, None], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(loss, pull.square().mean(1), rtol=1e-12, atol=0)

    def test_the_warm_up_begins_as_flow_matching(self) -> None:
        """w = 0: g = cos^2 (dx - F) = (1 - t)^2 / rho (v_t - u), which vanishes where u is the velocity."""
        net, draw = GaussianFlow(), _draw(GaussianFlow())
        t, rho = draw.t[:, None], torch.hypot(draw.t, 1 - draw.t)[:, None]
        objective = _scm(warmup={"kind": "linear", "start": 0.0, "end": 1.0, "until": 0.5})
        u, target, _ = _asked(objective, net, draw)
        g = (1 - t) ** 2 / rho * (draw.v_t - u)
        torch.testing.assert_close(target, u + g / rho / (g.norm(dim=1, keepdim=True) + 0.1), rtol=1e-12, atol=1e-14)

        class Velocity(GaussianFlow):
            def average(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
                return self.velocity(x_t, t)

        u, target, _ = _asked(objective, Velocity(), draw)
        assert torch.equal(u, target)
        u, target, _ = _asked(objective, Velocity(), draw._replace(progress=0.5))
        assert (u - target).abs().mean() > 0.05

    @pytest.mark.parametrize("settings", [{}, {"norm": "rms"}, {"by_sigma": True, "by_elements": True}])
    def test_noise_as_large_as_the_data_is_data_of_size_one(self, settings: dict[str, Any]) -> None:
        """s u(x_t / s) on the path with noise_std = s, for a floor in its units, has the loss of u; sigma is s tan."""
        s, losses = 0.3, []
        for scale in (1.0, s):
            net = GaussianFlow(Linear(noise_std=scale), std=0.8 * scale)
            draw = _draw(GaussianFlow(Linear(noise_std=scale), std=0.5 * scale))
            losses.append(_asked(_scm(floor=0.1 * scale, **settings), net, draw)[2])
        torch.testing.assert_close(losses[1] * (s if "by_sigma" in settings else 1), losses[0], rtol=1e-10, atol=0)

    def test_divisors(self) -> None:
        net, draw = GaussianFlow(Linear(noise_std=0.4)), _draw(GaussianFlow(Linear(noise_std=0.4), std=0.3))
        plain, sigma, elements = (
            _asked(_scm(**{name: True} if name else {}), net, draw)[2] for name in ("", "by_sigma", "by_elements")
        )
        torch.testing.assert_close(sigma, plain * (1 - draw.t) / (0.4 * draw.t), rtol=1e-12, atol=0)
        torch.testing.assert_close(elements, plain / 3, rtol=1e-12, atol=0)
        at_data = draw._replace(t=torch.zeros_like(draw.t))
        assert _asked(_scm(by_sigma=True), net, at_data)[2].isfinite().all()


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_it_is_algorithm_one_in_the_angles_of_the_paper(w: float) -> None:
    """Everything in TrigFlow: x = cos x_0 + sin z with z ~ N(0, s^2), and F(x / s, angle) with its own derivative."""
    s, generator = 0.5, torch.Generator().manual_seed(1)
    angle = torch.linspace(0.05, 1.5, 64, dtype=torch.float64)
    x_0, z = (torch.randn(64, 3, dtype=torch.float64, generator=generator) * size for size in (0.4, 1.0))
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    mix = torch.randn(3, 3, dtype=torch.float64, generator=generator)

    def f(x: Tensor, angle: Tensor) -> Tensor:
        return torch.tanh(x @ mix + angle[:, None]) + x * angle[:, None].sin()

    x, dx = cos * x_0 + sin * s * z, cos * s * z - sin * x_0
    at, along = (x / s, angle), (dx / s, torch.ones_like(angle))
    value, slope = f(*at), torch.func.jvp(f, at, along)[1]
    g = -(cos**2) * (s * value - dx) - w * cos * sin * (x + s * slope)
    wanted = value + g / (g.norm(dim=1, keepdim=True) + 0.1)

    class Network(GaussianFlow):
        """u of F: x_t = x / (sin + cos) and rho u = s F - (1 - 2t) x."""

        def average(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
            rho = torch.hypot(t, 1 - t)[:, None]
            return (s * f(x_t / rho / s, torch.atan2(t, 1 - t)) - (1 - 2 * t[:, None]) * x_t / rho) / rho

    t, path = (sin / (sin + cos))[:, 0], Linear(noise_std=s)
    x_t, v = path.point(x_0, z, t), path.velocity(x_0, z, t)
    draw = Draw(x_0, z, t, torch.zeros_like(t), x_t, v, v, path=path)
    _, target, loss = _asked(_scm(warmup=w), Network(), draw)
    rho = torch.hypot(t, 1 - t)[:, None]
    ours = ((1 - 2 * t[:, None]) / rho * x_t + rho * target) / s
    torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(loss, (value - wanted).square().mean(1), rtol=1e-10, atol=0)


class TestSettings:
    def test_it_holds_on_the_linear_path_only(self) -> None:
        with pytest.raises(ValueError, match=r"objectives.scm holds on the linear path only; type path=linear"):
            Composer(Trig(), Uniform(), Sorted(), {"scm": _scm()}, NoGuidance())

    @pytest.mark.parametrize("warmup", [1.5, {"kind": "linear", "start": -0.1, "end": 1.0}])
    def test_the_warm_up_is_a_share(self, warmup: Any) -> None:
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            _scm(warmup=warmup)

    def test_a_learned_log_variance_learns_how_large_the_loss_is(self) -> None:
        """exp(-s) L + s: its gradient in s is 1 - exp(-s) L, zero at s = log L."""
        e = Experiment.model_validate({"objectives": {"scm": {"uncertainty": True}}, "train": {"batch": 64}})
        torch.manual_seed(0)
        composer, model = e.composer(), e.model_settings().build()
        draw = composer.draw(torch.randn(64, 2), None, torch.Generator().manual_seed(0), progress=0.5)
        term = composer.score({"online": model}, draw).terms["scm"]
        term.share.backward()
        assert term.share.item() == pytest.approx(term.value.item())  # s = 0 at first
        (bias,) = (p for name, p in model.heads["scm_log_variance"].named_parameters() if name == "outer.bias")
        assert bias.grad is not None
        assert bias.grad.item() == pytest.approx(1 - term.value.item(), rel=1e-5)
