"""Metrics: brute force on few points, closed forms on Gaussians, the order of better and worse samples."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from genobj.data.base import Batch
from genobj.data.digits import Digits
from genobj.metrics import extractor, pairwise
from genobj.metrics.accuracy import Accuracy
from genobj.metrics.energy import Energy
from genobj.metrics.frechet import Frechet, frechet_distance, moments
from genobj.metrics.mmd import MMD
from genobj.metrics.wasserstein import SlicedWasserstein, Wasserstein
from genobj.parts import DATA, METRICS

CLOUD_METRICS: list[Any] = [MMD(), MMD(biased=True), Energy(), Energy(biased=True), SlicedWasserstein(), Wasserstein()]
clouds = pytest.mark.parametrize("metric", CLOUD_METRICS, ids=repr)


def batch(x: Tensor, y: Tensor | None = None) -> Batch:
    return Batch(x, y)


def normal(count: int, dim: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class TestEveryMetric:
    @pytest.mark.parametrize("name", METRICS.names())
    def test_says_how_to_read_it(self, name: str) -> None:
        cls = METRICS.get(name)
        assert cls.title
        assert cls.factor > 0
        assert cls() == cls.model_validate(cls().model_dump())

    @clouds
    def test_orders_worse_samples(self, metric: Any) -> None:
        moons = DATA.get("moons")().open()
        good, reference = moons.held_out(400, 0), moons.reference(400, 0)
        values = [metric(batch(good.x + s * normal(400).float()), reference, 0) for s in (0.0, 0.3, 1.0)]
        values.append(metric(batch(good.x + 3), reference, 0))
        assert values == sorted(values)
        assert values[0] < values[-1] / 10

    @clouds
    def test_symmetric(self, metric: Any) -> None:
        x, y = batch(normal(60)), batch(normal(60, seed=1) + 0.5)
        assert metric(x, y, 0) == pytest.approx(metric(y, x, 0), rel=1e-12)

    @clouds
    def test_order_of_samples_is_irrelevant(self, metric: Any) -> None:
        x, y = normal(700), batch(normal(700, seed=1) + 0.5)
        shuffled = x[torch.randperm(700)]
        assert metric(batch(x), y, 0) == pytest.approx(metric(batch(shuffled), y, 0), rel=1e-9)

    @clouds
    def test_single_precision_is_enough(self, metric: Any) -> None:
        x, y = normal(600, dtype=torch.float32), normal(600, seed=1, dtype=torch.float32) + 0.1
        exact = metric(batch(x.double()), batch(y.double()), 0)
        assert metric(batch(x), batch(y), 0) == pytest.approx(exact, rel=1e-4, abs=1e-6)

    @clouds
    def test_images_are_flattened(self, metric: Any) -> None:
        x, y = normal(30, 27), normal(30, 27, seed=1)
        images = metric(batch(x.view(30, 3, 3, 3)), batch(y.view(30, 3, 3, 3)), 0)
        assert images == metric(batch(x), batch(y), 0)

    @clouds
    def test_broken_samples_are_not_a_number(self, metric: Any) -> None:
        x = normal(20)
        x[3, 1] = math.nan
        assert math.isnan(metric(batch(x), batch(normal(20)), 0))

    @clouds
    def test_refuses_what_cannot_be_compared(self, metric: Any) -> None:
        with pytest.raises(ValueError, match=r"samples are shaped \(2,\), reference \(3,\)"):
            metric(batch(normal(5)), batch(normal(5, 3)), 0)
        with pytest.raises(ValueError, match="at least two"):
            metric(batch(normal(1)), batch(normal(5)), 0)

    @pytest.mark.parametrize("name", ["mmd", "energy"])
    def test_the_unbiased_floor_is_zero_on_average(self, name: str) -> None:
        moons, metric = DATA.get("moons")().open(), METRICS.get(name)()
        values = torch.tensor([metric(moons.held_out(200, s), moons.reference(200, s), 0) for s in range(40)])
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(40)


def brute(x: Tensor, y: Tensor, kernel: Any, biased: bool) -> float:
    def mean(a: Tensor, b: Tensor, skip: bool) -> float:
        values = [
            kernel(float((a[i] - b[j]).square().sum()))
            for i, j in itertools.product(range(len(a)), range(len(b)))
            if not (skip and i == j)
        ]
        return sum(values) / len(values)

    return mean(x, x, not biased) + mean(y, y, not biased) - 2 * mean(x, y, False)


@pytest.mark.parametrize("biased", [False, True])
def test_mmd_and_energy_equal_their_double_sums(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(13, 3), normal(9, 3, seed=1) + 0.3

    def gaussians(squared: float) -> float:
        return (math.exp(-squared / 0.5) + math.exp(-squared / 8)) / 2

    expected = brute(x, y, gaussians, biased), brute(x, y, lambda squared: -math.sqrt(squared), biased)
    for tile, few in ((4, 16), (512, 16), (5, 0)):
        monkeypatch.setattr(pairwise, "TILE", tile)
        monkeypatch.setattr(pairwise, "FEW", few)
        assert MMD(bandwidths=(0.5, 2), biased=biased)(batch(x), batch(y), 0) == pytest.approx(expected[0], rel=1e-11)
        assert Energy(biased=biased)(batch(x), batch(y), 0) == pytest.approx(expected[1], rel=1e-11)


def test_energy_of_two_points() -> None:
    """Point masses a distance 5 apart: 2 * 5 - 0 - 0."""
    x, y = torch.zeros(3, 2), torch.tensor([[3.0, 4.0]]).expand(4, 2)
    assert Energy()(batch(x), batch(y), 0) == pytest.approx(10)


def test_mmd_of_gaussians_has_its_closed_form() -> None:
    """E k(X, Y) of N(a, I), N(b, I) in 2-D is s^2 / (s^2 + 2) exp(-|a - b|^2 / (2 (s^2 + 2)))."""
    s, shift = 0.7, 1.0
    same = s**2 / (s**2 + 2)
    expected = 2 * same * (1 - math.exp(-(shift**2) / (2 * (s**2 + 2))))
    x, y = normal(3000), normal(3000, seed=1) + torch.tensor([shift, 0.0])
    assert MMD(bandwidths=(s,))(batch(x), batch(y), 0) == pytest.approx(expected, rel=0.08)


def test_wasserstein_finds_the_best_assignment() -> None:
    x, y = normal(6), normal(6, seed=1)
    best = min(float((x - y[list(order)]).square().sum()) for order in itertools.permutations(range(6)))
    assert Wasserstein()(batch(x), batch(y), 0) == pytest.approx(math.sqrt(best / 6))


@pytest.mark.parametrize("metric", [SlicedWasserstein(projections=4000), Wasserstein()], ids=["sliced", "exact"])
def test_wasserstein_of_a_shift(metric: Any) -> None:
    """A shift by c costs |c|; seen from random directions in d dimensions |c| / sqrt(d)."""
    x, sliced = normal(50), isinstance(metric, SlicedWasserstein)
    value = metric(batch(x), batch(x + torch.tensor([3.0, 4.0])), 0)
    assert value == pytest.approx(5 / math.sqrt(2) if sliced else 5, rel=0.03 if sliced else 1e-12)


def test_wasserstein_limit_is_a_seeded_choice() -> None:
    x, y = batch(normal(90)), batch(normal(70, seed=1))
    metric = Wasserstein(limit=30)
    assert metric(x, y, 0) == metric(x, y, 0)
    assert metric(x, y, 0) != metric(x, y, 1)
    assert metric(x, x, 0) > 0, "two sides are chosen independently"


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 6), (7, 3), (1, 5)])
def test_sliced_distance_of_unequal_sets_is_exact(n: int, m: int) -> None:
    """Repeating every point until both sets have n m points changes neither law."""
    from genobj.metrics.wasserstein import line_costs

    x, y = normal(n, 3), normal(m, 3, seed=1)
    x_all, y_all = x.repeat_interleave(m, 0).sort(dim=0).values, y.repeat_interleave(n, 0).sort(dim=0).values
    assert line_costs(x, y).allclose((x_all - y_all).square().mean(dim=0), rtol=1e-12)


def covariance(dim: int, seed: int) -> Tensor:
    root = normal(dim, dim, seed)
    return root @ root.T / dim


def test_frechet_distance_of_gaussians() -> None:
    """Commuting covariances: |m1 - m2|^2 + sum of (s1 - s2)^2, in any common basis; rank-deficient ones too."""
    s1, s2 = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([0.5, 3.0, 0.7]).double()
    turn = torch.linalg.qr(normal(3, 3)).Q
    cov1, cov2 = (turn @ (s**2).diag() @ turn.T for s in (s1, s2))
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    expected = float(shift.square().sum() + (s1 - s2).square().sum())
    assert frechet_distance(shift, cov1, shift * 0, cov2) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(shift, cov1, shift, cov1) == pytest.approx(0, abs=1e-7)


def test_frechet_distance_agrees_with_scipy_and_is_symmetric() -> None:
    from scipy.linalg import sqrtm

    mean, cov1, cov2 = normal(6, 1)[:, 0], covariance(6, 1), covariance(6, 2)
    root = torch.as_tensor(np.real(sqrtm((cov1 @ cov2).numpy())))
    expected = float(mean.square().sum() + (cov1 + cov2 - 2 * root).trace())
    assert frechet_distance(mean, cov1, mean * 0, cov2) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(mean * 0, cov2, mean, cov1) == pytest.approx(expected, rel=1e-9)


def test_moments_are_numpys() -> None:
    x = normal(20, 4) + 100
    found = moments(x)
    assert found.covariance.allclose(x.T.cov(), rtol=1e-12)
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        moments(x[:1])


@pytest.fixture(scope="module")
def sets() -> dict[str, Batch]:
    source = Digits().open()
    every = source.reference(1, 0)
    assert every.y is not None
    means = torch.stack([every.x[every.y == label].mean(dim=0) for label in range(10)])
    return {
        "all": every,
        "train": source.train(range(1437), 0),
        "held_out": source.held_out(360, 0),
        "means": batch(means[every.y], every.y),
        "noise": batch(normal(1797, 64, dtype=torch.float32).view(-1, 1, 8, 8), every.y),
    }


class TestDigits:
    def test_the_classifier_is_as_good_as_it_says(self, sets: dict[str, Batch]) -> None:
        accuracy = Accuracy()(sets["held_out"], sets["all"], 0)
        with safe_open(extractor.WEIGHTS, "pt") as file:
            facts = json.loads(file.metadata()["figures"])
        assert accuracy >= 0.97
        assert accuracy == pytest.approx(facts["held_out_accuracy"], abs=0.003)
        assert Accuracy()(sets["noise"], sets["all"], 0) < 0.2

    @pytest.mark.parametrize(
        ("samples", "reference", "expected"),
        [("held_out", "train", 9.362), ("held_out", "all", 6.052), ("means", "all", 221.8), ("noise", "all", 1751.5)],
    )
    def test_reference_figures(self, sets: dict[str, Batch], samples: str, reference: str, expected: float) -> None:
        tolerance = 0.05 if samples == "noise" else 0.002
        assert Frechet()(sets[samples], sets[reference], 0) == pytest.approx(expected, rel=tolerance)

    def test_frechet_is_zero_on_itself_and_blind_to_order(self, sets: dict[str, Batch]) -> None:
        every = sets["all"]
        assert Frechet()(every, every, 0) == pytest.approx(0, abs=1e-4)
        shuffled = batch(every.x[torch.randperm(len(every.x))])
        value = Frechet()(sets["held_out"], every, 0)
        assert Frechet()(sets["held_out"], shuffled, 0) == pytest.approx(value, rel=1e-5)

    def test_broken_images_are_not_a_number(self, sets: dict[str, Batch]) -> None:
        assert math.isnan(Frechet()(batch(sets["all"].x / 0), sets["all"], 0))

    @pytest.mark.parametrize("cls", [Frechet, Accuracy])
    def test_other_data_is_refused(self, cls: type[Frechet] | type[Accuracy]) -> None:
        assert cls().refusal((1, 8, 8), 10) is None
        digits = cls(extractor=extractor.DigitsExtractor())
        for shape, metric, says in (
            ((2,), digits, "use data = 'digits'"),
            ((3, 32, 32), digits, "use data = 'digits'"),
            ((2,), cls(), "a metric of raw samples"),
            ((3, 32, 32), cls(), "--extractor FOLDER"),
        ):
            refusal = metric.refusal(shape, 10)
            assert refusal is not None
            assert says in refusal

    def test_accuracy_needs_labels(self, sets: dict[str, Batch]) -> None:
        refusal = Accuracy().refusal((1, 8, 8), 0)
        assert refusal is not None
        assert "type data.labels=10 or data.labelled=true" in refusal
        assert "--extractor FOLDER, a network of these data" in str(Accuracy().refusal((1, 8, 8), 7))
        assert Frechet().refusal((1, 8, 8), 0) is None
        with pytest.raises(ValueError, match="needs samples with labels"):
            Accuracy()(sets["all"]._replace(y=None), sets["all"], 0)

    def test_toys_refuse_nothing(self) -> None:
        assert all(metric.refusal((2,), 0) is None for metric in CLOUD_METRICS)
