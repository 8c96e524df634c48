"""Distances: the identities between them (OBJECTIVES A0 and fact C), gradients, precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobj.distances.adaptive import Adaptive
from genobj.distances.barron import Barron
from genobj.distances.cosine import Cosine
from genobj.distances.mse import MSE
from genobj.distances.pseudo_huber import PseudoHuber
from genobj.distances.sum import Sum
from genobj.parts import DISTANCES

ALL = [
    *(DISTANCES.get(name)() for name in DISTANCES.names()),
    Adaptive(power=0.5, reduce="mean"),
    PseudoHuber(reduce="mean"),
    Barron(alpha=-2.0, c=0.1),
]


def pair(*shape, dtype=torch.float64):
    prediction, target = torch.randn(2, *shape, dtype=dtype)
    return prediction.requires_grad_(), target


def gradient(distance, prediction, target):
    return torch.autograd.grad(distance(prediction, target).sum(), prediction)[0]


@pytest.mark.parametrize("distance", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 4, 4), (1, 1, 2, 2)])
def test_one_number_a_sample_each_of_its_own_row(distance, shape):
    prediction, target = pair(*shape)
    losses = distance(prediction, target)
    assert losses.shape == shape[:1]
    torch.testing.assert_close(
        losses, torch.cat([distance(prediction[i : i + 1], target[i : i + 1]) for i in range(shape[0])])
    )
    assert (losses >= 0).all()


@pytest.mark.parametrize("distance", ALL, ids=repr)
@pytest.mark.parametrize("zero", [False, True])
def test_equality_costs_nothing_and_has_a_finite_gradient(distance, zero):
    prediction, _ = pair(4, 2, 3, 3, dtype=torch.float32)
    prediction = (prediction * (not zero)).detach().requires_grad_()
    losses = distance(prediction, prediction.detach().clone())
    atol = 1e-6
    if zero and isinstance(distance, Cosine | Sum):
        losses = losses - 1  # a vector of length zero has no direction
    torch.testing.assert_close(losses, torch.zeros_like(losses), atol=atol, rtol=0)
    slope = gradient(distance, prediction, prediction.detach().clone())
    assert slope.isfinite().all()
    assert slope.abs().max() < 1e-5


@pytest.mark.parametrize("distance", ALL, ids=repr)
def test_gradients_flow_to_the_prediction_only(distance):
    prediction, target = pair(3, 2, 2, 2)
    target.requires_grad_()
    distance(prediction, target).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None


@pytest.mark.parametrize("distance", ALL, ids=repr)
def test_low_precision_is_widened_before_arithmetic(distance):
    prediction, target = (half.detach().bfloat16() for half in pair(4, 2, 8, 8))
    losses = distance(prediction, target)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, distance(prediction.float(), target.float()))
    assert torch.equal(losses, distance(prediction, target.float()))
    assert distance(prediction.double(), target.double()).dtype == torch.float64


def test_the_formulas():
    prediction, target = pair(6, 2, 3, 3)
    s = (prediction - target).square().flatten(1).sum(1)
    m = s / 18
    torch.testing.assert_close(MSE()(prediction, target), m)
    torch.testing.assert_close(Adaptive(power=0.75, eps=0.01)(prediction, target), s / (s + 0.01) ** 0.75)
    torch.testing.assert_close(PseudoHuber(c=0.3)(prediction, target), (s + 0.09).sqrt() - 0.3)
    torch.testing.assert_close(PseudoHuber(c=0.3, reduce="mean")(prediction, target), (m + 0.09).sqrt() - 0.3)
    weight = (m / (0.1**2 + 1e-8) / 2.5 + 1) ** ((-0.5 - 2) / 2)
    torch.testing.assert_close(Barron(alpha=-0.5, c=0.1)(prediction, target), m * weight / 0.1)
    cosine = (prediction * target).sum(1) / (prediction.norm(dim=1) * target.norm(dim=1))
    torch.testing.assert_close(Cosine()(prediction, target), (1 - cosine).mean((1, 2)))


@settings(deadline=None, max_examples=40)
@given(p=st.floats(0, 2), eps=st.floats(1e-6, 10), d=st.integers(1, 50))
def test_sum_and_mean_differ_by_a_power_of_the_size(p, eps, d):
    """adaptive(S; p, eps) = D^(1-p) adaptive(S/D; p, eps/D)."""
    prediction, target = pair(3, d)
    summed = Adaptive(power=p, eps=eps)(prediction, target)
    meaned = Adaptive(power=p, eps=eps / d, reduce="mean")(prediction, target)
    torch.testing.assert_close(summed, d ** (1 - p) * meaned)


@settings(deadline=None, max_examples=40)
@given(c=st.floats(1e-3, 10), reduce=st.sampled_from(["sum", "mean"]))
def test_pseudo_huber_pulls_like_half_an_adaptive_distance(c, reduce):
    prediction, target = pair(3, 2, 2, 2)
    half = gradient(Adaptive(power=0.5, eps=c**2, reduce=reduce), prediction, target) / 2
    torch.testing.assert_close(gradient(PseudoHuber(c=c, reduce=reduce), prediction, target), half)


def test_barron_with_alpha_one_is_adaptive_on_the_mean():
    prediction, target = pair(4, 5)
    c = 0.01
    adaptive = Adaptive(power=0.5, eps=c**2, reduce="mean")
    torch.testing.assert_close(
        Barron(alpha=1.0, c=c)(prediction, target), adaptive(prediction, target), rtol=1e-4, atol=0
    )


def test_the_weight_carries_no_gradient():
    prediction, target = pair(4, 5)
    s = (prediction - target).square().sum(1, keepdim=True).detach()
    torch.testing.assert_close(gradient(Adaptive(), prediction, target), 2 * (prediction - target) / (s + 1e-3))


def test_pseudo_huber_does_not_cancel_in_float32():
    """sqrt(S + c^2) - c loses all digits for S << c^2; the quotient keeps them."""
    prediction, target = torch.full((1, 1), 1e-4), torch.zeros(1, 1)
    expected = math.sqrt(1e-8 + 1) - 1
    assert PseudoHuber(c=1.0)(prediction, target).item() == pytest.approx(expected, rel=1e-5)


def test_cosine_ignores_length_and_takes_a_vector_as_one_pixel():
    prediction, target = pair(4, 7)
    torch.testing.assert_close(Cosine()(3 * prediction, target), Cosine()(prediction, 0.1 * target))
    torch.testing.assert_close(Cosine()(prediction, -prediction.detach()), torch.full((4,), 2.0, dtype=torch.float64))


class TestSum:
    def test_it_adds_its_parts(self):
        prediction, target = pair(4, 2, 3, 3)
        parts = [Adaptive(), Cosine(), MSE()]
        total = Sum(parts=tuple(parts))(prediction, target)
        torch.testing.assert_close(total, sum(part(prediction, target) for part in parts))
        torch.testing.assert_close(Sum()(prediction, target), MSE()(prediction, target) + Cosine()(prediction, target))

    def test_its_parts_are_names_or_tables_and_survive_saving(self):
        parts = ["mse", {"kind": "pseudo_huber", "c": 0.3}, {"kind": "sum", "parts": ["cosine"]}]
        made = Sum.model_validate({"parts": parts})
        assert made.parts == (MSE(), PseudoHuber(c=0.3), Sum(parts=(Cosine(),)))
        assert Sum.model_validate(made.model_dump(mode="json")) == made

    @pytest.mark.parametrize(("parts", "told"), [([], "at least 1 item"), (["mean"], "Did you mean|unknown distance")])
    def test_mistakes_are_told(self, parts, told):
        with pytest.raises(ValueError, match=told):
            Sum.model_validate({"parts": parts})

    def test_its_schema_ends(self):
        assert Sum.model_json_schema()["properties"]["parts"]["type"] == "array"
