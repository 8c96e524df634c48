"""CT: the grid and its index law, the formula in noise levels, exact flow maps, the decay that follows the grid."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from genobj import seeds
from genobj.objectives.consistency_training import ConsistencyTraining
from genobj.objectives.improved_consistency import ImprovedConsistency
from genobj.objectives.lower_noise import noise_level
from genobj.passes import StepPasses
from genobj.paths.linear import Linear
from genobj.schedules import Constant, Root
from genobj.testing import GaussianFlow
from genobj.times.karras_levels import KarrasLevels
from genobj.training.averages import EMA, Averages
from genobj.types import Draw, Horizon

N = 18


def _levels(count: int) -> Tensor:
    """sigma_1 to sigma_N as the paper writes them, float64."""
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    i = torch.arange(1, count + 1, dtype=torch.float64)
    return (low + (i - 1) / (count - 1) * (high - low)) ** 7


def _fixed(count: int) -> ConsistencyTraining:
    return ConsistencyTraining(levels=Constant(value=float(count)))


class Small(nn.Module):
    """A head that jumps to data, whose weights get gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.horizons: dict[str, Horizon] = {"u": "data"}
        self.sees_r: frozenset[str] = frozenset()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 16, dtype=torch.float64), nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"u": self.last(torch.tanh(self.first(torch.cat([x_t, t[:, None]], 1))))}


def _draw(t: Tensor) -> Draw:
    x, z = torch.randn(2, len(t), 3, dtype=torch.float64)
    path = Linear()
    return Draw(x, z, t, torch.zeros_like(t), path.point(x, z, t), z - x, z - x)


class TestTheGrid:
    def test_one_step_leads_from_level_to_level_and_from_the_second_to_the_data(self) -> None:
        levels = _levels(N)
        lower = _fixed(N).lower(levels, 0.0)
        torch.testing.assert_close(lower[2:], levels[1:-1])
        assert lower[:2].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("count", [2, 3, 18, 151, 1281])
    def test_so_it_does_from_the_times_that_are_drawn(self, count: int) -> None:
        """float32 times of the law, back to noise levels, one step down: nothing but the grid and 0."""
        law = KarrasLevels(levels=Constant(value=float(count)))
        t = law.sample(20_000, seeds.generator(0))
        levels = _levels(count)
        grid = (levels / (1 + levels)).float()
        assert torch.equal(t.unique(), grid[1:].unique()) if count < 1000 else torch.isin(t, grid).all()
        lower = _fixed(count).lower(noise_level(t), 0.0)
        index = torch.searchsorted(grid, t)
        expected = torch.where(index > 1, levels[index - 1], 0.0)
        torch.testing.assert_close(lower.double(), expected, rtol=2e-5, atol=0)

    def test_rho_and_whole_numbers_of_levels(self) -> None:
        """rho = 1 is an even grid, 1, 3, ..., 9, for a schedule's 5.9 levels as for 5."""
        even = {"rho": 1.0, "lowest": 1.0, "highest": 9.0}
        t = KarrasLevels.model_validate(even | {"levels": 5}).sample(4000, seeds.generator(0))
        assert (t / (1 - t)).unique().round(decimals=3).unique().tolist() == [3.0, 5.0, 7.0, 9.0]
        sigmas = torch.tensor([9.0, 7.0, 5.0, 3.0], dtype=torch.float64)
        for levels in (5, 5.9):
            lower = ConsistencyTraining.model_validate(even | {"levels": levels}).lower(sigmas, 0.0)
            torch.testing.assert_close(lower, torch.tensor([7.0, 5.0, 3.0, 0.0], dtype=torch.float64))

    def test_every_level_above_the_lowest_is_equally_likely(self) -> None:
        t = KarrasLevels(levels=Constant(value=6.0)).sample(50_000, seeds.generator(0))
        share = torch.stack([(t == level).float().mean() for level in t.unique()])
        assert len(share) == 5
        assert (share - 0.2).abs().max() < 4 * math.sqrt(0.16 / 50_000)

    def test_without_levels_any_in_between_is(self) -> None:
        t = KarrasLevels().sample(50_000, seeds.generator(0)).double()
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        share = ((t / (1 - t)) ** (1 / 7) - low) / (high - low)
        found = torch.histc(share, 10, 0, 1) / 50_000
        assert (found - 0.1).abs().max() < 4 * math.sqrt(0.09 / 50_000)

    def test_a_law_with_a_schedule_follows_the_run(self) -> None:
        law = KarrasLevels(levels=Root(start=2.0, end=11.0))
        seen = [len(law.at(progress).sample(4000, seeds.generator(0)).unique()) for progress in (0.0, 0.2, 1.0)]
        assert seen == [1, Root(start=2.0, end=11.0)(0.2) - 1, 10]
        assert KarrasLevels().at(0.5) == KarrasLevels()

    def test_levels_out_of_order_are_refused(self) -> None:
        for cls in (KarrasLevels, ConsistencyTraining, ImprovedConsistency):
            with pytest.raises(ValueError, match="lowest=2 must lie below highest=1; swap them"):
                cls.model_validate({"lowest": 2.0, "highest": 1.0})


class TestTheLoss:
    def test_it_is_the_formula_in_noise_levels(self) -> None:
        """OpenAI's form: y = x + sigma e, denoisers D at two neighbouring levels of the grid, mean of squares."""
        levels, net = _levels(N), Small()
        torch.manual_seed(2)
        index = torch.randint(2, N, (64,))  # the level below is above the lowest, where D is x itself
        sigma, below = levels[index], levels[index - 1]
        draw = _draw(sigma / (1 + sigma))

        def denoiser(level: Tensor) -> Tensor:
            state = draw.x + level[:, None] * draw.z
            t = level / (1 + level)
            x_t = state / (1 + level[:, None])
            return x_t - t[:, None] * net(x_t, t)["u"]

        passes = StepPasses({"online": net}, 64)
        losses = _fixed(N).loss(passes.main(draw.point), draw, passes)
        expected = (denoiser(sigma) - denoiser(below).detach()).square().mean(1)
        torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-14)
        ours = torch.autograd.grad(losses.mean(), list(net.parameters()))
        theirs = torch.autograd.grad(expected.mean(), list(net.parameters()))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-14)

    def test_at_the_second_level_the_target_is_the_data(self) -> None:
        sigma, net = _levels(N)[[1, 1, 1]], Small()
        draw, passes = _draw(sigma / (1 + sigma)), StepPasses({"online": net}, 3)
        out = passes.main(draw.point)
        losses = _fixed(N).loss(out, draw, passes)
        torch.testing.assert_close(losses, (draw.x_t - draw.t[:, None] * out["u"] - draw.x).square().mean(1))

    def test_the_average_can_be_the_target(self) -> None:
        net, average = Small(), Small()
        with torch.no_grad():
            average.last.bias.add_(1.0)
        sigma = _levels(N)[2:]
        draw, found = _draw(sigma / (1 + sigma)), []
        for weights in ("online", "ema"):
            passes = StepPasses({"online": net, "ema": average}, len(sigma))
            objective = ConsistencyTraining.model_validate({"levels": N, "weights": weights})
            assert objective.networks == {weights}
            found.append(objective.loss(passes.main(draw.point), draw, passes))
        assert (found[0] - found[1]).abs().min() > 0


class TestExact:
    def _residual(self, count: int, std: float) -> Tensor:
        flow, net = GaussianFlow(), GaussianFlow(std=std)
        t = torch.linspace(0.05, 0.95, 128, dtype=torch.float64)
        x_t = flow.scale(t)[:, None] * torch.randn(128, 3, dtype=torch.float64, generator=seeds.generator(0))
        v = flow.velocity(x_t, t)
        draw, passes = Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v), StepPasses({"online": net}, 128)
        return passes.main(draw.point)["u"] - _fixed(count).target(draw, passes)

    def test_the_flow_map_is_the_optimum_up_to_the_square_of_a_step(self) -> None:
        errors = [self._residual(count, 0.5).abs().max().item() for count in (321, 641, 1281)]
        assert all(abs(math.log2(a / b) - 2) < 0.15 for a, b in pairwise(errors)), errors

    def test_a_wrong_network_has_a_residual_of_first_order(self) -> None:
        right, wrong = (self._residual(1281, std).abs().mean() for std in (0.5, 0.8))
        assert wrong > 30 * right


class TestTheDecay:
    def test_it_is_that_of_the_paper(self) -> None:
        """mu(k) = exp(s_0 log(mu_0) / (N(k) - 1)): .81 for two levels, .9986 for 151."""
        net, levels = nn.Linear(1, 1, bias=False), Root(start=2.0, end=151.0)
        averages = Averages(net, EMA(decays=(0.9, 0.5), follows=levels, warmup=False))
        with torch.no_grad():
            net.weight.fill_(1.0)
            for progress in (0.0, 0.1, 1.0):
                for values in averages.values.values():
                    values["weight"].zero_()
                averages.update(1000, progress)
                kept = math.exp(2 * math.log(0.9) / (levels(progress) - 1))
                assert averages.values[0.9]["weight"].item() == pytest.approx(1 - kept, rel=1e-4)
                assert averages.values[0.5]["weight"].item() == pytest.approx(0.5)
        assert averages.named().keys() == {"ema_0.9", "ema_0.5"}

    def test_only_the_other_averages_warm_up(self) -> None:
        net = nn.Linear(1, 1, bias=False)
        averages = Averages(net, EMA(decays=(0.9, 0.5), follows=Constant(value=2.0)))
        before = {name: values["weight"].item() for name, values in averages.values.items()}
        with torch.no_grad():
            net.weight.add_(1.0)
        averages.update(0)
        moved = [values["weight"].item() - before[name] for name, values in averages.values.items()]
        assert moved == pytest.approx([1 - 0.81, 0.9])

    def test_unset_it_leaves_the_hash_of_a_run_alone(self) -> None:
        assert "follows" not in EMA().model_dump(mode="json", exclude_none=True)
