"""N objectives on M heads: who scores which rows, what a mixture equals, and what is refused with what to type."""

import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from genobj.cli.resolve import resolve
from genobj.composer import Composer, Loss, log_variance
from genobj.config.base import problems
from genobj.experiment import Experiment
from genobj.mixture import Share
from genobj.model import Model
from genobj.passes import Count
from genobj.types import Draw

ROWS = 12


def _experiment(objectives: dict[str, Any], **settings: Any) -> Experiment:
    return Experiment.model_validate({"backbone": {"kind": "mlp", "width": 16}, "objectives": objectives, **settings})


def _network(experiment: Experiment) -> Model:
    """The experiment's network in float64, with all weights moved a little: output layers start at zero."""
    net = experiment.model_settings().build().double()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=source))
    return net


def _draw(composer: Composer, rows: int = ROWS, **changes: Any) -> Draw:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(2))
    draw = composer.draw(x, None, torch.Generator().manual_seed(3))
    double = {
        name: value.double()
        for name, value in draw._asdict().items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return draw._replace(**double | changes)


def _score(experiment: Experiment, net: Model, draw: Draw) -> tuple[Loss, list[Tensor]]:
    """The loss and the gradients of all weights."""
    loss = experiment.composer().loss({"online": net, "ema": net}, draw)
    return loss, list(torch.autograd.grad(loss.total, list(net.parameters()), allow_unused=True))


def _close(a: list[Tensor], b: list[Tensor]) -> None:
    for one, two in zip(a, b, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-13)


class TestByRows:
    """DuMo Eq. (5): one branch learns the velocity on a share of the rows and jumps on the others."""

    @pytest.mark.parametrize("share_by", ["prefix", "bernoulli"])
    @pytest.mark.parametrize("distance", ["mse", {"kind": "adaptive", "power": 1.0}])
    def test_flow_matching_and_consistency_are_mean_flow_with_r_at_zero(self, share_by: str, distance: Any) -> None:
        pairs = {"kind": "zero", "equal_share": 0.5, "share_by": share_by}
        table = {"head": "u", "distance": distance}
        alone, both = _experiment({"mf": table}, pairs=pairs), _experiment({"fm": table, "cm": table}, pairs=pairs)
        net, draw = _network(alone), _draw(alone.composer())
        assert 0 < int((draw.r == draw.t).sum()) < ROWS
        (one, first), (two, second) = _score(alone, net, draw), _score(both, net, draw)
        torch.testing.assert_close(one.total, two.total, rtol=1e-12, atol=0)
        _close(first, second)
        equal = draw.r == draw.t
        mean = (two.terms["fm"] * equal.sum() + two.terms["cm"] * (~equal).sum()) / ROWS
        torch.testing.assert_close(mean, one.terms["mf"], rtol=1e-12, atol=0)  # terms are means over their own rows

    @pytest.mark.parametrize("objective", ["mf", "imf", "alphaflow"])
    def test_flow_matching_takes_the_equal_rows_from_an_average_velocity(self, objective: str) -> None:
        pairs, plain = {"kind": "sorted", "equal_share": 0.25}, {"head": "u", "distance": "mse"}
        alone = _experiment({objective: plain}, pairs=pairs)
        both = _experiment({objective: plain, "fm": plain}, pairs=pairs)
        shares = both.composer().shares
        assert shares == {objective: Share("rest", skips=True), "fm": Share("equal")}
        net, draw = _network(alone), _draw(alone.composer())
        (one, first), (two, second) = _score(alone, net, draw), _score(both, net, draw)
        assert one.passes == two.passes
        torch.testing.assert_close(one.total, two.total, rtol=1e-12, atol=0)
        _close(first, second)

    def test_weights_are_per_objective(self) -> None:
        pairs = {"kind": "sorted", "equal_share": 0.25}
        one = _experiment({"fm": {"head": "u"}, "mf": {}}, pairs=pairs)
        two = _experiment({"fm": {"head": "u", "weight": 3.0}, "mf": {"weight": 0.5}}, pairs=pairs)
        net, draw = _network(one), _draw(one.composer())
        plain, weighed = _score(one, net, draw)[0], _score(two, net, draw)[0]
        assert plain.terms == weighed.terms
        equal = int((draw.r == draw.t).sum())
        wanted = (3 * equal * plain.terms["fm"] + 0.5 * (ROWS - equal) * plain.terms["mf"]) / ROWS
        torch.testing.assert_close(weighed.total.detach(), wanted, rtol=1e-12, atol=0)

    def test_rows_can_be_asked_for(self) -> None:
        pairs = {"kind": "sorted", "equal_share": 0.25}
        for rows, chosen in (("equal", slice(0, 3)), ("rest", slice(3, None)), ("all", slice(None))):
            e = _experiment({"mf": {"rows": rows}}, pairs=pairs)
            net, draw = _network(e), _draw(e.composer())
            every = _experiment({"mf": {}}, pairs=pairs).objectives["mf"]
            scored = e.composer().score({"online": net}, draw)
            losses = every.loss(next(iter(scored.terms.values())).out, draw, scored.passes)
            torch.testing.assert_close(scored.terms["mf"].value, losses[chosen].mean(), rtol=1e-12, atol=0)

    def test_no_row_is_no_loss(self) -> None:
        """A draw by chance may leave a kind of rows empty: its term is zero, not a division by zero."""
        e = _experiment({"fm": {"head": "u"}, "mf": {}}, pairs={"equal_share": 0.5, "share_by": "bernoulli"})
        net, draw = _network(e), _draw(e.composer())
        loss, gradients = _score(e, net, draw._replace(r=draw.t / 2))
        assert loss.terms["fm"] == 0
        assert all(g.isfinite().all() for g in gradients)


class TestBySum:
    """rows=all: an evaluation of its own, at the r that the objective is about, on every row."""

    def test_flow_matching_beside_mean_flow(self) -> None:
        pairs = {"kind": "sorted", "equal_share": 0.25}
        e = _experiment({"fm": {"head": "u", "rows": "all", "weight": 0.7}, "mf": {"weight": 0.3}}, pairs=pairs)
        assert e.composer().shares == {"fm": Share("all", "instant"), "mf": Share("all", skips=True)}
        net, draw = _network(e), _draw(e.composer())
        loss, gradients = _score(e, net, draw)
        assert loss.passes == Count(2, 2 * 0.75, 0)

        mf = _experiment({"mf": {"weight": 0.3}}, pairs=pairs)
        alone = mf.composer().loss({"online": net}, draw)
        by_hand = alone.total + 0.7 * (net(draw.x_t, draw.t, r=draw.t)["u"] - draw.v_t).square().mean()
        torch.testing.assert_close(loss.total, by_hand, rtol=1e-12, atol=0)
        _close(gradients, list(torch.autograd.grad(by_hand, list(net.parameters()))))

    def test_consistency_beside_mean_flow(self) -> None:
        exact = {"derivative": {"method": "jvp"}}
        e = _experiment({"cm": {"rows": "all", **exact}, "mf": exact}, pairs={"kind": "below", "equal_share": 0.25})
        assert e.composer().shares["cm"] == Share("all", "data")
        net, draw = _network(e), _draw(e.composer())
        loss, _ = _score(e, net, draw)
        assert loss.passes == Count(2, 0, 1.75)
        zero = torch.zeros_like(draw.t)

        def u(x_t: Tensor, t: Tensor) -> Tensor:
            return net(x_t, t, r=zero)["u"]

        value, slope = torch.func.jvp(u, (draw.x_t, draw.t), (draw.v_t, torch.ones_like(draw.t)))
        by_hand = (value - (draw.v_t - draw.t[:, None] * slope)).square().mean()
        torch.testing.assert_close(loss.terms["cm"], by_hand.detach(), rtol=1e-12, atol=0)

    def test_the_guidance_takes_the_velocity_from_the_evaluation_at_r_equal_t(self) -> None:
        tree: dict[str, Any] = {"data": "digits", "guidance": "self", "evaluation": {"metrics": ["accuracy"]}}
        by_sum = _experiment({"fm": {"head": "u", "rows": "all"}, "mf": {}}, **tree).composer()
        net = _experiment({"mf": {}}, **tree).model_settings().build()
        draw = by_sum.draw(torch.randn(8, 1, 8, 8), torch.arange(8), torch.Generator().manual_seed(0))
        assert by_sum.loss({"online": net}, draw).passes == Count(2, 3, 0)  # a single branch alone: 1 + 4


def test_an_objective_may_occur_twice_with_other_options() -> None:
    pairs = {"kind": "below", "equal_share": 0.25}
    options: dict[str, dict[str, Any]] = {
        "one": {"kind": "mf", "weight": 0.4},
        "two": {"kind": "mf", "weight": 0.6, "distance": "pseudo_huber", "derivative": {"method": "jvp"}},
    }
    both = _experiment(options, pairs=pairs)
    net, draw = _network(both), _draw(both.composer())
    loss, gradients = _score(both, net, draw)
    assert loss.passes == Count(1, 1.5, 0.75)
    alone = [_score(_experiment({name: table}, pairs=pairs), net, draw) for name, table in options.items()]
    torch.testing.assert_close(loss.total, alone[0][0].total + alone[1][0].total, rtol=1e-12, atol=0)
    _close(gradients, [a + b for a, b in zip(alone[0][1], alone[1][1], strict=True)])


def test_heads_of_several_horizons_are_interval_heads_and_see_r() -> None:
    e = _experiment({"fm": {"head": "u"}, "cm": {}}, pairs={"kind": "zero", "equal_share": 0.5})
    assert e.horizons == {"u": "interval"}
    assert e.model_settings().build().sees_r == {"u"}
    assert _experiment({"fm": {}, "cm": {}}).horizons == {"v": "instant", "u": "data"}
    three = _experiment({"fm": {}, "mf": {}, "cm": {"head": "w"}})
    assert three.horizons == {"v": "instant", "u": "interval", "w": "data"}
    assert three.model_settings().build().sees_r == {"u"}  # the trunk sees no r


class TestUncertainty:
    """exp(-s) L + s with a learned s(t, r)."""

    def test_the_head_is_made_and_the_logged_term_is_the_raw_loss(self) -> None:
        e = _experiment({"fm": {"uncertainty": True, "weight": 0.5}, "cm": {}})
        assert list(e.heads) == ["v", "u", "fm_log_variance"]
        assert e.horizons == {"v": "instant", "u": "data"}
        assert Experiment.model_validate(e.tree()) == e
        net, draw = _network(e), _draw(e.composer())
        loss, gradients = _score(e, net, draw)
        out = net(draw.x_t, draw.t, r=draw.r)
        s, raw = out[log_variance("fm")], (out["v"] - draw.v_t).square().mean(1)
        assert s.shape == (ROWS,)
        assert s.abs().min() > 0
        torch.testing.assert_close(loss.terms["fm"], raw.mean().detach(), rtol=1e-12, atol=0)
        by_hand = 0.5 * ((-s).exp() * raw + s).mean() + loss.terms["cm"]
        torch.testing.assert_close(loss.total.detach(), by_hand.detach(), rtol=1e-12, atol=0)
        assert all(g is not None and g.isfinite().all() for g in gradients)

    def test_it_starts_as_the_plain_loss_and_rests_at_the_logarithm_of_the_loss(self) -> None:
        e = _experiment({"fm": {"uncertainty": True}})
        net, draw = e.model_settings().build().double(), _draw(e.composer())
        loss = e.composer().loss({"online": net}, draw)
        torch.testing.assert_close(loss.total.detach(), loss.terms["fm"], rtol=1e-12, atol=0)

        scored = e.composer().score({"online": net}, draw)
        raw = (scored.terms["fm"].out["v"] - draw.v_t).square().mean(1).detach()
        for shift, sign in ((0.0, 0), (0.5, 1), (-0.5, -1)):
            s = (raw.log() + shift).requires_grad_()
            term = e.composer()._term("fm", raw, {}, {log_variance("fm"): s}, None, draw)
            slope = torch.autograd.grad(term.share, s)[0]
            assert (slope.sign() == sign).all() if sign else slope.abs().max() < 1e-15

    def test_an_interval_objective_has_one_of_t_and_r(self) -> None:
        e = _experiment({"mf": {"uncertainty": True}})
        net = _network(e)
        x, t = torch.randn(5, 2).double(), torch.full((5,), 0.8).double()
        s = [net(x, t, r=r * t)[log_variance("mf")] for r in (0.0, 0.5)]
        assert (s[0] - s[1]).abs().min() > 1e-4
        assert s[0].unique().numel() == 1  # of the times alone, not of x_t

    def test_its_head_cannot_be_a_projection_nor_another_head_a_number(self) -> None:
        with pytest.raises(ValueError, match=r"heads\.fm_log_variance gives a tensor"):
            _experiment({"fm": {"uncertainty": True}}, heads={"v": {}, "fm_log_variance": {"kind": "projection"}})
        with pytest.raises(ValueError, match=r"heads\.v gives one number"):
            _experiment({"fm": {}}, heads={"v": {"kind": "log_variance"}})


def suggestions(message: str) -> list[list[str]]:
    """The alternatives of what a message tells to type, each a list of overrides."""
    typed = message.partition("type ")[2]
    return [found for part in re.split(r", or |; ", typed) if (found := re.findall(r"[\w.]+=[\w.]+", part))]


def refused(objectives: str, overrides: list[str], says: str) -> list[list[str]]:
    """What the refusal of these settings tells to type."""
    with pytest.raises(ValidationError, match=says) as error:
        resolve(objectives=objectives, overrides=overrides)
    ((_, message),) = problems(error.value)
    return suggestions(message)


REFUSALS: list[tuple[str, list[str], str, int]] = [
    # objectives, overrides, what is said, how many ways out
    ("fm@u,mf@u", [], r"objectives\.fm learns the velocity .* r = t, and there are none", 3),
    ("fm@u,mf@u", ["pairs=dyadic", "pairs.finest=step"], "there are none", 3),
    ("fm@u,mf@u", ["pairs=dyadic", "pairs.finest=step", "pairs.equal_share=0"], "there are none", 3),
    ("fm@u,soflow@u", ["pairs=below"], "there are none", 3),
    ("fm@u,cm@u", ["pairs=equal"], "asks head 'u' for the jump to r = 0", 3),
    ("fm@u,cm@u", ["pairs.equal_share=0.5"], r"objectives\.cm asks head 'u' .* the drawn r lie elsewhere", 3),
    ("mf@u,cm@u", ["pairs.equal_share=0.5"], "asks head 'u' for the jump to r = 0", 3),
    ("fm@v,mf@u", ["objectives.mf.rows=equal"], r"objectives\.mf\.rows=equal: no row has r = t", 1),
    ("mf@u", ["objectives.mf.rows=equal", "pairs=dyadic", "pairs.finest=step"], "no row has r = t", 1),
    ("fm@u,mf@u", ["pairs.equal_share=1"], r"objectives\.mf has no row left: pairs\.equal_share=1", 1),
    ("fm@u,mf@u", ["pairs=equal"], r"objectives\.mf has no row left: pairs=equal", 1),
    ("sc", [], r"objectives\.sc: nothing ties head 'u' to the data", 1),
    ("split", ["pairs=below"], r"objectives\.split: nothing ties head 'u'", 1),
    ("fm@v,sc@u", [], "nothing ties head 'u'", 1),
    ("fm@v,sc@u,cm@w", [], "nothing ties head 'u'", 1),
    ("sc@u,split@u", [], "nothing ties head 'u'", 1),
    ("sc", ["objectives.sc.rows=rest"], "nothing ties head 'u'", 1),
    ("sc", ["objectives.sc.rows=rest", "pairs.equal_share=0.5"], "nothing ties head 'u'", 1),
    ("sc", ["pairs=dyadic", "pairs.equal_share=0"], "nothing ties head 'u'", 1),
    ("mf@u,sc@u", ["objectives.mf.weight=0"], r"objectives\.sc: nothing ties head 'u'", 1),
]


@pytest.mark.parametrize(("objectives", "overrides", "says", "ways"), REFUSALS)
def test_what_a_refusal_tells_to_type_works(objectives: str, overrides: list[str], says: str, ways: int) -> None:
    found = refused(objectives, overrides, says)
    assert len(found) == ways
    for typed in found:
        experiment, _ = resolve(objectives=objectives, overrides=[*overrides, *typed])
        composer = experiment.composer()
        x = torch.randn(16, 2)
        networks = dict.fromkeys(composer.networks, experiment.model_settings().build())
        loss = composer(networks, x, None, torch.Generator().manual_seed(0))
        assert loss.total.isfinite(), typed


def test_one_refusal_tells_all_that_two_objectives_on_a_head_lack() -> None:
    """fm and cm on one head with r anywhere lack rows with r = t and rows with r = 0."""
    first = refused("fm@u,cm@u", [], r"objectives\.fm learns the velocity")[0]
    assert first == ["pairs=zero", "pairs.equal_share=0.5"]
    assert resolve(objectives="fm@u,cm@u", overrides=first)[0].horizons == {"u": "interval"}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["pairs.equal_share=0.5"], r"scale guides the finest jumps, and there are none; type pairs=dyadic"),
        (["pairs=dyadic", "pairs.finest=step", "label_drop=0.0"], r"never trained; type label_drop=0\.1"),
        (["pairs=dyadic", "pairs.finest=step", "data=moons"], r"choose data with labels"),
    ],
)
def test_guided_half_jumps_need_a_finest_step_and_a_null_label(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve("shortcut-digits", overrides=["objectives.sc.scale=1.5", "evaluation.metrics=[]", *overrides])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["imf@u", "pairs=zero"], r"objectives\.imf asks head 'u' for the velocity, at r = t, where no row is trained"),
        (["mf@u", "pairs=zero", "data=digits", "guidance=self"], r"guidance asks head 'u' for the velocity, at r = t"),
        (["fm,cm", "data=digits", "guidance=self", "objectives.fm.weight=0"], r"which weight 0 never trains"),
        (
            ["cm@u", "objectives.cm.derivative.direction=predicted"],
            r"objectives\.cm needs a head that gives the velocity",
        ),
        (["fm@u,soflow@u", "pairs.equal_share=0.5", "objectives.soflow.uncertainty=true"], r"leave uncertainty out"),
        (["sc@u", "pairs=zero", "pairs.equal_share=0.25"], r"pairs=zero never trains those"),
        (["cm@u,sc@u", "pairs.equal_share=0.0", "objectives.cm.rows=all"], r"nothing ties head 'u' to the data"),
        (["fm,ect", "path=trig"], r"objectives\.ect holds on the linear path only; type path=linear"),
        (["fm,cm", "heads.u.r_in=trunk", "heads.v.r_in=head"], r"never asked for another r; leave r_in out"),
    ],
)
def test_contradictory_needs_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve(objectives=words[0], overrides=words[1:])


def test_rows_mean_nothing_without_r() -> None:
    with pytest.raises(ValueError, match=r"objectives\.cm\.rows=equal: no head of this model sees r; leave rows out"):
        resolve(objectives="fm@v,cm@u", overrides=["objectives.cm.rows=equal"])


@pytest.mark.parametrize(
    ("objectives", "overrides"),
    [
        ("sc", ["pairs.equal_share=0.25"]),
        ("sc", ["pairs=dyadic"]),
        ("sc", ["pairs=dyadic", "pairs.finest=step"]),
        ("split", ["pairs=dyadic", "pairs.finest=step"]),
        ("sc", ["pairs=capped"]),
        ("sc", ["pairs=equal"]),
        ("mf@u,sc@u", []),
        ("sc@u,mf@u", ["objectives.sc.rows=rest", "pairs.equal_share=0.5"]),
        ("fm@u,sc@u", ["objectives.fm.rows=all"]),
        ("fm@u,split@u", ["pairs.equal_share=0.5"]),
        ("mf", []),
        ("imf", []),
        ("alphaflow", []),
        ("soflow", []),
    ],
)
def test_an_anchored_head_is_accepted(objectives: str, overrides: list[str]) -> None:
    resolve(objectives=objectives, overrides=overrides)
