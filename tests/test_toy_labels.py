"""Labels of toys: which moon or Gaussian a point was drawn from, and whether generated points are where they belong."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.cli.resolve import resolve
from genobj.data.base import REFERENCE, TRAIN, Batch
from genobj.data.mixture import Mixture
from genobj.data.toys import Circles, Gaussians, MixtureToy, Moons
from genobj.evaluation import Evaluation, Generator, Scorer
from genobj.experiment import Experiment
from genobj.hub import description
from genobj.metrics.accuracy import Accuracy
from genobj.metrics.exact import Exact
from genobj.metrics.features import observed
from genobj.seeds import BLOCK, generator
from genobj.types import Horizon, Labels, Samples, TimeTensor

TOYS = [(Moons, 2), (Gaussians, 8)]


def toy(kind: type[MixtureToy], **settings: Any) -> MixtureToy:
    return kind.model_validate(settings)


@pytest.mark.parametrize(("kind", "classes"), TOYS)
class TestLabels:
    def test_points_stay_the_same_to_the_bit(self, kind: type[MixtureToy], classes: int) -> None:
        plain, labelled = toy(kind).open(), toy(kind, labelled=True).open()
        for rows in (range(300), range(7, 900, 3)):
            assert plain.train(rows, 1).x.equal(labelled.train(rows, 1).x)
        assert plain.held_out(50, 2).x.equal(labelled.held_out(50, 2).x)
        assert plain.reference(50, 2).x.equal(labelled.reference(50, 2).x)
        assert plain.train(range(5), 1).y is None
        assert toy(kind).classes == 0
        assert toy(kind, labelled=True).classes == classes

    def test_they_say_where_a_point_was_drawn(self, kind: type[MixtureToy], classes: int) -> None:
        # The components of a block, drawn here once more with the points, tell the centres they lie around.
        data = toy(kind, labelled=True, noise=0.01)
        x, y, _ = data.open().reference(2 * BLOCK, 5)
        assert y is not None
        assert y.dtype == torch.int64
        law, each = data.law, len(data.law.centres) // classes
        for block in range(2):
            mine = slice(block * BLOCK, (block + 1) * BLOCK)
            component = law.components(BLOCK, generator(5, REFERENCE, block))
            assert ((x[mine] - law.centres[component]).abs() < 6 * law.scale).all()
            assert y[mine].equal(component // each)
        nearest = torch.cdist(x.double(), law.centres).argmin(1) // each
        assert y.equal(nearest), "with so little noise, the nearest centre is of the class"

    def test_they_are_a_function_of_seed_and_index(self, kind: type[MixtureToy], classes: int) -> None:
        source = toy(kind, labelled=True).open()
        whole, part = source.train(range(1000), 4).y, source.train(range(123, 1000, 7), 4).y
        assert whole is not None
        assert part is not None
        assert whole[123::7].equal(part)
        many = source.held_out(8000, 0).y
        assert many is not None
        assert many.min() >= 0
        assert many.max() < classes
        shares = torch.bincount(many, minlength=classes) / 8000
        assert shares.sub(1 / classes).abs().max() < 5 * math.sqrt(1 / classes / 8000)
        assert not whole[:500].equal(many[:500])

    def test_the_posterior_is_that_of_the_draws(self, kind: type[MixtureToy], classes: int) -> None:
        # Where two classes overlap, a posterior of p must be right in a share p of the points.
        data = toy(kind, labelled=True, noise=0.5)
        x, y, _ = data.open().held_out(10_000, 0)
        assert y is not None
        posterior = data.class_log_posterior(x.double()).exp()
        assert posterior.shape == (10_000, classes)
        assert posterior.sum(1).allclose(torch.ones(10_000).double())
        best, found = posterior.max(1)
        assert 0.4 < best.mean() < 0.95
        assert abs((found == y).double().mean() - best.mean()) < 0.02
        part = x[:50]
        parts = [of(data, label).log_density(part.double()) for label in range(classes)]
        wanted = torch.stack(parts, 1).log_softmax(1)
        assert data.class_log_posterior(part.double()).allclose(wanted, atol=1e-9)


def of(data: MixtureToy, label: int) -> Mixture:
    """The law of one class."""
    law, each = data.law, len(data.law.centres) // data.groups
    return Mixture(law.centres[label * each : (label + 1) * each], law.scale)


def test_moon_0_is_the_upper_one_and_gaussian_0_lies_on_the_axis() -> None:
    x, y, _ = Moons(labelled=True).open().held_out(500, 0)
    assert y is not None
    assert x[y == 0][:, 1].mean() > 0.5 > -0.5 > x[y == 1][:, 1].mean()
    x, y, _ = Gaussians(labelled=True).open().held_out(500, 0)
    angle = torch.atan2(x[:, 1], x[:, 0])[y == 0] if y is not None else torch.zeros(0)
    assert angle.abs().max() < math.pi / 8


class TestNames:
    """A setting that nobody uses changes no hash: folders of earlier runs keep their names."""

    def test_recipes_keep_theirs(self) -> None:
        assert resolve("dumo-moons")[0].run_name() == "dumo-moons-e93468f3"
        assert "labelled" not in resolve("dumo-moons")[0].tree()["data"]

    def test_false_is_as_good_as_unset(self) -> None:
        said = resolve("dumo-moons", overrides=["data.labelled=false"])[0]
        assert said.run_name() == "dumo-moons-e93468f3"
        assert said == resolve("dumo-moons")[0]

    def test_labels_are_another_experiment(self) -> None:
        labelled = resolve("dumo-moons", overrides=["data.labelled=true"])[0]
        assert labelled.run_name() != "dumo-moons-e93468f3"
        assert Experiment.model_validate(labelled.tree()) == labelled
        assert '"classes": 2' in description(labelled.model_settings(), labelled.ema.decays)

    def test_others_have_none(self) -> None:
        with pytest.raises(ValueError, match="unknown key 'labelled'"):
            Circles.model_validate({"labelled": True})


class Knowing:
    """A network whose jump to data ends at a fresh draw of the class that is asked for, or of one `shift` further."""

    def __init__(self, data: MixtureToy, shift: int):
        self.data, self.shift, self.generator = data, shift, generator(0)

    @property
    def horizons(self) -> Mapping[str, Horizon]:
        """One head, that ends at data."""
        return {"u": "data"}

    def __call__(
        self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None
    ) -> dict[str, Tensor]:
        assert y is not None
        laws = [of(self.data, (label + self.shift) % self.data.groups) for label in range(self.data.groups)]
        drawn = torch.stack([law.draw(len(x_t), self.generator) for law in laws])
        return {"u": x_t - drawn[y, torch.arange(len(y))]}


class TestAccuracy:
    """The metric `accuracy` on toys: Bayes' rule in the place of a network."""

    def test_share_of_points_where_their_label_is_the_most_probable(self) -> None:
        data = Gaussians(labelled=True)
        space = Exact(data=data).open(torch.device("cpu"))
        centres = data.law.centres.float()
        wrong = torch.tensor([0, 1, 2, 3, 4, 5, 7, 6])

        def accuracy(x: Tensor, y: Tensor) -> float | None:
            return observed(space, {"labels"}, Batch(x, y)).accuracy

        assert accuracy(centres, torch.arange(8)) == 1
        assert accuracy(centres, wrong) == 0.75
        assert accuracy(torch.cat([centres[:7], torch.full((1, 2), math.nan)]), torch.arange(8)) == 7 / 8

    @pytest.mark.parametrize("kind", [Moons, Gaussians])
    def test_taken_without_being_asked_for_where_there_are_labels(self, kind: type[MixtureToy]) -> None:
        assert isinstance(Evaluation().chosen_metrics(toy(kind, labelled=True))["accuracy"], Accuracy)
        assert "accuracy" not in Evaluation().chosen_metrics(toy(kind))
        with pytest.raises(ValueError, match=r"or data.labelled=true"):
            Evaluation(metrics={"accuracy": Accuracy()}).chosen_metrics(toy(kind))

    def test_a_model_that_knows_the_law_scores_as_real_points_do(self) -> None:
        data = Moons(labelled=True, noise=0.3)
        model = resolve("dumo-moons", overrides=["data.labelled=true"])[0].model_settings()
        settings = Evaluation.model_validate({"metrics": ["accuracy"], "count": 1000, "nfe": 1})
        scorer = Scorer(settings, data, data.open())
        right, wrong = (
            scorer(Generator(Knowing(data, shift), model, torch.device("cpu"), 256), "exact")[0] for shift in (0, 1)
        )
        assert right.floor == pytest.approx(0.907, abs=0.02)
        assert right.value == pytest.approx(0.907, abs=0.03)
        assert wrong.value == pytest.approx(1 - 0.907, abs=0.03)
        assert right.protocol is not None
        assert right.protocol["extractor"]["name"] == "exact"
        assert right.protocol["reference"] is None

    def test_the_hash_of_the_space_is_that_of_the_law(self) -> None:
        spaces = [Exact(data=d).open(torch.device("cpu")) for d in (Moons(), Moons(noise=0.1), Gaussians(noise=0.06))]
        assert len({space.sha256 for space in spaces}) == 3


def test_streams_of_labels_are_those_of_the_points() -> None:
    data = Moons(labelled=True)
    y = data.open().train(range(BLOCK), 3).y
    assert y is not None
    assert y.equal(data.law.components(BLOCK, generator(3, TRAIN, 0)) // 256)
