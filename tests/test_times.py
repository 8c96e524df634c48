"""Laws of t and of (t, r): moments against scipy, the range, the order, and numbers that only the generator decides."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobj import seeds
from genobj.parts import PAIRS, TIMES
from genobj.times.beta import Beta
from genobj.times.dyadic import Dyadic
from genobj.times.kumaraswamy import Kumaraswamy
from genobj.times.logit_normal import LogitNormal
from genobj.times.pairs import Below, Capped, Equal, Sorted, Zero
from genobj.times.uniform import Uniform

N = 40_000
LAWS = [
    (Uniform(), scipy.stats.uniform()),
    (Beta(), scipy.stats.uniform()),
    (Beta(a=2, b=2), scipy.stats.beta(2, 2)),
    (Beta(a=0.8, b=1), scipy.stats.beta(0.8, 1)),
    (Beta(a=0.05, b=0.1), scipy.stats.beta(0.05, 0.1)),
    (LogitNormal(), None),
    (LogitNormal(mean=-2, std=2), None),
    (Kumaraswamy(), scipy.stats.uniform()),
    (Kumaraswamy(a=2, b=3), None),
]
CDFS = {
    "LogitNormal": lambda law, t: scipy.stats.norm(law.mean, law.std).cdf(scipy.special.logit(t)),
    "Kumaraswamy": lambda law, t: 1 - (1 - t**law.a) ** law.b,
}


@pytest.mark.parametrize(("law", "truth"), LAWS, ids=lambda value: repr(value)[:40])
def test_times_follow_their_law(law, truth):
    t = law.sample(N, seeds.generator(0)).double().numpy()
    cdf = truth.cdf if truth else lambda s: CDFS[type(law).__name__](law, s)
    places = np.linspace(0.001, 0.999, 999)  # float32 rounds much of Beta(0.05, 0.1) to 1
    gap = np.abs(np.searchsorted(np.sort(t), places) / N - cdf(places)).max()
    assert gap < 1.95 / math.sqrt(N)  # Kolmogorov and Smirnov: passes 99.9 % of true laws
    if truth:
        assert abs(t.mean() - truth.mean()) < 4 * truth.std() / math.sqrt(N)
        assert abs(t.std() - truth.std()) < 0.01


@pytest.mark.parametrize("name", TIMES.names())
def test_times_are_float32_in_the_unit_interval_and_repeat_with_the_generator(name):
    law = TIMES.get(name)()
    first, again, other = (law.sample(1000, seeds.generator(seed)) for seed in (3, 3, 4))
    assert first.dtype == torch.float32
    assert first.shape == (1000,)
    assert (first >= 0).all()
    assert (first <= 1).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@settings(deadline=None, max_examples=60)
@given(a=st.floats(1e-6, 1e4), b=st.floats(1e-6, 1e4))
def test_beta_is_finite_for_any_shape(a, b):
    t = Beta(a=a, b=b).sample(64, seeds.generator(0))
    assert t.isfinite().all()
    assert ((t >= 0) & (t <= 1)).all()


def test_a_tiny_beta_is_a_coin():
    """Beta(s a, s b) tends to a coin with probability a / (a + b), where the naive ratio is 0 / 0."""
    t = Beta(a=1e-4, b=3e-4).sample(N, seeds.generator(0))
    assert ((t < 1e-3) | (t > 1 - 1e-3)).float().mean() > 0.99
    assert abs(t.mean().item() - 0.25) < 0.01


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(PAIRS.names()),
    law=st.sampled_from(TIMES.names()),
    share=st.floats(0, 1),
    by=st.sampled_from(["prefix", "bernoulli"]),
    batch=st.integers(1, 70),
    seed=st.integers(0, 10**6),
)
def test_r_never_exceeds_t(name, law, share, by, batch, seed):
    cls = PAIRS.get(name)
    pairs = cls(equal_share=share, share_by=by) if cls.mixes and name != "grouped" else cls()
    batch *= pairs.together
    t, r = pairs.sample(TIMES.get(law)(), batch, seeds.generator(seed))
    own = t < 0  # rows for the model's own samples
    assert own.nonzero().flatten().tolist() == list(pairs.groups(batch).get(pairs.negative or "", range(0)))
    assert torch.equal(t[own], r[own])
    t, r = t.abs(), r.abs()
    assert t.shape == r.shape == (batch,)
    assert t.dtype == r.dtype == torch.float32
    assert (r >= 0).all()
    assert (r <= t).all()
    assert (t <= 1).all()
    again = pairs.sample(TIMES.get(law)(), batch, seeds.generator(seed))
    assert torch.equal(again[0].abs(), t)
    assert torch.equal(again[1].abs(), r)


@pytest.mark.parametrize("name", ["zero", "below", "sorted"])
@pytest.mark.parametrize(("share", "batch"), [(0.0, 8), (0.25, 10), (0.75, 64), (0.8, 7), (1.0, 5), (0.01, 64)])
def test_the_equal_share_is_a_prefix_of_exactly_its_size(name, share, batch):
    t, r = PAIRS.get(name)(equal_share=share).sample(Uniform(), batch, seeds.generator(1))
    n = int(share * batch)
    assert torch.equal(t[:n], r[:n])
    assert (r[n:] < t[n:]).all()


def test_a_bernoulli_share_is_spread_over_the_batch():
    t, r = Sorted(equal_share=0.3, share_by="bernoulli").sample(Uniform(), N, seeds.generator(0))
    equal = (t == r).float()
    assert abs(equal.mean().item() - 0.3) < 0.01
    assert abs(equal[: N // 2].mean().item() - equal[N // 2 :].mean().item()) < 0.02


def test_each_pair_law_is_what_it_says():
    source = [seeds.generator(7) for _ in range(4)]
    t = Beta().sample(N, seeds.generator(7))
    assert torch.equal(Zero().sample(Beta(), N, source[0])[1], torch.zeros(N))
    assert torch.equal(Equal().sample(Beta(), N, source[1])[1], t)
    below = Below().sample(Beta(), N, source[2])
    assert torch.equal(below[0], t)
    assert scipy.stats.kstest((below[1] / below[0]).double().numpy(), "uniform").statistic < 1.95 / math.sqrt(N)
    larger, smaller = Sorted().sample(Uniform(), N, source[3])
    assert abs(larger.mean().item() - 2 / 3) < 0.01
    assert abs(smaller.mean().item() - 1 / 3) < 0.01


def test_the_settings_of_mean_flow_give_its_measured_moments():
    """OBJECTIVES B1: ImageNet E[t] = .535, E[r] = .476, P(r < t) = .25; CIFAR v1 E[t] = .398, E[r] = .131, .7001."""
    t, r = Sorted(equal_share=0.75, share_by="bernoulli").sample(LogitNormal(), N, seeds.generator(0))
    got = torch.tensor([t.mean(), r.mean(), (r < t).float().mean()])
    torch.testing.assert_close(got, torch.tensor([0.535, 0.476, 0.25]), atol=0.01, rtol=0)
    pairs = Capped(equal_share=0.25, share_by="bernoulli", law=LogitNormal(mean=-4, std=1.6))
    t, r = pairs.sample(LogitNormal(mean=-0.6, std=1.6), N, seeds.generator(0))
    got = torch.tensor([t.mean(), r.mean(), (r < t).float().mean()])
    torch.testing.assert_close(got, torch.tensor([0.398, 0.131, 0.7001]), atol=0.01, rtol=0)


def test_the_law_of_r_is_read_from_a_recipe():
    pairs = Capped.model_validate({"law": {"kind": "beta", "a": 2.0}})
    assert pairs.law == Beta(a=2.0)
    assert Capped.model_validate(pairs.model_dump(mode="json")) == pairs


class TestDyadic:
    """Jumps of length 2^-k from a grid (OBJECTIVES B3, the official Shortcut code)."""

    def levels(self, batch: int, **settings) -> dict[int, int]:
        pairs = Dyadic(**settings)
        equal = pairs.prefix(batch)
        found = pairs.lengths(batch)
        assert found.shape == (batch,)
        assert (found[:equal] == pairs.levels).all()
        jumps = found[equal:].int().tolist()
        assert jumps == sorted(jumps, reverse=True)
        return {level: jumps.count(level) for level in sorted(set(jumps))}

    def test_official_counts(self):
        """One row in eight makes jumps, nb of them: nb // 7 on each level, the rest on the longest."""
        assert self.levels(256) == {0: 8, 1: 4, 2: 4, 3: 4, 4: 4, 5: 4, 6: 4}
        assert self.levels(64) == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}

    def test_biased_counts(self):
        """Half of the jumps on levels 6 to 2, a quarter on level 1, a quarter and what is left on level 0."""
        assert self.levels(256, biased=True) == {0: 9, 1: 8, 2: 3, 3: 3, 4: 3, 5: 3, 6: 3}
        assert self.levels(640, biased=True) == {0: 20, 1: 20, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8}
        assert self.levels(64, biased=True) == {0: 6, 1: 2}
        assert self.levels(64, biased=True, levels=2) == self.levels(64, levels=2) == {0: 4, 1: 4}

    @pytest.mark.parametrize("finest", ["velocity", "step"])
    @pytest.mark.parametrize("biased", [False, True])
    def test_jumps_start_on_multiples_of_their_length(self, finest, biased):
        pairs = Dyadic(finest=finest, biased=biased)
        t, r = pairs.sample(Uniform(), 256, seeds.generator(0))
        step = 2.0 ** -pairs.lengths(256)
        assert torch.equal(t % step, torch.zeros(256))
        assert (t >= step).all()
        assert (t <= 1).all()
        equal = pairs.prefix(256)
        assert equal == 224
        assert torch.equal((t - r)[equal:], step[equal:])
        assert ((t - r)[:equal] == (1 / 128 if finest == "step" else 0)).all()
        assert pairs.gap == (1 / 128 if finest == "step" else 0)
        assert (t[step == 1] == 1).all()  # the whole way is one jump

    def test_starts_are_uniform_on_their_grid(self):
        t, _ = Dyadic(equal_share=0.0, levels=2).sample(Uniform(), N, seeds.generator(0))
        half = t[: N // 2]  # level 1: t is 1/2 or 1
        assert set(half.tolist()) == {0.5, 1.0}
        assert abs((half == 1).float().mean().item() - 0.5) < 0.02
        t, _ = Dyadic(equal_share=1.0).sample(Uniform(), N, seeds.generator(0))
        counts = torch.bincount((t * 128).long(), minlength=129)
        assert counts[0] == 0
        assert (abs(counts[1:] - N / 128) < 6 * math.sqrt(N / 128)).all()

    @settings(deadline=None, max_examples=100)
    @given(
        share=st.floats(0, 1),
        by=st.sampled_from(["prefix", "bernoulli"]),
        law=st.sampled_from([None, Uniform(), LogitNormal()]),
        finest=st.sampled_from(["velocity", "step"]),
        levels=st.integers(1, 12),
        biased=st.booleans(),
        batch=st.integers(1, 70),
    )
    def test_any_settings_keep_the_order_and_the_range(self, share, by, law, finest, levels, biased, batch):
        pairs = Dyadic(equal_share=share, share_by=by, equal_times=law, finest=finest, levels=levels, biased=biased)
        t, r = pairs.sample(Uniform(), batch, seeds.generator(0))
        assert ((r >= 0) & (r <= t) & (t <= 1)).all()
        gap = t - r
        n = pairs.prefix(batch)
        assert (gap[:n] <= pairs.gap).all()
        jumps = gap[gap > pairs.gap]
        assert torch.equal(jumps.log2(), jumps.log2().round())
        if by == "prefix":
            assert (gap[n:] >= 2.0 ** (1 - levels)).all()

    def test_rows_of_the_equal_share_may_have_a_law_of_their_own(self):
        pairs = Dyadic(equal_share=0.5, equal_times=LogitNormal(mean=3.0, std=0.1))
        t, r = pairs.sample(Uniform(), 200, seeds.generator(0))
        assert torch.equal(t[:100], r[:100])
        assert (t[:100] > 0.9).all()
        assert (t[100:] < 0.9).any()


def test_rows_with_r_at_t_may_have_a_law_of_their_own():
    """SoFlow draws the times of its velocity part from another law."""
    for pairs in (Sorted(equal_share=0.5, equal_times=LogitNormal(mean=3.0, std=0.1)), Below(equal_share=0.5)):
        t, r = pairs.sample(Uniform(), 2000, seeds.generator(0))
        assert torch.equal(t[:1000], r[:1000])
        assert bool((t[:1000] > 0.9).all()) == (pairs.equal_times is not None)
        assert (t[1000:] < 0.9).any()


def test_anchors_say_whether_rows_with_r_at_t_are_drawn():
    for name in PAIRS.names():
        cls = PAIRS.get(name)
        for share in (0.0, 0.25) if cls.mixes else (0.0,):
            pairs = cls(equal_share=share)
            t, r = pairs.sample(LogitNormal(mean=-1.0, std=2.0), N, seeds.generator(0))
            assert pairs.anchors == bool((t - r <= pairs.gap)[t > 0].any()), name
