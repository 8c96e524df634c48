"""Distribution matching on Gaussian data, where both velocities are known, and on networks: who learns from what."""

from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.experiment import Experiment
from genobj.model import Model
from genobj.objectives.distribution_matching import DistributionMatching
from genobj.parts import PATHS
from genobj.passes import Count, StepPasses, TrainedNetwork
from genobj.paths.base import Path
from genobj.testing import GaussianFlow
from genobj.types import Draw, Weights, over

TREE: dict[str, Any] = {"backbone": {"kind": "mlp", "width": 16, "depth": 2}, "train": {"batch": 16}}


class Shifted(GaussianFlow):
    """Gaussian data, jumps that end `shift` beside them, and the exact velocity of the samples so made."""

    def __init__(self, shift: float = 0.0, path: Path | None = None):
        super().__init__(path, heads=("v", "u"))
        self.shift = shift
        self.horizons["fake"] = "fake"

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        zero = torch.zeros_like(t)
        out = {"v": self.velocity(x_t, t), "u": self.average(x_t, t, zero)}
        start = self.path.data_scale(zero) * self.shift
        out["u"] = (out["u"] - over(start / t, x_t)).requires_grad_()
        middle = over(self.path.data_scale(t) * self.shift, x_t)  # the mean of own samples under noise
        rate = over(self.path.data_rate(t) * self.shift, x_t)
        out["fake"] = (self.velocity(x_t - middle, t) + rate).requires_grad_()
        return out


def draw_of(net: GaussianFlow, n: int = 64) -> Draw:
    gen = torch.Generator().manual_seed(0)
    x, z, more = (torch.randn(n, 3, generator=gen, dtype=torch.float64) for _ in range(3))
    t, chance = 0.05 + 0.9 * torch.rand(n, generator=gen, dtype=torch.float64), torch.rand(n, dtype=torch.float64)
    x = net.std * x
    x_t, v = net.path.point(x, z, t), net.path.velocity(x, z, t)
    return Draw(x, z, t, torch.zeros_like(t), x_t, v, v, chance=chance, noise=(more,), path=net.path)


def pull(net: GaussianFlow, draw: Draw, **settings: Any) -> tuple[Tensor, Count]:
    """Gradient of the generator's loss along x_hat, row by row, and the passes; the fake velocity's is left out."""
    networks: dict[Weights, TrainedNetwork] = {"online": net, "ema": net, "frozen": net}
    passes = StepPasses(networks, len(draw.t))
    out = passes.main(draw.point)
    DistributionMatching.model_validate({"strength": 1.0} | settings).loss(out, draw, passes).sum().backward()
    assert out["u"].grad is not None
    start = net.path.data_scale(torch.zeros_like(draw.t))
    return -out["u"].grad * over(start / draw.t, draw.x), passes.count  # x_hat = (x_t - t u) / start


@pytest.mark.parametrize("path", ["linear", "trig", "vp", "edm"])
def test_where_own_samples_are_distributed_as_the_data_the_generator_rests(path: str) -> None:
    net = Shifted(path=PATHS.get(path)())
    found, _ = pull(net, draw_of(net))
    assert found.abs().max() < 1e-10


@pytest.mark.parametrize("real", ["online", "ema", "frozen"])
@pytest.mark.parametrize("path", ["linear", "trig"])
def test_samples_beside_the_data_are_pulled_back_as_far_as_the_two_means_differ(path: str, real: str) -> None:
    """E_fake[x | x_s] - E_real[x | x_s] = shift noise^2 / (noise^2 + std^2 data^2), over mean|x_hat - E_real|."""
    net = Shifted(0.7, PATHS.get(path)())
    draw = draw_of(net)
    found, count = pull(net, draw, real=real)
    assert (found > 0).all()  # descent moves x_hat against its shift
    objective = DistributionMatching()
    assert draw.chance is not None
    low, high = objective.noise
    s = low + (high - low) * draw.chance
    noise, data = net.path.noise_scale(s).square(), (net.std * net.path.data_scale(s)).square()
    x_hat = objective.jumps(net(draw.x_t, draw.t), draw)
    x_s = net.path.point(x_hat, draw.noise[0], s)
    expected = over(data / net.path.data_scale(s) / (noise + data), x_s) * x_s
    size = (x_hat - expected).abs().mean(1)
    wanted = 0.7 * noise / (noise + data) / size
    torch.testing.assert_close(found, over(wanted, found).expand_as(found) / 3, rtol=1e-9, atol=1e-12)  # a mean over 3
    other = real != "online"
    assert count == Count(2, float(other), 0, float(real == "frozen"))


def test_the_fake_velocity_learns_own_samples() -> None:
    """Its loss is flow matching's with x_hat in the place of data: of straight paths from x_hat to noise."""
    net = Shifted(0.7)
    draw = draw_of(net)
    passes = StepPasses({"online": net}, len(draw.t))
    objective = DistributionMatching.model_validate({"strength": 0})
    loss = objective.loss(passes.main(draw.point), draw, passes)
    assert draw.chance is not None
    s = over(0.02 + 0.96 * draw.chance, draw.x)
    x_hat = objective.jumps(net(draw.x_t, draw.t), draw)
    told = net((1 - s) * x_hat + s * draw.noise[0], s[:, 0])["fake"]
    torch.testing.assert_close(loss, (told - (draw.noise[0] - x_hat)).square().mean(1))


def stirred(settings: Experiment) -> Model:
    torch.manual_seed(0)
    model = settings.model_settings().build()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def test_who_learns_from_what() -> None:
    found = {}
    for strength in (0.0, 1.0):
        settings = Experiment.model_validate(
            TREE | {"objectives": {"fm": {"head": "v"}, "dmd": {"strength": strength}}}
        )
        model, composer = stirred(settings), settings.composer()
        draw = composer.draw(torch.randn(16, 2, generator=torch.Generator().manual_seed(1)), None, torch.Generator())
        composer.score({"online": model}, draw).terms["dmd"].share.backward()
        found[strength] = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    assert not any(
        value.any() for found in found.values() for name, value in found.items() if name.startswith("heads.v")
    )
    assert not any(value.any() for name, value in found[0.0].items() if name.startswith("heads.u"))
    assert all(value.any() for name, value in found[1.0].items() if name.startswith(("heads.u", "heads.fake", "trunk")))
    for name, value in found[0.0].items():
        if name.startswith("heads.fake"):  # it follows the samples and never moves them
            assert torch.equal(found[1.0][name], value)


class TestRefusals:
    def experiment(self, **changes: Any) -> Experiment:
        return Experiment.model_validate(TREE | {"objectives": {"cm": {}, "dmd": changes}})

    def test_it_needs_a_velocity(self) -> None:
        with pytest.raises(ValueError, match=r"objectives\.dmd needs a head that gives the velocity"):
            self.experiment()

    def test_a_teacher_has_to_be_named(self) -> None:
        with pytest.raises(ValueError, match=r"an objective needs a teacher; type teacher\.from=runs/NAME"):
            self.experiment(real="frozen")

    def test_a_model_with_a_fake_head_samples_with_others(self) -> None:
        settings = Experiment.model_validate(TREE | {"objectives": {"fm": {"head": "v"}, "dmd": {}}})
        assert settings.horizons == {"v": "instant", "u": "data", "fake": "fake"}
        for sampler in settings.evaluation.samplers(settings.horizons).values():
            walk = sampler(stirred(settings), torch.randn(4, 2))
            assert walk.samples.shape == (4, 2)


def test_the_generators_strength_follows_the_run() -> None:
    net = Shifted(0.7)
    start = draw_of(net)

    def loss(strength: Any, progress: float) -> Tensor:
        draw = start._replace(progress=progress)
        passes = StepPasses({"online": net}, len(draw.t))
        objective = DistributionMatching.model_validate({"strength": strength})
        return objective.loss(passes.main(draw.point), draw, passes).detach()

    rising = {"kind": "linear", "start": 0.0, "end": 1.0}
    torch.testing.assert_close(loss(rising, 0.25), loss(0.25, 0.0))


@pytest.mark.parametrize("real", ["online", "frozen"])
def test_the_velocity_of_the_data_is_asked_at_the_scale_that_holds_there(real: Any) -> None:
    """guidance=fed: inside the interval at the drawn scale, outside at 1; a teacher is told nothing."""

    class Fed(Shifted):
        def __init__(self) -> None:
            super().__init__(0.7)
            self.told = list[Tensor | None]()

        def __call__(self, *point: Any, g: Tensor | None = None, **more: Any) -> dict[str, Tensor]:
            self.told += [] if torch.is_grad_enabled() else [g]
            return super().__call__(*point, g=g, **more)

    net, teacher = Fed(), Fed()
    guide = torch.tensor([[4.0, 0.3, 0.6]]).expand(64, 3)
    draw = draw_of(net)._replace(g=guide)
    passes = StepPasses({"online": net, "frozen": teacher}, 64)
    DistributionMatching.model_validate({"real": real}).loss(passes.main(draw.point), draw, passes)
    if real == "frozen":
        assert (net.told, teacher.told) == ([], [None])
        return
    (told,) = net.told
    assert told is not None
    assert draw.chance is not None
    s = 0.02 + 0.96 * draw.chance
    assert torch.equal(told[:, 0], torch.where((s >= 0.3) & (s <= 0.6), 4.0, 1.0).to(told))
    assert (told[:, 1:] == torch.tensor([0.0, 1.0])).all()
