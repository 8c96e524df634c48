"""IMM: exact flow maps are its optimum, the formulas in other words, groups of rows that share their times."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genobj import seeds
from genobj.experiment import Experiment
from genobj.objectives.moment_matching import MomentMatching
from genobj.passes import StepPasses
from genobj.paths.linear import Linear
from genobj.reading import reading
from genobj.testing import GaussianFlow
from genobj.times.grouped import Grouped
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon, over

HALF = Linear(noise_std=0.5)
SIZE, GROUPS = 4, 6


class Small(nn.Module):
    """A network of r with a horizon, whose weights get gradients."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.horizons: dict[str, Horizon] = {"u": "interval"}
        self.sees_r = frozenset({"u"})
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 16, dtype=dtype), nn.Linear(16, 3, dtype=dtype)

    def forward(self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        assert r is not None
        told = torch.cat([x_t, t[:, None], (t - r)[:, None]], 1)
        return {"u": self.last(torch.tanh(self.first(told)))}


def _draw(groups: int, size: int, t: Tensor, r: Tensor, dtype: torch.dtype = torch.float64) -> Draw:
    """Data and noise of deviation 1/2; t and r of groups, as often as they have rows."""
    torch.manual_seed(1)
    x, z = 0.5 * torch.randn(groups * size, 3, dtype=dtype), torch.randn(groups * size, 3, dtype=dtype)
    t, r = t.to(dtype).repeat(size), r.to(dtype).repeat(size)
    v = HALF.velocity(x, z, t)
    return Draw(x, z, t, r, HALF.point(x, z, t), v, v, together=size)


def _rows(draw: Draw, rows: Tensor) -> Draw:
    x, z, t, r, x_t, v = (value[rows] for value in (draw.x, draw.z, draw.t, draw.r, draw.x_t, draw.v_t))
    return Draw(x, z, t, r, x_t, v, v, together=SIZE)


def _losses(objective: MomentMatching, net: Any, draw: Draw) -> Tensor:
    passes = StepPasses({"online": net}, len(draw.t))
    return objective.loss(passes.main(draw.point), draw, passes)


class TestTheOptimum:
    times = torch.tensor([0.4, 0.6, 0.9]), torch.tensor([0.0, 0.2, 0.3])

    def test_exact_flow_maps_agree_in_distribution_and_wrong_ones_do_not(self) -> None:
        """The same kernel without the terms j = l: unbiased, so that it is about 0 where distributions agree."""
        size = 1024
        objective, draw = MomentMatching(head="w", k=4.0), _draw(3, size, *self.times)

        def unbiased(std: float) -> Tensor:
            passes = StepPasses({"online": GaussianFlow(HALF, std)}, len(draw.t))
            y, other = (v.unflatten(0, (size, -1)) for v in objective.ends(passes.main(draw.point), draw, passes))
            width = 3 * 0.5 * (self.times[0] - self.times[1])

            def mean(a: Tensor, b: Tensor, g: int) -> Tensor:
                kernel = torch.exp(-torch.cdist(a[:, g], b[:, g]) / width[g])
                return (kernel.sum() - kernel.diag().sum()) / (size * (size - 1))

            return torch.stack([mean(y, y, g) + mean(other, other, g) - 2 * mean(y, other, g) for g in range(3)])

        right, wrong, worse = (unbiased(std) for std in (0.5, 0.8, 0.2))
        assert right.abs().max() < 5e-4, right
        assert (wrong > 1e-3).all(), wrong
        assert (worse > 1e-2).all(), worse

    def test_the_loss_of_exact_flow_maps_falls_with_the_size_of_groups(self) -> None:
        """Diagonals leave 1 / M of the kernel; what is wrong stays."""
        falls = []
        for std in (0.5, 0.2):
            net = GaussianFlow(HALF, std)
            small, large = (
                _losses(MomentMatching(head="w", k=4.0), net, _draw(3, size, *self.times))[:3] for size in (128, 512)
            )
            falls.append(small / large)
        assert ((falls[0] > 2.5) & (falls[0] < 8)).all(), falls
        assert (falls[1] < 1.5).all(), falls

    def test_where_q_is_t_nothing_is_compared(self) -> None:
        draw = _draw(GROUPS, SIZE, torch.linspace(0.1, 0.9, GROUPS), torch.full((GROUPS,), 0.05), torch.float32)
        net = Small(torch.float32)
        objective = MomentMatching(k=60.0, gap=0.0)
        assert torch.equal(objective.earlier(draw.t, draw.r), draw.t)
        losses = _losses(objective, net, draw)
        assert losses.abs().max() < 1e-5
        losses.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

    def test_where_r_is_t_nothing_is_compared(self) -> None:
        t, net = torch.tensor([0.0, 0.2, 0.5, 0.9, 0.994, 1.0]), Small(torch.float32)
        losses = _losses(MomentMatching(), net, _draw(GROUPS, SIZE, t, t, torch.float32))
        assert losses.abs().max() < 1e-5
        losses.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

    def test_the_ends_of_the_way_are_finite(self) -> None:
        t, net = torch.tensor([1e-6, 1e-4, 0.5, 0.999, 1.0, 1.0]), Small(torch.float32)
        losses = _losses(MomentMatching(a=1.0), net, _draw(GROUPS, SIZE, t, t / 2, torch.float32))
        assert losses.isfinite().all()
        losses.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

    def test_equal_samples_have_finite_gradients(self) -> None:
        """Rows of a group that are the same give distances of zero off the diagonal too."""
        draw, net = _draw(1, SIZE, torch.tensor([0.7]), torch.tensor([0.1])), Small()
        draw = _rows(draw, torch.zeros(SIZE, dtype=torch.long))
        losses = _losses(MomentMatching(), net, draw)
        losses.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_neighbour_lies_along_the_guided_velocity() -> None:
    class Asked(Small):
        def forward(self, x_t: Tensor, t: Tensor, **more: Any) -> dict[str, Tensor]:
            self.last_asked = x_t, t
            return super().forward(x_t, t, **more)

    t, net = torch.linspace(0.1, 0.9, GROUPS), Asked()
    draw = _draw(GROUPS, SIZE, t, 0 * t)
    draw = draw._replace(v_t=draw.v_path + 1)
    _losses(MomentMatching(k=6.0), net, draw)
    x_q, q = net.last_asked
    assert (q < draw.t).all()
    torch.testing.assert_close(x_q, draw.x_t - over(draw.t - q, draw.x_t) * draw.v_t)


def test_the_range_of_eta_is_shared_by_the_steps() -> None:
    t = torch.tensor([0.5], dtype=torch.float64)
    q = MomentMatching(k=4.0, eta_range=8.0, gap=0.0).earlier(t, 0 * t)
    torch.testing.assert_close(q / (1 - q), torch.tensor([1 - 8 / 16], dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["flow", "edm"])
def test_the_loss_is_the_formula(kernel: Any) -> None:
    """Written once more, pair by pair, with the weight as the paper has it."""
    a, b, k, sigma = 2.0, 4.0, 9.0, 0.5
    objective = MomentMatching(a=a, b=b, k=k, kernel=kernel, gap=1e-3, sigma_data=sigma)
    t = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.99], dtype=torch.float64)
    draw, net = _draw(GROUPS, SIZE, t, t / 3), Small()
    losses = _losses(objective, net, draw)
    for g in range(GROUPS):
        rows = range(g, SIZE * GROUPS, GROUPS)
        s, r = t[g].item(), draw.r[g].item()
        eta = s / (1 - s) - 160 / 2**k
        q = max(r, min(max(eta, 0) / (1 + max(eta, 0)), s - 1e-3))
        here, there = [], []
        for i in rows:
            one = torch.full((1,), 1.0, dtype=torch.float64)
            at = HALF.point(draw.x[[i]], draw.z[[i]], q * one)
            here.append(draw.x_t[[i]] - (s - r) * net(draw.x_t[[i]], s * one, r=r * one)["u"])
            there.append(at - (q - r) * net(at, q * one, r=r * one)["u"])
        width = (s - r) * sigma / (math.sqrt(s**2 + (1 - s) ** 2) if kernel == "edm" else 1)

        def mean(first: list[Tensor], second: list[Tensor], width: float = width) -> float:
            found = [math.exp(-max((p - q).norm().item(), 1e-8) / (3 * width)) for p in first for q in second]
            return sum(found) / len(found)

        log_snr = 2 * math.log((1 - s) / s)
        weight = 0.5 / (1 + math.exp(log_snr - b)) * 2 / (s * (1 - s)) * (1 - s) ** a / (s**2 + (1 - s) ** 2)
        expected = weight * (mean(here, here) + mean(there, there) - 2 * mean(here, there))
        assert [losses[i].item() for i in rows] == pytest.approx([expected] * SIZE, rel=1e-10)


def test_neighbours_keep_their_distance_in_float32() -> None:
    """At k = 15 and t = .99 they are 5e-7 apart, eight numbers of float32."""
    t = torch.tensor([0.5, 0.9, 0.99], dtype=torch.float32)
    exact = t.double() / (1 - t.double()) - 160 / 2**15
    q = MomentMatching(k=15.0, gap=0.0).earlier(t, torch.zeros(3))
    assert (q < t).all()
    assert ((exact / (1 + exact)) - q.double()).abs().max() < 6e-8


def test_the_loss_does_not_depend_on_the_order_in_a_group() -> None:
    draw, net = _draw(GROUPS, SIZE, torch.linspace(0.2, 0.9, GROUPS), torch.full((GROUPS,), 0.1)), Small()
    turned = _rows(draw, torch.arange(SIZE * GROUPS).roll(GROUPS))
    torch.testing.assert_close(_losses(MomentMatching(), net, turned), _losses(MomentMatching(), net, draw))


def test_rows_that_are_no_whole_groups_are_refused() -> None:
    draw = _draw(1, 6, torch.tensor([0.5]), torch.tensor([0.1]))._replace(together=4)
    with pytest.raises(ValueError, match="6 rows at once are no whole groups of 4; type another batch"):
        _losses(MomentMatching(), Small(), draw)


class TestGroups:
    def test_rows_a_number_of_groups_apart_share_their_times(self) -> None:
        t, r = Grouped(size=4).sample(Uniform(), 32, seeds.generator(0))
        assert torch.equal(t, t[:8].repeat(4))
        assert torch.equal(r, r[:8].repeat(4))
        assert len(t.unique()) == 8

    @pytest.mark.parametrize("parts", [2, 4])
    def test_parts_of_a_batch_keep_groups_whole(self, parts: int) -> None:
        t, _ = Grouped(size=4).sample(Uniform(), 32, seeds.generator(0))
        for part in range(parts):
            own = t[part::parts]
            assert torch.equal(own, own[: len(own) // 4].repeat(4))

    def test_times_follow_the_law(self) -> None:
        t, r = Grouped(size=2, low=0.1, high=0.6).sample(Uniform(), 40_000, seeds.generator(0))
        t, r = t[:20_000], r[:20_000]
        assert 0.1 <= t.min() < 0.101
        assert 0.599 < t.max() <= 0.6
        assert t.mean().item() == pytest.approx(0.35, abs=4 * 0.5 / math.sqrt(12 * 20_000))
        share = (r - 0.1) / (t - 0.1)
        assert ((share >= 0) & (share <= 1)).all()
        assert share.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 20_000))
        assert abs(torch.corrcoef(torch.stack([share, t]))[0, 1]) < 4 / math.sqrt(20_000)

    def test_equal_shares_are_of_groups(self) -> None:
        t, r = Grouped(size=4, equal_share=0.5).sample(Uniform(), 4000, seeds.generator(0))
        same = t == r
        assert torch.equal(same, same[:1000].repeat(4))
        assert same.float().mean().item() == pytest.approx(0.5, abs=0.07)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"low": 0.9, "high": 0.5}, "low=0.9 must lie below high=0.5; swap them"),
            ({"share_by": "prefix"}, "type pairs.share_by=bernoulli"),
            ({"size": 1}, "size"),
        ],
    )
    def test_mistakes(self, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Grouped.model_validate(settings)

    def test_batches_without_whole_groups_are_refused(self) -> None:
        assert Grouped(size=4).refusal(30) == "30 rows are no whole groups of 4; type train.batch=28"
        assert Grouped(size=4).refusal(32) is None
        with pytest.raises(ValueError, match="no whole groups"):
            Grouped(size=4).sample(Uniform(), 30, seeds.generator(0))


def test_the_map_under_edm_reading_is_the_papers() -> None:
    """simple_edm: y = c_s x_t + c_o F; our head under reading=edm is it, up to the sign of F."""
    t, r = torch.linspace(0.05, 0.95, 7, dtype=torch.float64), torch.linspace(0.0, 0.6, 7, dtype=torch.float64)
    r = torch.minimum(r, t / 2)
    x_t, answer = torch.randn(2, 7, 3, dtype=torch.float64)
    read = reading("edm", HALF)
    assert read is not None
    y = x_t - over(t - r, x_t) * read.line(t).velocity(answer, x_t)
    norm = (1 - t).square() + t.square()
    skip, out = ((1 - t) * (1 - r) + t * r) / norm, (t - r) * 0.5 / norm.sqrt()
    torch.testing.assert_close(y, over(skip, x_t) * x_t + over(out, x_t) * answer)


class TestInARun:
    def test_parts_of_a_batch_make_its_loss(self) -> None:
        """Two devices, or two micro-batches, see every other row: groups stay whole, and the mean is that of all."""
        plan = Experiment.model_validate({"objectives": "imm", "pairs": "grouped", "train": {"batch": 16}})
        composer, net = plan.composer(), plan.model_settings().build()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=seeds.generator(5)))
        x = torch.randn(16, 2, generator=seeds.generator(1))

        def loss(part: int, parts: int) -> float:
            own = x[part::parts]
            return composer({"online": net}, own, None, seeds.generator(2), 0.0, part, parts).total.item()

        assert (loss(0, 2) + loss(1, 2)) / 2 == pytest.approx(loss(0, 1), rel=1e-5)
        assert loss(0, 1) > 0
        with pytest.raises(ValueError, match="cut the groups of 4 that share"):
            loss(0, 8)

    def test_a_micro_batch_that_cuts_groups_is_told_one_that_does_not(self) -> None:
        def built(micro: int) -> Experiment:
            train = {"batch": 20, "micro_batch": micro}
            return Experiment.model_validate({"objectives": "imm", "pairs": "grouped", "train": train})

        with pytest.raises(ValueError, match=r"cut the groups of 4 .*; type train\.micro_batch=4, or a train\.batch"):
            built(10)
        assert built(4).train.rounds() == 5

    def test_it_asks_for_groups(self) -> None:
        with pytest.raises(ValueError, match="type pairs=grouped"):
            Experiment.model_validate({"objectives": "imm"})
        with pytest.raises(ValueError, match=r"pairs: 30 rows are no whole groups of 4; type train\.batch=28"):
            Experiment.model_validate({"objectives": "imm", "pairs": "grouped", "train": {"batch": 30}})
