"""Evaluation: scores on features, reference files, extractors, several processes, records that say how they came."""

import json
import math
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from genobj import autoencoders
from genobj.autoencoders import Autoencoder
from genobj.cli.main import run
from genobj.data.base import Batch, Data, Split
from genobj.data.digits import Digits
from genobj.data.folders import FolderImages
from genobj.data.latents import Latents
from genobj.data.table import Table, take
from genobj.evaluation import Evaluation, Generator, Scorer, shown
from genobj.experiment import Experiment
from genobj.images import SLACK, from_uint8, to_uint8
from genobj.metrics import real, references, stored
from genobj.metrics.extractor import DigitsExtractor
from genobj.metrics.features import Look, Seen, Space, Spread, observed
from genobj.metrics.frechet import FID, Frechet, SpatialFID, frechet_distance, moments
from genobj.metrics.inception import Inception
from genobj.metrics.inception_score import InceptionScore, inception_score
from genobj.metrics.kid import KID, kernel_distance
from genobj.metrics.learning import Training, moved, train
from genobj.metrics.mmd import MMD
from genobj.metrics.prdc import PRDC, distances
from genobj.metrics.records import Record, comparable, read_records
from genobj.metrics.statistics import statistics
from genobj.metrics.team import Team
from genobj.metrics.trained import Trained
from genobj.precision import exactly

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestRounding:
    def test_levels_come_back(self) -> None:
        levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
        for rounding in ("truncate", "round", "floor"):
            assert to_uint8(from_uint8(levels), rounding).equal(levels)
            assert to_uint8((levels.float() / 255 - 0.5) / 0.5, rounding).equal(levels), "torchvision's way"

    def test_modes_are_the_fields_own(self) -> None:
        x = torch.linspace(-1.2, 1.2, 4001)[:, None]
        assert to_uint8(x).equal((127.5 * x + 128).clamp(0, 255).to(torch.uint8))
        exact = (255 * (x.double().clamp(-1, 1) + 1) / 2 + SLACK).floor().clamp(0, 255).to(torch.uint8)
        assert to_uint8(x, "floor").equal(exact)
        assert to_uint8(x, "round").equal(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
        half = (to_uint8(x).double() - to_uint8(x, "floor").double()).mean()
        assert 0.4 < half < 0.5, "half a level darker, except where images are clipped"


class TestFrechet:
    @pytest.mark.parametrize(("n", "dim"), [(200, 12), (20, 32), (9, 9)])
    def test_equals_scipy_and_torch_fidelity(self, n: int, dim: int) -> None:
        """n < dim: covariances without full rank, the case in which square roots of products go wrong."""
        from scipy.linalg import sqrtm
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        x, y = normal(n, dim), normal(n, dim, seed=1) @ (normal(dim, dim, seed=2) / 3) + 0.3
        found = frechet_distance(*moments(x), *moments(y))
        stats = [fid_features_to_statistics(rows) for rows in (x, y)]
        theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
        assert found == pytest.approx(theirs, rel=1e-6)
        (mean1, cov1), (mean2, cov2) = moments(x), moments(y)
        root = torch.as_tensor(np.real(sqrtm((cov1 @ cov2).numpy())))
        expected = float((mean1 - mean2).square().sum() + (cov1 + cov2 - 2 * root).trace())
        assert found == pytest.approx(expected, rel=1e-6)

    def test_nearly_singular_covariances_have_their_closed_form(self) -> None:
        s1, s2 = torch.logspace(0, -8, 30).double(), torch.logspace(-8, 0, 30).double()
        turn = torch.linalg.qr(normal(30, 30)).Q
        cov1, cov2 = (turn @ (s**2).diag() @ turn.T for s in (s1, s2))
        expected = float((s1 - s2).square().sum())
        assert frechet_distance(s1 * 0, cov1, s1 * 0, cov2) == pytest.approx(expected, rel=1e-6)

    def test_what_is_not_finite_is_not_a_number(self) -> None:
        assert math.isnan(frechet_distance(*moments(normal(9, 3) / 0), *moments(normal(9, 3))))


class TestStreams:
    def test_batches_make_the_moments_of_the_whole(self) -> None:
        x = normal(500, 7) * 1e-3 + 1000  # sums of squares would lose the covariance
        spread = Spread()
        for rows in x.split([1, 100, 0, 399]):
            spread.add(rows)
        found = spread.moments()
        assert found.mean.allclose(x.mean(0), rtol=1e-14)
        assert found.covariance.allclose(x.T.cov(), rtol=1e-9)

    @pytest.mark.parametrize("world", [2, 3])
    def test_statistics_are_the_same_for_any_number_of_processes(self, world: int) -> None:
        source, space = Digits().open(), DigitsExtractor().open(CPU)
        alone = statistics(source, "train", space, features=50)
        shared = together(world, lambda team: statistics(source, "train", space, features=50, team=team))
        assert alone is not None
        assert alone.moments is not None
        assert shared.n == alone.n == 1437
        for mine, theirs in zip(shared.moments, alone.moments, strict=True):
            assert mine.allclose(theirs, rtol=1e-5, atol=1e-6)
        assert alone.features is not None
        assert alone.features.shape == (50, 64)
        assert shared.features.allclose(alone.features, atol=1e-4)
        assert not alone.features.allclose(source_features(source, space)[:50]), "a choice, not the first rows"

    def test_skipped_rows_change_the_choice_for_nobody(self) -> None:
        """Processes number sound rows, and each skips others."""

        class Holed(Table):
            def whole(self, split: Split, chunk: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
                sound = [row for row in range(rank, len(self.rows.x), world) if row % 7 != 3]
                for rows in torch.tensor(sound).split(chunk):
                    yield take(self.rows, rows)

        source, space = Holed(Digits().open().rows, Digits().open().rest), DigitsExtractor().open(CPU)
        alone = statistics(source, "train", space, features=50)
        shared = together(2, lambda team: statistics(source, "train", space, features=50, team=team))
        assert alone is not None
        assert alone.features is not None
        assert shared.features.allclose(alone.features, atol=1e-4)


def source_features(source: Table, space: Space) -> Tensor:
    seen = observed(space, {"features"}, source.rows)
    assert seen.features is not None
    return seen.features


class TestAgainstTorchFidelity:
    def test_inception_score(self) -> None:
        from torch_fidelity.metric_isc import isc_features_to_metric

        logits = normal(203, 11) * 2
        for shuffle in (False, True):
            theirs = isc_features_to_metric(logits, splits=7, shuffle=shuffle)
            mean, std = inception_score(logits, 7, shuffle=shuffle)
            assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
            assert std == pytest.approx(theirs["inception_score_std"], rel=1e-9)
        with pytest.raises(ValueError, match="type splits=1"):
            inception_score(logits[:3], 7, shuffle=False)

    def test_kernel_distance(self) -> None:
        from torch_fidelity.metric_kid import kid_features_to_metric

        x, y = normal(90, 8), normal(90, 8, seed=1) + 0.2
        options = {"kid_subsets": 1, "kid_subset_size": 90, "rng_seed": 0, "verbose": False}
        theirs = kid_features_to_metric(x, y, **options)["kernel_inception_distance_mean"]
        assert kernel_distance(x, y) == pytest.approx(theirs, rel=1e-9)
        found = KID(subsets=3, size=200).values(Seen(90, features=x), Seen(90, features=y), 0)
        assert found == {"": pytest.approx(theirs, rel=1e-9), "std": pytest.approx(0, abs=1e-12)}

    def test_precision_and_recall(self) -> None:
        from torch_fidelity.metric_prc import prc_features_to_metric

        x, y = normal(150, 5), normal(140, 5, seed=1) * 1.3
        options = {"prc_neighborhood": 3, "prc_batch_size": 64, "save_cpu_ram": False, "verbose": False}
        theirs = prc_features_to_metric(x, y, **options)
        found = PRDC().values(Seen(150, features=x), Seen(140, features=y), 0)
        assert found["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
        assert found["recall"] == pytest.approx(theirs["recall"], rel=1e-6)

    def test_density_and_coverage_by_brute_force(self) -> None:
        x, y, k = normal(30, 3), normal(20, 3, seed=1), 5
        gaps = [[float((a - b).norm()) for b in y] for a in x]
        reach = [sorted(float((a - b).norm()) for b in y)[k] for a in y]
        inside = [[gaps[i][j] <= reach[j] for j in range(20)] for i in range(30)]
        found = PRDC().values(Seen(30, features=x), Seen(20, features=y), 0)
        assert found["density"] == pytest.approx(sum(map(sum, inside)) / (k * 30))
        assert found["coverage"] == pytest.approx(sum(any(row[j] for row in inside) for j in range(20)) / 20)

    def test_copies_of_real_images_lie_among_them(self) -> None:
        """Real images that stand five times each have neighbours at no distance at all, and so have their copies."""
        x = (normal(203, 2048) * 0.4 + 0.4).float()
        y = x.repeat_interleave(5, 0)
        assert distances(y.double(), y.double()).diagonal().eq(0).all()
        assert PRDC().values(Seen(101, features=x[:101]), Seen(1015, features=y), 0)["precision"] == 1

    def test_distances_are_those_of_the_slow_way(self) -> None:
        x, y = normal(30, 5) * 1e-3, normal(20, 5, seed=1) * 1e3
        assert distances(x, y).allclose(torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"), rtol=1e-12)
        near = x + 1e-7
        assert distances(x, near).diagonal().allclose((x - near).norm(dim=1), rtol=1e-3), "near is not the same"

    def test_too_few_and_broken_samples(self) -> None:
        few = Seen(3, features=normal(3, 2))
        with pytest.raises(ValueError, match="more than 3 samples, got 3"):
            PRDC().values(few, few, 0)
        broken, sound = Seen(9, features=normal(9, 2) / 0), Seen(9, features=normal(9, 2))
        assert math.isnan(KID().values(broken, sound, 0)[""])
        assert all(math.isnan(value) for value in PRDC().values(broken, sound, 0).values())


@dataclass(frozen=True)
class Posted(Team):
    """A process of a team that lives in one process: the others leave their tensors in a box for the first."""

    box: dict[int, list[Tensor]] = field(default_factory=dict)

    def gathered(self, mine: Tensor) -> list[Tensor]:
        if not self.first:
            self.box.setdefault(self.rank, []).append(mine.clone())
            return []
        return [mine, *(self.box[rank].pop(0) for rank in range(1, self.world))]


def together(world: int, work: Callable[[Team], Any]) -> Any:
    """What the first of several processes gets, the others having worked before it."""
    box: dict[int, list[Tensor]] = {}
    result = None
    for rank in reversed(range(world)):
        result = work(Posted(rank, world, box=box))
    assert not any(box.values()), "everything sent was taken"
    return result


@pytest.fixture(scope="module")
def digits() -> Experiment:
    tree = {"data": "digits", "backbone": {"kind": "mlp", "width": 16}, "objectives": {"fm": {}}}
    return Experiment.model_validate(tree)


def generator(experiment: Experiment, batch: int = 32) -> Generator:
    settings = experiment.model_settings()
    return Generator(settings.build(0).eval(), settings, CPU, batch)


METRICS: dict[str, Any] = {
    "fd": Frechet(),
    "kid": KID(subsets=3, size=40),
    "prdc": PRDC(),
    "accuracy": "accuracy",
    "w2": "w2",
}


@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_score_what_one_does(world: int, digits: Experiment, tmp_path: Path) -> None:
    """Five processes share three chunks: two of them have nothing to do."""
    settings = Evaluation(count=90, nfe=(1, 2), metrics=METRICS)

    def score(name: str, team: Team) -> list[dict[str, Any]]:
        scorer = Scorer(settings, digits.data, digits.data.open(), team=team)
        exports = {0: tmp_path / f"{name}.npz"}
        made = scorer.score(settings.samplers(digits.horizons).values(), generator(digits), "live", exports)
        return [record.as_dict() for record in made]

    alone, shared = score("one", Team()), together(world, lambda team: score("many", team))
    assert len(alone) == len(shared) == 2 * (1 + 2 + 4 + 1 + 1)
    for mine, theirs in zip(alone, shared, strict=True):
        for key in ("value", "floor"):
            assert mine.pop(key) == pytest.approx(theirs.pop(key), rel=1e-9)
        assert mine == theirs
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "many.npz").read_bytes()


def test_exported_samples_are_what_adms_evaluator_reads(digits: Experiment, tmp_path: Path) -> None:
    settings, file = Evaluation(count=70, nfe=(1,), metrics={"fd": Frechet()}), tmp_path / "s.npz"
    generate = generator(digits)
    (sampler,) = settings.samplers(digits.horizons).values()
    Scorer(settings, digits.data, digits.data.open()).score([sampler], generate, "live", {0: file})
    batch, _ = generate(sampler, range(70), 0)
    with np.load(file, allow_pickle=False) as found:
        assert found["arr_0"].dtype == np.uint8
        assert torch.from_numpy(found["arr_0"]).equal(to_uint8(batch.x).permute(0, 2, 3, 1))
        assert found["arr_1"].tolist() == [i % 10 for i in range(70)]
    assert list(tmp_path.iterdir()) == [file]


def test_samples_by_number_are_those_of_the_whole(digits: Experiment) -> None:
    generate = generator(digits, 700)
    (sampler,) = Evaluation(nfe=(1,)).samplers(digits.horizons).values()
    whole, _ = generate(sampler, 700, 3)
    some, _ = generate(sampler, range(5, 700, 300), 3)
    assert some.x.allclose(whole.x[5::300], atol=1e-6)
    assert some.y is not None
    assert some.y.tolist() == [5, 5, 5]


class TestReferences:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[..., Path]:
        def save(**arrays: Any) -> Path:
            np.savez(tmp_path / "ref.npz", **arrays)
            return tmp_path / "ref.npz"

        return save

    @pytest.mark.parametrize("keys", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
    def test_foreign_statistics(self, keys: tuple[str, str], write: Any) -> None:
        x = normal(40, 64)
        mean, covariance = moments(x)
        found = references.read(write(**dict(zip(keys, (mean.numpy(), covariance.numpy()), strict=True))))
        assert (found.extractor, found.weights, found.assumed, found.n) == ("inception", None, True, None)
        assert found.seen.moments is not None
        assert found.seen.moments.covariance.equal((covariance + covariance.T) / 2)
        space = DigitsExtractor().open(CPU)
        assert "of the extractor inception, not of digits" in str(found.refusal(space, {"moments"}))
        assumed = references.read(found.file, "digits")
        assert assumed.refusal(space, {"moments"}) is None
        assert "holds no features" in str(assumed.refusal(space, {"features"}))

    def test_our_own_come_back(self, tmp_path: Path) -> None:
        space = DigitsExtractor().open(CPU)
        seen = observed(space, {"moments", "features"}, Digits().open().held_out(100, 0))
        references.write(tmp_path / "ref.npz", seen, space, {"split": "held_out"})
        found = references.read(tmp_path / "ref.npz")
        assert found.seen.features is not None
        assert seen.features is not None
        assert found.seen.features.equal(seen.features)
        assert (found.n, found.extractor, found.weights) == (100, "digits", space.sha256)
        assert found.about["split"] == "held_out"
        assert found.refusal(space, {"moments", "features"}) is None
        other = replace(space, sha256="0" * 64)
        assert f"digits with the hash {space.sha256[:8]}, not of the one with 00000000" in str(
            found.refusal(other, {"moments"})
        )

    def test_images_serve_every_extractor(self, write: Any) -> None:
        batch = Digits().open().held_out(60, 0)
        assert batch.y is not None
        file = write(arr_0=to_uint8(batch.x).permute(0, 2, 3, 1).numpy(), arr_1=batch.y.numpy())
        found, space = references.read(file), DigitsExtractor().open(CPU)
        seen = found.of(space, {"moments", "features"}, "truncate")
        assert seen is not None
        assert found.n == seen.n == 60
        expected = observed(space, {"features"}, Batch(from_uint8(to_uint8(batch.x)), None))
        assert seen.features is not None
        assert expected.features is not None
        assert seen.features.allclose(expected.features, atol=1e-5)

    def test_images_are_read_when_they_are_needed_and_in_pieces(
        self, digits: Experiment, write: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file of ADM: its moments serve fd, and prdc alone wants the images, a chunk at a time."""
        source, space, sizes = Digits().open(), DigitsExtractor().open(CPU), list[int]()
        mean, covariance = moments(source_features(source, space))
        real = source.rows.x[:50]
        file = write(mu=mean.numpy(), sigma=covariance.numpy(), arr_0=to_uint8(real).permute(0, 2, 3, 1).numpy())
        monkeypatch.setattr(stored, "CHUNK", 20)
        monkeypatch.setattr(stored, "from_uint8", lambda pixels: (sizes.append(len(pixels)), from_uint8(pixels))[1])
        settings = Evaluation(count=40, nfe=(1,), reference_files=(str(file),), assume="digits")

        def score(name: str, team: Team = Team()) -> list[Record]:  # noqa: B008
            chosen = settings.model_copy(update={"metrics": {name: METRICS[name]}})
            return Scorer(chosen, digits.model_settings(), None, team=team)(generator(digits), "live")

        assert score("fd")[0].reference == 50
        assert not sizes
        alone = [one.value for one in score("prdc")]
        assert sizes == [20, 20, 10]
        shared = together(2, lambda team: score("prdc", team))
        assert alone == pytest.approx([one.value for one in shared], rel=1e-9)
        assert sizes == [20, 20, 10, 20, 20, 10], "the processes share the images"

    def test_damaged_images_are_named(self, tmp_path: Path) -> None:
        file = tmp_path / "ref.npz"
        levels = (np.arange(300 * 48) % 251).astype("uint8")
        np.savez(file, arr_0=levels.reshape(300, 4, 4, 3))
        sound = file.read_bytes()
        found = references.read(file)
        assert found.images is not None
        assert to_uint8(found.images.whole().x).permute(0, 2, 3, 1).flatten().tolist() == levels.tolist()
        data = bytearray(sound)
        data[sound.index(levels.tobytes()) + 12_000] ^= 1
        file.write_bytes(data)
        damaged = references.read(file).images
        assert damaged is not None
        with pytest.raises(ValueError, match=r"ref\.npz is damaged"):
            damaged.whole()
        np.savez(file, arr_0=np.asfortranarray(np.zeros((2, 4, 4, 3), dtype="uint8")))
        with pytest.raises(ValueError, match="column by column"):
            references.read(file)

    @pytest.mark.parametrize(
        ("arrays", "says"),
        [
            ({"other": np.zeros(3)}, "holds nothing known, and mu and sigma"),
            ({"mu": np.zeros(3)}, "sigma is missing"),
            ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, r"mu has shape \(3, 1\)"),
            ({"mu": np.zeros(4), "sigma": np.eye(3)}, r"sigma has shape \(3, 3\), mu has 4 numbers"),
            ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu holds values that are not finite"),
            ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
            ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "negative variances"),
            ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "not 1 dimensions of numbers"),
            ({"mu": np.array([{}, 1], dtype=object), "sigma": np.eye(2)}, "Object arrays cannot be loaded"),
            ({"arr_0": np.zeros((2, 8, 8, 1))}, "float64, not uint8 images"),
            ({"arr_0": np.zeros((2, 8, 8, 4), dtype="uint8")}, "not uint8 images"),
            ({"arr_0": np.zeros((2, 8, 8, 1), dtype="uint8"), "arr_1": np.zeros(3, dtype=int)}, "for 2 images"),
            ({"genobj": np.array("{"), "mu": np.zeros(2), "sigma": np.eye(2)}, "what it says of itself is damaged"),
            ({"genobj": np.array('{"extractor": 3}'), "mu": np.zeros(2)}, "what it says of itself is damaged"),
            ({"features": np.zeros((3, 4)), "mu": np.zeros(2), "sigma": np.eye(2)}, "features have 4 columns"),
        ],
    )
    def test_what_does_not_fit_is_named(self, arrays: dict[str, Any], says: str, write: Any) -> None:
        with pytest.raises(ValueError, match=says) as error:
            references.read(write(**arrays))
        assert "ref.npz" in str(error.value)
        assert "\n" not in str(error.value)

    def test_what_is_no_archive_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "ref.npz"
        with pytest.raises(ValueError, match="make a reference: genobj stats"):
            references.read(file)
        for content in (b"", b"PK\x03\x04", b"\x80\x02N.", b"text"):
            file.write_bytes(content)
            with pytest.raises(ValueError, match="no reference file that can be read"):
                references.read(file)
        np.save(tmp_path / "ref.npy", np.zeros(3))
        with pytest.raises(ValueError, match="a single array"):
            references.read(tmp_path / "ref.npy")
        with pytest.raises(ValueError, match="no reference file"):
            references.read(tmp_path)

    def test_damage_is_a_sentence_or_changes_nothing(self, tmp_path: Path) -> None:
        """Bytes changed and files cut: zip's checksums find what numpy would read."""
        whole, file, rng = tmp_path / "whole.npz", tmp_path / "ref.npz", random.Random(0)
        np.savez_compressed(whole, mu=np.arange(8.0), sigma=np.eye(8), arr_0=np.zeros((2, 4, 4, 3), dtype="uint8"))
        sound, refused = whole.read_bytes(), list[str]()
        for _ in range(250):
            damaged = bytearray(sound)
            for _ in range(rng.choice((1, 1, 4))):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            file.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
            try:
                kept = references.read(file).seen.moments
            except ValueError as error:
                refused.append(str(error))
                continue
            assert kept is None or kept.mean.tolist() == list(range(8))
        assert len(refused) > 150
        assert all("ref.npz" in sentence and "\n" not in sentence for sentence in refused)

    def test_a_header_that_lies_about_its_size(self, tmp_path: Path) -> None:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }"
        with zipfile.ZipFile(tmp_path / "ref.npz", "w") as file:
            file.writestr("mu.npy", header.ljust(127) + b"\n")
        with pytest.raises(ValueError, match="no reference file that can be read"):
            references.read(tmp_path / "ref.npz")


class TestScorer:
    def test_a_file_gives_what_the_data_give(self, digits: Experiment, tmp_path: Path) -> None:
        source, space = digits.data.open(), DigitsExtractor().open(CPU)
        references.write(
            tmp_path / "r.npz", observed(space, {"moments", "features"}, source.reference(1, 0)), space, {}
        )
        chosen = {name: METRICS[name] for name in ("fd", "kid", "prdc")}
        settings = Evaluation(count=80, nfe=(1,), metrics=chosen)
        by_data = Scorer(settings, digits.data, source)(generator(digits), "live")
        changed = settings.model_copy(update={"reference_files": (str(tmp_path / "r.npz"),)})
        by_file = Scorer(changed, digits.model_settings(), None)(generator(digits), "live")
        assert [one.value for one in by_data] == pytest.approx([one.value for one in by_file], rel=1e-6)
        assert all(one.floor is None and one.reference == 1797 for one in by_file)
        assert by_data[0].floor == pytest.approx(6.052, rel=0.002) or by_data[0].floor_n == 80
        with pytest.raises(ValueError, match=r"fd: these values do not compare, since reference\.data"):
            comparable([*by_data, *by_file])

    def test_raw_metrics_need_images(self, digits: Experiment, tmp_path: Path) -> None:
        space = DigitsExtractor().open(CPU)
        references.write(
            tmp_path / "r.npz", observed(space, {"moments"}, digits.data.open().held_out(20, 0)), space, {}
        )
        settings = Evaluation(count=8, nfe=(1,), metrics={"mmd": MMD()}, reference_files=(str(tmp_path / "r.npz"),))
        scorer = Scorer(settings, digits.data, None)
        for work in (scorer.check, lambda: scorer(generator(digits), "live")):
            with pytest.raises(ValueError, match=r"mmd compares samples themselves, .* \(arr_0\)"):
                work()

    def test_what_is_missing_is_said_before_the_work(self, digits: Experiment, tmp_path: Path) -> None:
        space = DigitsExtractor().open(CPU)
        references.write(
            tmp_path / "r.npz", observed(space, {"moments"}, digits.data.open().held_out(20, 0)), space, {}
        )
        settings = Evaluation(metrics={"kid": KID()}, reference_files=(str(tmp_path / "r.npz"),))
        with pytest.raises(ValueError, match="holds no features; make a file that does: genobj stats DATA"):
            Scorer(settings, digits.data, None).check()

    @pytest.mark.parametrize(
        ("metric", "count", "says"),
        [
            (PRDC(neighbours=20), 20, "the 20 nearest neighbours of a sample need more than 20 samples, got 20"),
            (PRDC(density_neighbours=30), 40, "the 30 nearest neighbours of a sample need more than 30 samples, got 9"),
            (InceptionScore(splits=5), 4, "5 splits needs as many samples, got 4"),
        ],
    )
    def test_too_few_samples_are_said_before_the_work(
        self, metric: Any, count: int, says: str, digits: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Inception, "open", lambda self, device: DigitsExtractor().open(device))
        settings = Evaluation(count=count, reference=9, metrics={"m": metric})
        with pytest.raises(ValueError, match=f"metric 'm': .*{says}"):
            Scorer(settings, digits.data, digits.data.open()).check()

    def test_what_training_saw_is_no_floor(self, digits: Experiment) -> None:
        class Seen(Table):
            unseen = False

        rows = Digits().open().rows
        settings = Evaluation(count=40, nfe=(1,), metrics={"fd": Frechet(), "w2": "w2"})
        for source, floored in ((Table(rows, rows), True), (Seen(rows, rows), False)):
            records = Scorer(settings, digits.data, source)(generator(digits), "live")
            assert all((one.floor is not None, one.floor_n) == (floored, 40 if floored else 0) for one in records)

    def test_a_floor_of_too_few_is_left_out(self, digits: Experiment) -> None:
        rows = Digits().open().rows
        source = Table(rows, take(rows, torch.arange(3)), rows)
        settings = Evaluation(count=40, nfe=(1,), metrics={"fd": Frechet(), "prdc": PRDC()})
        records = Scorer(settings, digits.data, source)(generator(digits), "live")
        assert [one.floor is None for one in records] == [False, True, True, True, True]

    def test_large_data_are_looked_at_in_pieces_by_the_first_process(
        self, digits: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked = list[int]()
        look = Space.look
        monkeypatch.setattr(Space, "look", lambda self, x, mode: (looked.append(len(x)), look(self, x, mode))[1])
        settings = Evaluation(count=32, nfe=(1,), metrics={"fd": Frechet()})

        def score(team: Team) -> list[Record]:
            return Scorer(settings, digits.data, digits.data.open(), team=team)(generator(digits), "live")

        for shared, sizes in ((2**31, [512, 261, 512, 512, 32, 32]), (0, [512, 512, 512, 261, 32, 32])):
            monkeypatch.setattr(real, "SHARED", shared)
            looked.clear()
            assert together(2, score)[0].floor is not None
            assert looked == sizes, "the second process, then the first: reference, floor, samples"

    def test_what_training_does_with_the_data_changes_no_reference(self, tmp_path: Path) -> None:
        """Flips, the cache and where the files lie: values compare; other images, and they do not."""
        for name, level in (("a", 7), ("b", 7), ("c", 8)):
            (tmp_path / name).mkdir()
            for i in range(6):
                Image.new("L", (8, 8), level * i).save(tmp_path / name / f"{i}.png")

        def measured(name: str, **changes: Any) -> Record:
            tree = {"kind": "folder", "path": str(tmp_path / name), "resolution": 8, "channels": 1, **changes}
            data = Experiment.model_validate({"data": tree}).data
            settings = Evaluation(count=8, nfe=(1,), metrics={"w2": "w2"})
            (one,) = Scorer(settings, data, data.open())(self.any_generator(data), "live")
            return one

        first = measured("a")
        comparable([first, measured("b", flip=True, on_error="skip", cache="memory")])
        with pytest.raises(ValueError, match=r"reference\.data\.sha256"):
            comparable([first, measured("c")])

    @staticmethod
    def any_generator(data: Data) -> Generator:
        tree = {"data": data.model_dump(mode="json") | {"kind": "folder"}, "backbone": {"kind": "mlp", "width": 8}}
        return generator(Experiment.model_validate(tree | {"objectives": {"fm": {}}}))

    @pytest.mark.parametrize(
        ("metric", "says"),
        [
            (FID(extractor=DigitsExtractor()), "defined by Inception's features, not by those of 'digits'"),
            (Frechet(extractor=Inception()), "it is called fid: type fid"),
        ],
    )
    def test_fid_is_inceptions_alone(self, metric: Any, says: str, digits: Experiment) -> None:
        with pytest.raises(ValueError, match=says):
            Evaluation(metrics={"m": metric}).chosen_metrics(digits.data)

    def test_a_broken_sample_spoils_the_value(self) -> None:
        held_out = Digits().open().held_out(50, 0)
        spoilt = held_out.x.clone()
        spoilt[7, 0, 0, 0] = torch.nan
        space = replace(DigitsExtractor().open(CPU), rounded=True)
        seen = observed(space, {"moments", "labels"}, Batch(spoilt, held_out.y))
        assert seen.moments is not None
        assert seen.moments.mean.isnan().all()
        assert seen.accuracy is not None
        assert seen.accuracy < 1


def record(**changes: Any) -> Record:
    protocol = {"metric": {"kind": "fd"}, "samples": 100, "reference": {"file": "a.npz", "sha256": "1"}}
    about: dict[str, Any] = {"metric": "fd", "kind": "fd", "value": 1.0, "floor": None, "floor_n": 0, "nfe": 1}
    about |= {"sampler": "euler", "head": "v", "settings": {}, "weights": "live", "n": 100, "reference": 50}
    return Record(**about | {"seed": 0, "higher_is_better": False, "protocol": protocol} | changes)


class TestRecords:
    def test_other_protocols_do_not_compare(self) -> None:
        one = record()
        protocol: dict[str, Any] = one.protocol or {}
        renamed = protocol | {"reference": {"file": "b.npz", "sha256": "1"}}
        comparable(
            [one, record(nfe=4, weights="ema", seed=3), record(protocol=renamed), record(metric="kid", protocol={})]
        )
        for key, value in {"samples": 99, "rounding": "floor", "reference": {"sha256": "2"}}.items():
            with pytest.raises(ValueError, match=f"fd: these values do not compare, since {key}"):
                comparable([one, record(protocol=protocol | {key: value})])
        with pytest.raises(ValueError, match="one of them does not say how it was measured"):
            comparable([one, record(protocol=None)])

    def test_files_come_back(self, tmp_path: Path) -> None:
        file = tmp_path / "r.json"
        file.write_text(json.dumps([record().as_dict()]))
        assert read_records(file) == [record()]
        old = record().as_dict()
        for key in ("protocol", "title", "factor", "config", "genobj"):
            del old[key]
        file.write_text(json.dumps([old]))
        assert read_records(file)[0].protocol is None
        for text in ("", "{}", "[1]", '[{"metric": 3}]', "[" * 100_000):
            file.write_text(text)
            with pytest.raises(ValueError, match="holds no records of genobj evaluate"):
                read_records(file)
        with pytest.raises(ValueError, match="genobj evaluate RUN --out"):
            read_records(tmp_path / "none.json")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extractor of the digits after a few steps."""
    folder = tmp_path_factory.mktemp("extractor") / "small"
    train(Training(steps=60, batch=64, width=8), Digits(), folder, CPU, {"kind": "digits"})
    return folder


class TestPrecision:
    def test_cudnn_stays_as_it_is(self) -> None:
        """Inside a look at images: its convolutions would otherwise run by another, slow way."""
        found = list[bool]()

        def look(x: Tensor) -> Look:
            found.append(torch.backends.cudnn.enabled)
            return Look(x.flatten(1))

        space = Space("stand-in", "0", 64, look, CPU)
        space.look(torch.zeros(2, 1, 8, 8), "truncate")
        with exactly(torch.device("cuda")):  # settings alone; there need not be a GPU
            found.append(torch.backends.cudnn.enabled)
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert found == [True, True]
        assert torch.backends.cudnn.allow_tf32

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    def test_features_on_a_gpu_are_float32(self) -> None:
        found = list[tuple[bool, bool, bool]]()

        def look(x: Tensor) -> Look:
            found.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32, x.is_cuda))
            return Look(x.flatten(1))

        Space("stand-in", "0", 64, look, torch.device("cuda")).look(torch.zeros(2, 1, 8, 8), "truncate")
        assert found == [(True, False, True)]

    def test_an_autoencoder_in_float32_is_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And one in bfloat16 is left to itself."""

        class Plain(torch.nn.Module):
            def __init__(self, dtype: torch.dtype):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones((), dtype=dtype))
                self.config = {"_class_name": "AutoencoderDC", "in_channels": 3, "latent_channels": 3}

            def decode(self, z: Tensor) -> Any:
                return SimpleNamespace(sample=z * self.weight)

        entered = list[torch.device]()

        @contextmanager
        def noted(device: torch.device) -> Iterator[None]:
            entered.append(device)
            yield

        monkeypatch.setattr(autoencoders, "exactly", noted)
        for dtype, times in ((torch.float32, 1), (torch.bfloat16, 1)):
            codec = autoencoders.Codec(Autoencoder(source="a/b", scale=1.0), Plain(dtype))
            assert codec.decode(torch.zeros(2, 3, 4, 4)).shape == (2, 3, 4, 4)
            assert len(entered) == times


class TestShapes:
    @pytest.mark.parametrize(
        ("made", "sizes", "expected"),
        [
            ({"source": "sd-vae-ft-ema"}, (4, 32, 32), 256),
            ({"source": "dc-ae-f32c32"}, (32, 16, 16), 512),
            ({"source": "mit-han-lab/dc-ae-f64c128-in-1.0-diffusers"}, (128, 8, 8), 512),
            ({"source": "own/vae", "factor": 16}, (16, 16, 16), 256),
        ],
    )
    def test_images_of_latents(self, made: dict[str, Any], sizes: tuple[int, int, int], expected: int) -> None:
        by = Autoencoder(**made, scale=1.0)
        data = Latents(path="nowhere", sizes=sizes, labels=0, encoded_by=by)
        assert shown(data) == (3, expected, expected)

    def test_a_folder_tells_its_factor(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"encoder_block_out_channels": [8, 8, 8]}')
        assert Autoencoder(source=str(tmp_path)).enlarges == 4
        opened = SimpleNamespace(config={"block_out_channels": [8] * 6, "scaling_factor": 1.0})
        made = Autoencoder(source="own/vae")._complete(opened, tmp_path, "0" * 64)
        assert made.factor == made.enlarges == 32, "an opened one says it to whoever records it"


class TestTeam:
    def test_processes_wait_without_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not as long as training does, which would end in the middle of what the first one computes alone."""
        asked, used = list[dict[str, Any]](), list[Any]()
        monkeypatch.setattr(dist, "new_group", lambda **how: (asked.append(how), "ours")[1])
        monkeypatch.setattr(dist, "send", lambda value, to, group=None: used.append(group))
        assert Team.joined(0, 1) == Team()
        assert not asked
        Team.joined(1, 2).gathered(torch.zeros(3))
        assert asked[0]["timeout"] > timedelta(days=7)
        assert used == ["ours", "ours"]

    @pytest.mark.slow
    def test_a_patient_team_outlasts_the_usual_limit(self) -> None:
        """Two processes whose own limit is two seconds; the first computes for five."""
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_waits, (f"{folder}/store",), nprocs=2)


def _waits(rank: int, store: str) -> None:
    import time

    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=2), 2, rank)
    team = Team.joined(rank, 2)
    if team.first:
        time.sleep(5)
    found = team.gathered(torch.full((2,), float(rank)))
    assert len(found) == (2 if team.first else 0)
    dist.destroy_process_group()


class TestTrained:
    def test_learns_and_comes_back(self, small: Path) -> None:
        extractor, source = Trained(path=str(small)), Digits().open()
        facts, space = extractor.facts(), extractor.open(CPU)
        assert facts.accuracy > 0.7
        assert (facts.held_out, facts.network.shape, space.sha256) == (360, (1, 8, 8), facts.sha256)
        seen = observed(space, {"features", "labels"}, source.held_out(360, 0))
        assert seen.accuracy == pytest.approx(facts.accuracy)
        assert seen.features is not None
        assert seen.features.square().mean().sqrt() == pytest.approx(1, rel=0.1)
        values = [Frechet(extractor=extractor)(batch, source.rows, 0) for batch in worse_and_worse(source)]
        assert values == sorted(values)
        assert values[-1] > 5 * values[0]

    def test_the_seed_decides(self, small: Path, tmp_path: Path) -> None:
        again = train(Training(steps=60, batch=64, width=8), Digits(), tmp_path / "again", CPU, {"kind": "digits"})
        assert again.sha256 == Trained(path=str(small)).facts().sha256
        assert "sees shape (1, 8, 8)" in str(Trained(path=str(small)).refusal((3, 32, 32)))

    def test_damage_is_named(self, small: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(small, copy)
        weights, settings = copy / "extractor.safetensors", copy / "extractor.json"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        with pytest.raises(ValueError, match=r"extractor.safetensors does not hold .* SHA-256"):
            Trained(path=str(copy)).open(CPU)
        weights.unlink()
        with pytest.raises(ValueError, match=r"extractor\.safetensors does not hold"):
            Trained(path=str(copy)).open(CPU)
        for text in ("", "[]", "{}", settings.read_text().replace('"classes": 10', '"classes": -1')):
            settings.write_text(text)
            with pytest.raises(ValueError, match=r"extractor.json (is damaged|does not describe)"):
                Trained(path=str(copy)).facts()
        with pytest.raises(ValueError, match="make one: genobj extractor train"):
            Trained(path=str(tmp_path / "nowhere")).facts()

    def test_unfit_data_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"type data.labelled=true"):
            train(Training(steps=1), Digits(labelled=False), tmp_path / "x", CPU, {})
        with pytest.raises(ValueError, match=r"as in data.labels=10"):
            train(Training(steps=1), FolderImages(path="x", resolution=8), tmp_path / "x", CPU, {})
        assert not (tmp_path / "x").exists()

    def test_augmentation_moves_and_mirrors(self) -> None:
        x = torch.arange(1.0, 17.0).view(1, 1, 4, 4).expand(200, 3, 4, 4)
        assert moved(x, range(200), 0, 0, False).equal(x)
        mirrored = moved(x, range(200), 0, 0, True)
        same = (mirrored == x).flatten(1).all(1)
        assert mirrored[~same].equal(x[~same].flip(-1))
        assert 60 < int(same.sum()) < 140
        shifted = moved(x, range(200), 0, 1, False)
        assert {int(value) for value in shifted[:, 0, 1, 1].unique()} == {1, 2, 3, 5, 6, 7, 9, 10, 11}
        assert moved(x[:50], range(50, 100), 0, 1, True).equal(moved(x, range(200), 0, 1, True)[50:100])


def worse_and_worse(source: Table) -> list[Batch]:
    x = source.rest.x
    return [Batch(x + s * normal(*x.shape).float(), None) for s in (0.0, 0.3, 3.0)]


class TestInception:
    def test_missing_weights_are_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=r"evaluation\.inception names torch-fidelity's weights file"):
            Inception(weights=str(tmp_path / "none.pth")).open(CPU)
        (tmp_path / "bad.pth").write_bytes(b"\x80\x02N.")
        with pytest.raises(ValueError, match="does not hold torch-fidelity's Inception weights"):
            Inception(weights=str(tmp_path / "bad.pth")).open(CPU)

        def offline(*_: Any, **__: Any) -> None:
            raise OSError("no route")

        import torch_fidelity.feature_extractor_inceptionv3 as port

        monkeypatch.setattr(port, "load_state_dict_from_url", offline)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(ValueError, match=r"could not be downloaded \(no route\); put weights-inception.*pth into"):
            Inception().open(CPU)

    def test_refuses_what_it_cannot_see(self) -> None:
        assert "Inception sees images" in str(FID().refusal((2,), 0))
        assert FID().refusal((3, 32, 32), 0) is None
        assert SpatialFID().refusal((1, 28, 28), 0) is None

    @pytest.mark.slow
    def test_equals_torch_fidelity_with_the_same_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Random weights, rescaled so that features do not vanish; places come from mixed_6/conv, row by row."""
        import torch_fidelity.feature_extractor_inceptionv3 as port

        with monkeypatch.context() as patch:
            patch.setattr(port, "load_state_dict_from_url", lambda *_, **__: {})
            patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
            theirs = port.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])
        state = {
            name: value * (3 if name.endswith("conv.weight") else 1) for name, value in theirs.state_dict().items()
        }
        torch.save(state, tmp_path / "w.pth")
        theirs.load_state_dict(state)
        pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        space = Inception(weights=str(tmp_path / "w.pth")).open(CPU)
        look = space.look(from_uint8(pixels), "truncate")
        features, logits = theirs(pixels)
        assert features.std() > 1e-3
        assert look.features.allclose(features, rtol=1e-5)
        assert look.logits is not None
        assert look.logits.allclose(logits, rtol=1e-4, atol=1e-6)
        assert look.spatial is not None
        assert look.spatial.shape == (4, 17 * 17 * 7)

    def test_scores_and_places_by_a_stand_in(self, digits: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
        """fid, sfid and is, from samples to records, with a network that is quick."""

        def look(x: Tensor) -> Look:
            flat = x.flatten(1)
            return Look(flat[:, :20], flat[:, :5] * 3, flat[:, 20:30])

        monkeypatch.setattr(
            Inception, "open", lambda self, device: Space("inception", "0", 20, look, device, spatial=True)
        )
        metrics = {"fid": FID(), "sfid": SpatialFID(), "is": InceptionScore(splits=2)}
        settings = Evaluation(count=40, nfe=(1,), metrics=metrics, rounding="floor")
        records = Scorer(settings, digits.data, digits.data.open())(generator(digits), "live")
        assert [one.metric for one in records] == ["fid", "sfid", "is", "is.std"]
        assert all(math.isfinite(one.value) for one in records)
        assert all((one.protocol or {})["rounding"] == "floor" for one in records)
        assert records[2].reference is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt nothing."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    small = ["backbone.width=16", "evaluation.count=32", "evaluation.nfe=[1]", "pictures.count=10"]
    assert run(["train", "--data", "digits", "--backbone", "mlp", "--out", str(folder), "train.steps=2", *small]) == 0
    return folder


class TestCommands:
    """The commands, in one process."""

    def test_from_statistics_to_scores(
        self, folder: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(["stats", "digits", "--to", "a.npz", "--extractor", "digits", "--features", "200"]) == 0
        assert run(["stats", str(folder), "--to", "b.npz", "--extractor", str(small), "--split", "held_out"]) == 0
        told = capsys.readouterr().out
        assert "a.npz: 1437 images (train), 64 features of digits" in told
        assert "b.npz: 360 images (held_out), 32 features of trained" in told
        refs = ["--ref", "a.npz", "--ref", "b.npz"]
        words = ["evaluate", str(folder), *refs, "--samples", "40", "--nfe", "1,2", "--export", "s.npz"]
        assert run([*words, "--metrics", "fd,prdc,accuracy", "--out", "one.json"]) == 0
        table = capsys.readouterr().out
        assert "Frechet distance" in table
        assert "40 samples against a.npz (1437 images" in table
        assert {"s_1nfe.npz", "s_2nfe.npz"} <= {path.name for path in tmp_path.iterdir()}
        assert run([*words, "--metrics", "fd", "--extractor", str(small), "--json"]) == 0
        (first, _) = json.loads(capsys.readouterr().out)
        assert first["protocol"]["reference"]["file"] == "b.npz"
        assert first["protocol"]["extractor"]["sha256"] == Trained(path=str(small)).facts().sha256
        assert first["config"] == folder_hash(folder)
        assert run([*words, "--metrics", "fd,prdc,accuracy", "--against", "one.json"]) == 0
        assert "one.json" in capsys.readouterr().out
        fewer = [word if word != "40" else "20" for word in words]
        assert run([*fewer, "--metrics", "fd", "--against", "one.json"]) == 2
        assert "fd: these values do not compare, since samples is 20 in one and 40" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["evaluate", "RUN", "--metrics", "fid"], "Inception's weights could not be downloaded"),
            (["evaluate", "RUN", "--metrics", "fd", "--extractor", "nowhere"], "unknown extractor 'nowhere'"),
            (["evaluate", "RUN", "--metrics", "fd", "--extractor", "trained"], "name the folder"),
            (["evaluate", "RUN", "--ref", "none.npz"], "there is no none.npz"),
            (["evaluate", "RUN", "--export", "x.png"], "ends in .npz"),
            (["evaluate", "RUN", "--rounding", "up"], "rounding"),
            (["evaluate", "RUN", "--against", "none.json"], "there is no none.json"),
            (["stats", "moons", "--extractor", "digits"], "sees shape (1, 8, 8)"),
            (["stats", "digits", "--extractor", "digits", "--split", "test"], "type train or held_out"),
            (["stats", "digits", "--extractor", "digits", "--to", "x.txt"], "ends in .npz"),
            (["stats", "digits", "--extractor", "digits", "optim.lr=3"], "no setting of data"),
            (["stats", "digitz", "--extractor", "digits"], "Did you mean 'digits'"),
            (["extractor", "train", "moons"], "looks at images"),
            (["extractor", "train", "digits", "data.labelled=false"], "data.labelled=true"),
            (["extractor", "train", "digits", "--to", "RUN/.."], ""),
        ],
    )
    def test_mistakes(
        self, words: list[str], says: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        import torch_fidelity.feature_extractor_inceptionv3 as port

        def offline(*_: Any, **__: Any) -> None:
            raise OSError("no route")

        monkeypatch.setattr(port, "load_state_dict_from_url", offline)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        if not says:  # a folder that holds an extractor
            (tmp_path / "extractor.json").touch()
            words, says = ["extractor", "train", "digits", "--to", "."], "there is an extractor already"
        assert run([word.replace("RUN", str(folder)) for word in words]) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") <= 2

    def test_damaged_files_and_training_images_are_told(self, tmp_path: Path, capsys: Any) -> None:
        """By both commands; nothing is called held out that training saw, and no floor is measured with it."""
        for i in range(40):
            file = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 5 * i).save(file)
            file.write_bytes(file.read_bytes()[:40] if i in (4, 9) else file.read_bytes())
        data = [f"data.path={tmp_path / 'images'}", "data.resolution=8", "data.channels=1", "data.labels=2"]
        data += ["data.on_error=skip", "data.cache=none"]
        net = str(tmp_path / "net")
        assert run(["extractor", "train", "folder", *data, "--to", net, "--steps", "3", "--width", "4"]) == 0
        told = capsys.readouterr()
        assert "on 38 training images (give data.test or data.holdout)" in told.out
        assert {name for name in ("4.png", "9.png") if name in told.err} == {"4.png", "9.png"}
        assert not Trained(path=net).facts().unseen
        small = ["backbone.width=16", "evaluation.count=16", "evaluation.nfe=[1]", "evaluation.metrics=w2"]
        small += ["--backbone", "mlp", "train.steps=1"]
        folder = str(tmp_path / "run")
        assert run(["train", "--data", "folder", "--out", folder, *small, *data]) == 0
        capsys.readouterr()
        assert run(["evaluate", folder, "--metrics", "fd,accuracy", "--extractor", net, "--json"]) == 0
        told = capsys.readouterr()
        assert {name for name in ("4.png", "9.png") if name in told.err} == {"4.png", "9.png"}
        assert all(one["floor"] is None and one["floor_n"] == 0 for one in json.loads(told.out))

    @pytest.mark.slow
    def test_two_processes_under_torchrun(self, folder: Path, tmp_path: Path) -> None:
        from tests.test_distributed import launched

        words = ["evaluate", str(folder), "--metrics", "fd,kid,accuracy,mmd", "--samples", "100", "--batch", "32"]
        for name, processes in (("one", 1), ("two", 2)):
            more = ["--export", f"{name}.npz", "--out", f"{name}.json"]
            done = launched(tmp_path, "genobj", *words, *more, processes=processes)
            assert done.returncode == 0, done.stderr[-2000:]
        one, two = (read_records(tmp_path / f"{name}.json") for name in ("one", "two"))
        assert [mine.value for mine in one] == pytest.approx([theirs.value for theirs in two], rel=1e-9)
        assert [mine.floor for mine in one] == pytest.approx([theirs.floor for theirs in two], rel=1e-9)
        same = {"value": 0.0, "floor": None}
        assert [replace(mine, **same) for mine in one] == [replace(theirs, **same) for theirs in two]
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def folder_hash(folder: Path) -> str:
    """The hash in a run's name, from its settings."""
    from genobj.config.load import fingerprint, read_toml

    return fingerprint(Experiment.model_validate(read_toml(folder / "config.toml")).learns(besides=frozenset()))
