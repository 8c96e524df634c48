"""Data: batches are functions of (seed, index), laws have the moments and densities they claim, splits do not leak."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.data.base import Batch, Split
from genobj.data.digits import Digits
from genobj.data.mixture import Mixture
from genobj.data.table import Table
from genobj.data.toys import Checkerboard, Circles, Gaussians, Moons, SwissRoll, Toy
from genobj.parts import DATA
from genobj.paths.base import Path

TOYS = [name for name in DATA.names() if issubclass(DATA.get(name), Toy)]
HERE = [name for name in DATA.names() if DATA.get(name)().missing is None]
"""Data sets that need no files but their own."""
DENSITIES = [Moons(), Gaussians(), Checkerboard(), Circles(), Moons(noise=0.2), Gaussians(modes=3), Circles(inner=0.2)]


def joined(*batches: Batch) -> Tensor:
    return torch.cat([batch.x for batch in batches])


@pytest.mark.parametrize("name", HERE)
class TestEveryDataSet:
    def test_shapes(self, name: str) -> None:
        data = DATA.get(name)()
        source = data.open()
        for batch in (source.train(range(10, 17), 0), source.held_out(7, 0)):
            assert batch.x.shape == (7, *data.shape)
            assert batch.x.dtype == torch.float32
            assert batch.x.isfinite().all()
            assert (batch.y is None) == (data.classes == 0)
            if batch.y is not None:
                assert batch.y.shape == (7,)
                assert 0 <= batch.y.min() <= batch.y.max() < data.classes

    def test_a_sample_depends_on_seed_and_index_alone(self, name: str) -> None:
        source, again = DATA.get(name)().open(), DATA.get(name)().open()
        whole = source.train(range(250, 1750), 3)
        assert joined(*(again.train(range(first, first + 300), 3) for first in range(250, 1750, 300))).equal(whole.x)
        assert again.train(range(1437, 1438), 3).x.equal(whole.x[1187:1188])
        assert not source.train(range(250, 1750), 4).x.equal(whole.x)
        assert source.held_out(5, 1).x.equal(again.held_out(5, 1).x)
        assert not source.held_out(5, 1).x.equal(source.held_out(5, 2).x)

    def test_streams_share_no_sample(self, name: str) -> None:
        source = DATA.get(name)().open()
        train, held_out = source.train(range(1437), 0).x.flatten(1), source.held_out(360, 0).x.flatten(1)
        assert torch.cdist(train, held_out, compute_mode="donot_use_mm_for_euclid_dist").min() > 0

    def test_the_whole_is_all_rows_or_refused(self, name: str) -> None:
        """Finite data in the order of the file, shared out to ranks without a rest; fresh draws have no end."""
        source = DATA.get(name)().open()
        if not isinstance(source, Table):
            with pytest.raises(ValueError, match="draws fresh samples without end"):
                source.whole("train", 100)
            return
        assert source.unseen
        splits: tuple[tuple[Split, Batch], ...] = (("train", source.rows), ("held_out", source.rest))
        for split, rows in splits:
            assert joined(*source.whole(split, 100)).equal(rows.x)
            assert joined(*source.whole(split, 100, 1, 3)).equal(rows.x[1::3])

    def test_settings_survive_a_round_trip(self, name: str) -> None:
        data = DATA.get(name)()
        data.open().train(range(2), 0)
        assert type(data).model_validate(data.model_dump()) == data


@pytest.mark.parametrize("name", TOYS)
class TestToys:
    def test_moments_are_standard(self, name: str) -> None:
        x = DATA.get(name)().open().train(range(100_000), 0).x.double()
        assert x.mean(dim=0).abs().max() < 0.015
        assert abs(x.var(dim=0).mean() - 1) < 0.015

    def test_the_reference_is_a_third_stream(self, name: str) -> None:
        source = DATA.get(name)().open()
        assert torch.cdist(source.held_out(256, 0).x, source.reference(256, 0).x).min() > 0


def grid(law: Any, points: int = 160) -> tuple[Tensor, Tensor, float]:
    """Midpoints of a square grid whose lines include the edges of the checkerboard, log densities, area of a cell."""
    step = 4 * math.sqrt(3) / points
    line = (torch.arange(points, dtype=torch.float64) + 0.5 - points / 2) * step
    x = torch.cartesian_prod(line, line)
    return x, torch.cat([law.log_density(some) for some in x.split(2048)]), step**2


@pytest.mark.parametrize("law", DENSITIES, ids=repr)
def test_densities_integrate_to_one_and_are_standard(law: Any) -> None:
    x, density, cell = grid(law)
    mass = density.exp() * cell
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    assert (mass @ x).abs().max() < 1e-3
    assert float(mass @ x.square().mean(dim=1)) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("law", DENSITIES, ids=repr)
def test_draws_follow_their_density(law: Any) -> None:
    """The mean log density of draws is minus the entropy, which the grid gives independently."""
    _, density, cell = grid(law)
    entropy = -float((density.exp() * density.clamp(min=-1e9) * cell).sum())
    drawn = law.log_density(law.open().held_out(5000, 0).x.double())
    assert drawn.isfinite().all()
    assert -float(drawn.mean()) == pytest.approx(entropy, abs=0.05)


def test_the_swiss_roll_has_its_exact_moments() -> None:
    """Midpoint rule for the noiseless curve."""
    angle = math.pi * (1.5 + 3 * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    curve = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    raw = SwissRoll(noise=0).open().train(range(400_000), 0).x.double()
    spread = (curve.var(dim=0).mean()).sqrt()
    assert curve.mean(dim=0).allclose(torch.tensor([2.0, 2 / (3 * math.pi)], dtype=torch.float64), atol=1e-6)
    assert (raw.norm(dim=1).max() - ((curve - curve.mean(dim=0)) / spread).norm(dim=1).max()).abs() < 1e-3


class Cosine(Path):
    """noise_scale t^2, data_scale cos(t): nothing special about it, so no accident can make a test pass."""

    def noise_scale(self, t: Tensor) -> Tensor:
        return t**2

    def data_scale(self, t: Tensor) -> Tensor:
        return t.cos()

    def noise_rate(self, t: Tensor) -> Tensor:
        return 2 * t

    def data_rate(self, t: Tensor) -> Tensor:
        return -t.sin()


MIXTURE = Mixture(
    torch.tensor([[1.0, 0.3], [-0.5, 0.2], [0.1, -1.0]], dtype=torch.float64), torch.tensor([0.4, 0.25]).double()
)


def velocity(law: Any, path: Path, x_t: Tensor, t: Tensor) -> Tensor:
    return law.velocity(x_t, path.noise_scale(t), path.data_scale(t), path.noise_rate(t), path.data_rate(t))


def test_the_marginal_velocity_solves_the_continuity_equation() -> None:
    """d log p / dt + div v + v . grad log p = 0, with p_t written down as another mixture."""
    path = Cosine()

    def log_density(x: Tensor, t: Tensor) -> Tensor:
        total = path.noise_scale(t) ** 2 + (path.data_scale(t) * MIXTURE.scale) ** 2
        squared = (x - path.data_scale(t) * MIXTURE.centres).square()
        return (-squared / (2 * total)).sum(dim=1).logsumexp(dim=0) - total.log().sum() / 2

    def v(x: Tensor, t: Tensor) -> Tensor:
        return velocity(MIXTURE, path, x[None], t[None])[0]

    for x, t in zip(torch.randn(8, 2, dtype=torch.float64), torch.rand(8, dtype=torch.float64), strict=True):
        gradient, rate = torch.func.grad(log_density, argnums=(0, 1))(x, t)
        divergence = torch.func.jacrev(v)(x, t).trace()
        assert abs(rate + divergence + v(x, t) @ gradient) < 1e-9


def test_the_marginal_velocity_is_the_mean_of_pair_velocities() -> None:
    """Regressing pair velocities onto any function of x_t gives the same as regressing the marginal velocity."""
    path, law, source = Cosine(), Moons(), torch.Generator().manual_seed(0)
    x = law.draw(50_000, source).double()
    z, t = torch.randn(50_000, 2, generator=source).double(), torch.full((50_000,), 0.6).double()
    x_t = path.point(x, z, t)
    gap = path.velocity(x, z, t) - velocity(law, path, x_t, t)
    for probe in (torch.ones_like(x_t), x_t, (3 * x_t).sin(), x_t.flip(1).square()):
        assert (gap * probe).mean(dim=0).abs().max() < 0.02


def test_digits_split_is_fixed_stratified_and_without_overlap() -> None:
    source = Digits().open()
    train, held_out, every = source.train(range(1437), 0), source.held_out(1000, 0), source.reference(5, 0)
    assert (len(train.x), len(held_out.x), len(every.x)) == (1437, 360, 1797)
    assert every.x.min() == -1
    assert every.x.max() == 1
    rows = {tuple(row.tolist()) for row in every.x.flatten(1)}
    assert {tuple(row.tolist()) for row in joined(train, held_out).flatten(1)} == rows
    assert len(rows) == 1797
    assert train.y is not None
    assert held_out.y is not None
    assert every.y is not None
    shares = held_out.y.bincount() - every.y.bincount() / 5
    assert shares.abs().max() < 1


def test_unlabelled_digits_are_the_same_images() -> None:
    assert Digits(labelled=False).classes == 0
    bare, labelled = (Digits(labelled=flag).open().train(range(5, 14), 1) for flag in (False, True))
    assert bare.y is None
    assert bare.x.equal(labelled.x)


def numbered(count: int) -> Batch:
    return Batch(torch.arange(count).float()[:, None], torch.arange(count))


def test_every_epoch_is_a_new_permutation() -> None:
    table = Table(numbered(10), numbered(4))
    drawn = table.train(range(30), 7)
    assert drawn.y is not None
    assert drawn.x[:, 0].equal(drawn.y.float())
    epochs = drawn.y.view(3, 10)
    assert epochs.sort(dim=1).values.equal(torch.arange(10).expand(3, 10))
    assert not epochs[0].equal(epochs[1])
    crossing = table.train(range(8, 33), 7)
    assert crossing.x[:22].equal(drawn.x[8:])


def test_a_table_never_repeats_a_held_out_row() -> None:
    table = Table(numbered(10), numbered(6))
    few, all_of_them = table.held_out(4, 0), table.held_out(100, 0)
    assert len(few.x.unique()) == 4
    assert all_of_them.x.equal(numbered(6).x)
    assert len(table.reference(5, 0).x.unique()) == 5
    assert len(Table(numbered(10), numbered(6), numbered(9)).reference(2, 0).x) == 9
