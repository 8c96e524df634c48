"""UCGM and FACM: exact on exact flows, guidance and readings, a network that is told r by the sign of t."""

from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from genobj import hub
from genobj.composer import Composer
from genobj.experiment import Experiment
from genobj.guidance.enhanced import EnhancedGuidance
from genobj.model import ModelSettings
from genobj.objectives.consistency import Consistency
from genobj.objectives.flow_anchored import FlowAnchored
from genobj.objectives.flow_matching import FlowMatching
from genobj.objectives.unified import Unified
from genobj.passes import Count, StepPasses
from genobj.paths.base import Path
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.paths.random import Random
from genobj.paths.trig import Trig
from genobj.paths.vp import VP
from genobj.reading import ReadingName, reading
from genobj.run import Run
from genobj.samplers.euler import Euler
from genobj.samplers.heun import Heun
from genobj.samplers.restart import Restart
from genobj.testing import GaussianFlow
from genobj.times.arctan import Arctan
from genobj.types import Draw, Horizon, over

CURVES: dict[str, Path] = {
    "linear": Linear(),
    "trig": Trig(),
    "trig 1.57": Trig(quarter=1.57),
    "trig-linear": Trig(quarter=1.57, target="difference"),
    "vp": VP(),
    "edm": EDM(),
    "random": Random(),
}
PLAIN = {"kind": "mse"}
BATCH = 64


def _draw(net: GaussianFlow, low: float = 0.05, high: float = 0.95) -> Draw:
    """A draw whose velocity is the marginal one; its x and z are nobody's ends."""
    t = torch.linspace(low, high, BATCH, dtype=torch.float64)
    x_t = net.scale(t)[:, None] * torch.randn(BATCH, 3, dtype=torch.float64)
    v = net.velocity(x_t, t)
    return Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v, path=net.path)


def _residual(objective: Any, net: Any, draw: Draw) -> Tensor:
    """F - F* of UCGM, u - u* of others."""
    passes = StepPasses({"online": net}, BATCH)
    out = passes.main(draw.point)[objective.head]
    with torch.no_grad():
        target = objective.target(draw, passes)
    if isinstance(objective, Unified):
        out, target = objective.said(out, draw), objective.said(target, draw)
    return out - target


def _slopes(errors: list[float]) -> list[float]:
    return [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]


class Still(GaussianFlow):
    """A network that says zero."""

    def average(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("clamped", [False, True])
def test_a_difference_is_divided_by_the_times_it_is_between(clamped: bool) -> None:
    """At t = 0 and 1 half of it is left where times are clamped: x_hat is X, which moves by v_t."""
    draw = _draw(Still(), 0.0, 1.0)
    change = Unified(clamped=clamped).change(draw, StepPasses({"online": Still()}, BATCH))
    torch.testing.assert_close(change, draw.v_t)


@pytest.mark.parametrize(("progress", "ratio"), [(0.0, 0.5), (1.0, 1.0)])
def test_the_ratio_follows_the_run(progress: float, ratio: float) -> None:
    net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow())
    rising = Unified.model_validate({"ratio": {"kind": "linear", "start": 0.5, "end": 1.0}})
    fixed = Unified.model_validate({"ratio": ratio})
    found = rising.change(draw._replace(progress=progress), StepPasses({"online": net}, BATCH))
    assert torch.equal(found, fixed.change(draw, StepPasses({"online": net}, BATCH)))


@pytest.mark.parametrize("curve", CURVES)
class TestUnifiedOnExactFlows:
    def test_the_velocity_is_exact(self, curve: str) -> None:
        net = GaussianFlow(CURVES[curve], 0.4)
        objective = Unified.model_validate({"head": "v", "ratio": 0.0})
        assert _residual(objective, net, _draw(net)).abs().max() == 0

    def test_at_ratio_one_the_error_is_of_second_order_in_the_step(self, curve: str) -> None:
        net = GaussianFlow(CURVES[curve], 0.4)
        draw = _draw(net, 0.1)
        errors = [
            _residual(Unified.model_validate({"step": step}), net, draw).abs().max().item()
            for step in (0.004, 0.002, 0.001)
        ]
        assert all(abs(slope - 2) < 0.15 for slope in _slopes(errors)), errors

    def test_below_it_is_of_first_order_in_the_gap(self, curve: str) -> None:
        net = GaussianFlow(CURVES[curve], 0.4)
        draw = _draw(net, 0.1)
        errors = [
            _residual(Unified.model_validate({"ratio": 1 - gap, "step": 1e-4, "clamp": 1e9}), net, draw)
            .abs()
            .max()
            .item()
            for gap in (4e-3, 2e-3, 1e-3)
        ]
        assert all(abs(slope - 1) < 0.15 for slope in _slopes(errors)), errors

    def test_a_wrong_network_has_a_residual(self, curve: str) -> None:
        right, wrong = (GaussianFlow(CURVES[curve], std) for std in (0.4, 0.8))
        for ratio in (0.5, 0.999, 1.0):
            objective = Unified.model_validate({"ratio": ratio})
            assert _residual(objective, wrong, _draw(right)).abs().mean() > 0.01

    def test_it_is_finite_at_both_ends(self, curve: str) -> None:
        net = GaussianFlow(CURVES[curve], 0.4)
        draw = _draw(net, 0.0, 1.0)
        for settings in ({"ratio": 1.0}, {"ratio": 1.0, "clamped": True}, {"ratio": 0.5}):
            objective = Unified.model_validate(settings)
            passes = StepPasses({"online": net}, BATCH)
            assert objective.loss(passes.main(draw.point), draw, passes).isfinite().all(), settings

    def test_a_ratio_that_grows_to_one_keeps_its_digits(self, curve: str) -> None:
        """Over gaps of 1e-5 t a float32 difference would be noise."""
        net = GaussianFlow(CURVES[curve], 0.8)
        draw = _draw(GaussianFlow(CURVES[curve], 0.4))
        exact = Unified(head="u").change(draw, StepPasses({"online": net}, BATCH))
        single = Draw(*(value.float() if isinstance(value, Tensor) else value for value in draw))
        for ratio in (0.9999, 0.99999, 0.999999):
            near = Unified.model_validate({"ratio": ratio}).change(single, StepPasses({"online": net}, BATCH))
            torch.testing.assert_close(near.double(), exact, rtol=1e-2, atol=1e-2)


class Bent:
    """Some network F under a reading, with head u: a jump on any path."""

    def __init__(self, name: ReadingName, path: Path):
        self.horizons: dict[str, Horizon] = {"u": "data"}
        self.sees_r = frozenset[str]()
        found = reading(name, path)
        assert found is not None
        self.reading = found
        weight = torch.Generator().manual_seed(1)
        self.mix = torch.randn(3, 3, generator=weight, dtype=torch.float64)

    def said(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(x @ self.mix + time[:, None].sin()) * (2 - time[:, None])

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, Tensor]:
        said = self.said(self.reading.line(t).state(x_t), self.reading.time(t))
        return {"u": self.reading.jump(t).velocity(said, x_t)}

    def data(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_hat."""
        full = self.reading.path.data_scale(torch.zeros_like(t))
        return (x_t - over(t, x_t) * self(x_t, t)["u"]) / over(full, x_t)


class TestReadings:
    @pytest.mark.parametrize("curve", CURVES)
    def test_the_answer_of_ucgms_networks_becomes_jump_and_velocity(self, curve: str) -> None:
        """x_hat = (a F - p x_t) / d, z_hat = (q x_t - b F) / d, d = a q - b p; said() is the way back."""
        path, t = CURVES[curve], torch.linspace(-0.004, 1.004, BATCH, dtype=torch.float64)
        t = t.where(t > 0, 0.002) if curve == "vp" else t
        x_t, said = torch.randn(2, BATCH, 3, dtype=torch.float64)
        a, b, p, q = (over(f(t), x_t) for f in (path.noise_scale, path.data_scale, path.noise_target, path.data_target))
        d = a * q - b * p
        x, z = (a * said - p * x_t) / d, (q * x_t - b * said) / d
        read = reading("target", path)
        assert read is not None
        torch.testing.assert_close(read.line(t).velocity(said, x_t), path.velocity(x, z, t), rtol=1e-9, atol=1e-9)
        u = read.jump(t).velocity(said, x_t)
        full = over(path.data_scale(torch.zeros_like(t)), x_t)
        torch.testing.assert_close((x_t - t[:, None] * u) / full, x, rtol=1e-9, atol=1e-9)
        assert torch.equal(read.time(t), t)
        draw = Draw(x_t, x_t, t, torch.zeros_like(t), x_t, x_t, x_t, path=path)
        torch.testing.assert_close(Unified().said(u, draw), said, rtol=1e-7, atol=1e-7)
        v, multi = path.velocity(x, z, t), Unified.model_validate({"ratio": 0.0})
        torch.testing.assert_close(multi.said(v, draw), said, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("name", ["sit", "ddpm", "edm", "target"])
    @pytest.mark.parametrize("curve", ["linear", "trig", "vp", "edm", "random"])
    def test_jump_and_velocity_end_at_the_same_data(self, name: Any, curve: str) -> None:
        path, t = CURVES[curve], torch.linspace(0.05, 0.95, BATCH, dtype=torch.float64)
        x_t, said = torch.randn(2, BATCH, 3, dtype=torch.float64)
        read = reading(name, path)
        assert read is not None
        u, v = (line.velocity(said, x_t) for line in (read.jump(t), read.line(t)))
        landed = x_t - t[:, None] * u
        full = over(path.data_scale(torch.zeros_like(t)), x_t)
        torch.testing.assert_close(landed / full, path.ends(x_t, v, t)[0], rtol=1e-8, atol=1e-8)
        assert torch.equal(u, v) == (curve == "linear")

    @pytest.mark.parametrize("curve", CURVES)
    def test_jumps_are_finite_at_the_data(self, curve: str) -> None:
        read = reading("target", CURVES[curve])
        assert read is not None
        t = torch.tensor([0.0, 1e-9, 1e-5, 1e-3])
        line = read.jump(t)
        assert all(value.isfinite().all() for value in line)

    @pytest.mark.parametrize("name", ["target", "sit"])
    @pytest.mark.parametrize("ratio", [0.9, 1.0])
    def test_x_hat_moves_to_its_neighbour_with_less_noise_whatever_the_transport(self, name: Any, ratio: float) -> None:
        """The public code has the other sign on its reversed transport, ours is reading=sit."""
        path = Linear()
        net, draw = Bent(name, path), _draw(GaussianFlow(path))
        objective = Unified.model_validate({"ratio": ratio, "clamp": 100.0})
        passes = StepPasses({"online": net}, BATCH)
        passes.main(draw.point)
        target = objective.target(draw, passes)
        here = net.data(draw.x_t, draw.t)
        moved = draw.x_t - draw.t[:, None] * target - here
        nearer = ratio * draw.t if ratio < 1 else draw.t - 1e-4
        x, z = path.ends(draw.x_t, draw.v_t, draw.t)
        wanted = net.data(path.point(x, z, nearer), nearer) - here
        cosine = torch.nn.functional.cosine_similarity(moved, wanted, dim=1)
        assert cosine.min() > 0.99

    @pytest.mark.parametrize("curve", ["trig", "edm"])
    def test_a_model_reads_its_jumps(self, curve: str) -> None:
        heads = {"horizons": {"v": "instant", "u": "data"}, "heads": {"v": {}, "u": {}}}
        base: dict[str, Any] = {"backbone": "mlp", "shape": [2], "classes": 0, "path": curve, **heads}
        plain, read = (ModelSettings.model_validate(base | {"reading": name}) for name in (None, "target"))
        models = [settings.build() for settings in (plain, read)]
        with torch.no_grad():
            for p in models[0].parameters():
                p.add_(0.1 * torch.randn_like(p))
        models[1].load_state_dict(models[0].state_dict())
        x_t, t = torch.randn(8, 2), torch.linspace(0.1, 0.9, 8)
        said, got = (model(x_t, t) for model in models)
        found = reading("target", CURVES[curve])
        assert found is not None
        assert torch.equal(got["v"], found.line(t).velocity(said["v"], x_t))
        assert torch.equal(got["u"], found.jump(t).velocity(said["u"], x_t))


class TestUnified:
    def test_ratio_zero_trains_the_velocity_and_all_above_the_jump(self) -> None:
        assert Unified.model_validate({"ratio": 0.0}).trains == {"u": "instant"}
        assert Unified.model_validate({"ratio": 0.01}).trains == {"u": "data"}
        rising = {"kind": "linear", "start": 0.5, "end": 1.0}
        assert Unified.model_validate({"ratio": rising}).trains == {"u": "data"}
        with pytest.raises(ValueError, match="start it at"):
            Unified.model_validate({"ratio": rising | {"start": 0.0}})

    @pytest.mark.parametrize(("ratio", "passes"), [(0.0, 0), (0.5, 1), (1.0, 2)])
    def test_passes(self, ratio: float, passes: int) -> None:
        net, objective = GaussianFlow(), Unified.model_validate({"ratio": ratio})
        counted = StepPasses({"online": net}, BATCH)
        draw = _draw(net)
        objective.loss(counted.main(draw.point), draw, counted)
        assert counted.count == Count(1, passes)

    @pytest.mark.parametrize(("ratio", "further"), [(0.999, 2), (1.0, 2)])
    def test_differences_are_in_float32_under_autocast(self, ratio: float, further: int) -> None:
        """The forward has answered in bf16, whose rounding is larger than the difference: it is asked again."""
        base: dict[str, Any] = {"backbone": {"kind": "mlp", "width": 64, "depth": 2}, "shape": [3], "classes": 0}
        heads: dict[str, Any] = {"path": "linear", "horizons": {"u": "data"}, "heads": {"u": {}}}
        torch.manual_seed(0)
        model = ModelSettings.model_validate(base | heads).build()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        wide = _draw(GaussianFlow())
        x_t, v, t = wide.x_t.float(), wide.v_t.float(), wide.t.float()
        draw = Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v, path=wide.path)

        def change(low: bool, precision: str) -> tuple[Tensor, Count]:
            objective = Unified.model_validate({"ratio": ratio, "precision": precision})
            passes = StepPasses({"online": model}, BATCH, low=low)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                passes.main(draw.point)
                return objective.change(draw, passes), passes.count

        (wanted, _), (found, count), (coarse, _) = (
            change(low, precision) for low, precision in ((False, "float32"), (True, "float32"), (True, "autocast"))
        )
        assert count == Count(1, further)
        assert (found - wanted).norm() < 1e-4 * wanted.norm()
        assert (coarse - wanted).norm() > 0.03 * wanted.norm()

    def test_on_the_linear_path_it_is_consistency_with_another_step(self) -> None:
        """D = v_t - u - t du/dt there (up to the difference's error), and F* - u = (4 t / sin 1.57 t) D."""
        net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow())
        cm = _residual(Consistency.model_validate({"derivative": {"method": "jvp"}}), net, draw)
        ours = _residual(Unified.model_validate({"step": 1e-4, "clamp": 100.0}), net, draw)
        factor = 4 * draw.t / (1.57 * draw.t).sin()
        torch.testing.assert_close(ours, factor[:, None] * cm, rtol=1e-5, atol=1e-6)
        bounded = _residual(Unified.model_validate({"step": 1e-4, "clamp": 0.1}), net, draw)
        assert (bounded.abs() <= 0.1 * factor[:, None] + 1e-12).all()

    def test_weightings(self) -> None:
        net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow())

        def losses(weighting: str) -> Tensor:
            objective, passes = Unified.model_validate({"weighting": weighting}), StepPasses({"online": net}, BATCH)
            return objective.loss(passes.main(draw.point), draw, passes)

        torch.testing.assert_close(losses("cosine"), (1.57 * draw.t).cos() * losses("none"))
        torch.testing.assert_close(losses("reversed"), (1.57 * (1 - draw.t)).cos() * losses("none"))

    def test_the_batch_is_left_as_it_is(self) -> None:
        net, draw = GaussianFlow(Trig()), _draw(GaussianFlow(Trig()))
        before = [value.clone() for value in draw if isinstance(value, Tensor)]
        for ratio in (0.0, 0.5, 1.0):
            _residual(Unified.model_validate({"ratio": ratio, "head": "u" if ratio else "v"}), net, draw)
        assert all(map(torch.equal, before, [value for value in draw if isinstance(value, Tensor)]))


class Labelled:
    """v = (1 + y) x_t; null is label 10."""

    horizons: ClassVar[dict[str, Horizon]] = {"v": "instant"}
    sees_r: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert y is not None
        return {"v": self.factor * (1 + y[:, None]) * x_t}


class TestEnhancedGuidance:
    def guided(self, count: int, **settings: Any) -> tuple[Tensor, Draw]:
        """Rows 0 and 1 inside, 2 and 3 outside, at their open end; rows 1 and 3 lost their label; v_t of the draw."""
        t = torch.tensor([0.5, 0.5, 0.75, 0.75])
        x_t, v, y = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([1, 10, 2, 10])
        draw = Draw(x_t, x_t, t, torch.zeros(4), x_t, v, v, y, y == 10)
        guidance = EnhancedGuidance.model_validate({"interval": [0.0, 0.75], **settings})
        networks: dict[Any, Any] = {"online": Labelled(), "ema": Labelled(0.5), "frozen": Labelled(0.25)}
        fm = {"fm": FlowMatching()}
        law = Experiment().pairs
        composer = Composer(Linear(), Arctan(), law, fm, guidance, classes=10, label_drop=0.1)
        scored = composer.score(networks, draw)
        assert scored.passes.count.without_gradient == count
        return scored.draw.v_t, draw

    @pytest.mark.parametrize(("weights", "factor"), [("online", 1.0), ("ema", 0.5), ("frozen", 0.25)])
    @pytest.mark.parametrize(("zeta", "meant"), [(0.4, 0.4), (1.0, 0.0), (2.5, 0.6)])
    def test_away_from_no_label(self, weights: str, factor: float, zeta: float, meant: float) -> None:
        v_t, draw = self.guided(1, zeta=zeta, weights=weights)
        v, x = draw.v_path, draw.x_t
        given, free = (1 + draw.y[:, None]) * x, 11 * factor * x  # type: ignore[index]
        wanted = [(v + meant * (given - free))[0], ((v + free) / 2)[1], ((v + given) / 2)[2], ((v + free) / 2)[3]]
        torch.testing.assert_close(v_t, torch.stack(wanted))

    @pytest.mark.parametrize(("weights", "factor", "count"), [("online", 1.0, 0), ("ema", 0.5, 1), ("frozen", 0.25, 1)])
    @pytest.mark.parametrize("zeta", [0.5, 1.0, 2.0])
    def test_towards_a_model(self, weights: str, factor: float, count: int, zeta: float) -> None:
        v_t, draw = self.guided(count, zeta=zeta, weights=weights, pull="model")
        v, model = draw.v_path, factor * (1 + draw.y[:, None]) * draw.x_t  # type: ignore[index]
        wanted = [(v + zeta * (model - v))[0], v[1], ((v + model) / 2)[2], v[3]]
        torch.testing.assert_close(v_t, torch.stack(wanted))

    def test_what_it_needs(self) -> None:
        null, model = EnhancedGuidance(), EnhancedGuidance.model_validate({"pull": "model", "weights": "frozen"})
        assert null.refusal(label_drop=0.0) is not None
        assert null.refusal(label_drop=0.1) is None
        assert model.refusal(label_drop=0.0) is None
        assert (null.needs_labels, model.needs_labels) == (True, False)
        assert not EnhancedGuidance(zeta=0.0).active


class TestFlowAnchored:
    @pytest.mark.parametrize("curve", CURVES)
    def test_it_vanishes_on_exact_flows_and_nowhere_else(self, curve: str) -> None:
        net, wrong = (GaussianFlow(CURVES[curve], std) for std in (0.4, 0.8))
        facm = FlowAnchored.model_validate({"derivative": {"method": "jvp"}})
        assert _residual(facm, net, _draw(net)).abs().max() < 1e-12
        assert _residual(facm, wrong, _draw(net)).abs().mean() > 0.01

    def test_the_step_is_consistencys_bounded_and_damped_near_data(self) -> None:
        net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow())
        cm = _residual(Consistency.model_validate({"derivative": {"method": "jvp"}}), net, draw)
        settings = {"derivative": {"method": "jvp"}, "clamp": 0.2, "power": 0.7}
        ours = _residual(FlowAnchored.model_validate(settings), net, draw)
        damp = 1 - (1 - draw.t[:, None]) ** 0.7
        torch.testing.assert_close(ours, damp * cm.clamp(-0.2, 0.2), rtol=1e-10, atol=1e-12)
        assert (cm.abs() > 0.2).any()

    def test_the_loss_is_weighed_by_a_sine(self) -> None:
        net, draw = GaussianFlow(std=0.8), _draw(GaussianFlow())
        facm = FlowAnchored.model_validate({"distance": PLAIN})
        passes = StepPasses({"online": net}, BATCH)
        losses = facm.loss(passes.main(draw.point), draw, passes)
        wanted = _residual(facm, net, draw).square().mean(1) * (torch.pi / 2 * draw.t).sin()
        torch.testing.assert_close(losses, wanted)

    def test_times(self) -> None:
        """tan(pi t / 2) is log-normal."""
        t = Arctan(mean=-0.5, std=1.2).sample(20_000, torch.Generator().manual_seed(0))
        log = (t.double() * torch.pi / 2).tan().log()
        assert abs(log.mean() + 0.5) < 0.03
        assert abs(log.std() - 1.2) < 0.03


SIGNED: dict[str, Any] = {
    "objectives": {
        "fm": {"head": "u", "rows": "all", "distance": "sum"},
        "facm": {"head": "u", "rows": "all"},
    },
    "heads": {"u": {"r_in": "sign"}},
    "optim": {"lr": 3e-3},
    "train": {"steps": 300, "batch": 64},
    "backbone": {"kind": "mlp", "width": 64, "depth": 2},
    "pictures": {"count": 16},
    "ema": {"decays": [0.98]},
    "evaluation": {"nfe": [2], "metrics": ["mmd"], "count": 256, "reference": 256},
}


class TestExpandedTime:
    """heads.u.r_in=sign."""

    def test_it_trains_samples_saves_and_loads(self, tmp_path: FilePath) -> None:
        experiment = Experiment.model_validate(SIGNED)
        assert experiment.horizons == {"u": "ends"}
        run = Run(experiment, tmp_path / "run")
        run.go()
        source = hub.load(tmp_path / "run").model
        assert source.horizons == {"u": "ends"}
        z, data = torch.randn(512, 2), experiment.data.open().held_out(512, 0).x
        for sampler in (Euler(steps=16), Heun(steps=8), Restart(steps=2), Restart(steps=1)):
            walk = sampler(source, z)
            assert walk.nfe == {16: 16, 8: 16, 2: 2, 1: 1}[sampler.steps]
            assert (walk.samples.mean(0) - data.mean(0)).abs().max() < 0.25
            assert (walk.samples.std(0) / data.std(0) - 1).abs().max() < 0.35

    def test_the_trunk_is_fed_the_sign(self) -> None:
        model = Experiment.model_validate(SIGNED).model_settings().build()
        fed: list[Tensor] = []
        model.trunk.register_forward_hook(lambda _, inputs, __: fed.append(inputs[1]))
        x, t = torch.randn(4, 2), torch.linspace(0.1, 1, 4)
        model(x, t, r=t)
        model(x, t, r=torch.zeros(4))
        assert torch.equal(fed[0], -t)
        assert torch.equal(fed[1], t)

    @pytest.mark.parametrize(
        ("settings", "count"),
        [
            (SIGNED["objectives"], Count(2, 2)),
            ({"fm": {"head": "v", "distance": "sum"}, "facm": {"head": "u"}}, Count(1, 2)),
            ({"fm": {"head": "v"}, "facm": {"head": "u", "derivative": "jvp"}}, Count(1, 0, 1)),
        ],
        ids=["one head", "two heads", "two heads, forward mode"],
    )
    def test_passes(self, settings: Any, count: Count) -> None:
        heads = {"heads": SIGNED["heads"]} if settings is SIGNED["objectives"] else {}
        experiment = Experiment.model_validate({"objectives": settings, **heads})
        model, composer = experiment.model_settings().build(), experiment.composer()
        x = torch.randn(32, 2)
        assert composer({"online": model}, x, None, torch.Generator().manual_seed(0)).passes == count

    def test_the_velocity_of_guidance_comes_from_the_forward(self) -> None:
        """Labels: one pass more, for the null label; the velocity with the label is known."""
        tree = {**SIGNED, "data": "digits", "backbone": "unet-tiny", "guidance": {"kind": "self", "zeta": 0.3}}
        experiment = Experiment.model_validate({key: tree[key] for key in tree if key != "evaluation"})
        model, composer = experiment.model_settings().build(), experiment.composer()
        x, y, _ = experiment.data.open().train(range(8), 0)
        assert composer({"online": model}, x, y, torch.Generator().manual_seed(0)).passes == Count(2, 3)
