"""Numbers that change during a run: their values, how they are written, and that a run really follows them."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobj.cli.resolve import resolve
from genobj.composer import Composer
from genobj.experiment import Experiment
from genobj.objectives.alpha_flow import AlphaFlow
from genobj.objectives.consistency import Consistency
from genobj.objectives.easy_consistency import EasyConsistency
from genobj.objectives.improved_consistency import ImprovedConsistency
from genobj.objectives.solution_flow import SolutionFlow
from genobj.parts import SCHEDULES
from genobj.run import Run
from genobj.schedules import Constant, Cosine, Doubling, Exponential, Ramp, Root, Sigmoid, Stairs, Straight

RAMPS = [name for name in SCHEDULES.names() if issubclass(SCHEDULES.get(name), Ramp)]


class TestValues:
    def test_every_kind_is_registered(self) -> None:
        classes = (Constant, Straight, Cosine, Exponential, Sigmoid, Stairs, Doubling, Root)
        assert {SCHEDULES.name_of(cls) for cls in classes} == set(SCHEDULES.names())

    @pytest.mark.parametrize("name", RAMPS)
    def test_ramps_are_monotone_between_their_ends_and_flat_outside(self, name: str) -> None:
        ramp = SCHEDULES.get(name).model_validate({"start": 2.0, "end": 16.0, "begin": 0.25, "until": 0.75})
        values = [ramp(i / 400) for i in range(401)]
        assert all(b >= a for a, b in pairwise(values))
        assert set(values[:100]) == {2.0}
        assert set(values[300:]) == {16.0}
        assert values[105] < values[200] < values[295]
        assert ramp.span == (2.0, 16.0)

    @pytest.mark.parametrize("name", [name for name in RAMPS if name not in ("doubling", "root")])
    def test_ramps_may_fall(self, name: str) -> None:
        ramp = SCHEDULES.get(name).model_validate({"start": 4.0, "end": 0.5})
        values = [ramp(i / 100) for i in range(101)]
        assert all(b <= a for a, b in pairwise(values))
        assert (values[0], values[-1]) == (4.0, 0.5)
        assert ramp.span == (0.5, 4.0)

    @settings(deadline=None, max_examples=100)
    @given(
        name=st.sampled_from(SCHEDULES.names()),
        ends=st.tuples(st.floats(0.01, 1e4), st.floats(0.01, 1e4)).filter(lambda ends: ends[0] < ends[1]),
        progress=st.floats(0, 1),
    )
    def test_values_stay_within_the_span(self, name: str, ends: tuple[float, float], progress: float) -> None:
        tree = {"value": ends[0]} if name == "constant" else {"start": ends[0], "end": ends[1]}
        tree |= {"end": 8 * ends[0]} if name == "doubling" else {}
        tree |= {"start": float(math.ceil(ends[0])), "end": float(math.ceil(ends[1]) + 1)} if name == "root" else {}
        schedule = SCHEDULES.get(name).model_validate(tree)
        low, high = schedule.span
        assert low * (1 - 1e-9) <= schedule(progress) <= high * (1 + 1e-9)

    def test_middles(self) -> None:
        assert Straight(start=1.0, end=0.0)(0.3) == pytest.approx(0.7)
        assert Cosine(start=1.0, end=0.0)(0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
        assert Exponential(start=0.1, end=0.002)(0.5) == pytest.approx(math.sqrt(0.1 * 0.002))
        assert Sigmoid(start=1.0, end=0.0)(0.5) == pytest.approx(0.5)
        assert Constant(value=0.3)(0.9) == 0.3

    def test_alpha_flow_leaves_one_and_reaches_zero_where_the_official_code_does(self) -> None:
        """k0 = 0, k1 = 400k: 1 until 115k, below from 115.5k on, exactly 0 (the derivative) from 285k on."""
        a = AlphaFlow().a
        assert a(115_000 / 400_000) == 1.0
        assert 0.99 < a(115_500 / 400_000) < 1.0
        assert a(200_000 / 400_000) == pytest.approx(0.5)
        assert a(200_000 / 400_000 + 0.01) == pytest.approx(1 - 1 / (1 + math.exp(-0.25)))
        assert 0.005 <= a(284_500 / 400_000) < 0.0055
        assert a(285_000 / 400_000) == 0.0
        assert a(1.0) == 0.0

    def test_alpha_flow_within_a_longer_run(self) -> None:
        """k0 = 600k, k1 = 1M of 1.2M."""
        a = Sigmoid(begin=0.5, until=1 / 1.2)
        assert a(0.5) == 1.0
        assert a((600_000 + 115_000) / 1_200_000) == 1.0
        assert a((600_000 + 285_000) / 1_200_000) == 0.0

    def test_snapping_can_be_left_out(self) -> None:
        assert 0.999 < Sigmoid(snap=0.0)(0.0) < 1.0
        assert Sigmoid(snap=0.3)(0.45) == 1.0
        assert Sigmoid(snap=0.3)(0.48) == pytest.approx(1 - 1 / (1 + math.exp(0.5)))

    def test_ect_has_eight_stages_of_equal_length(self) -> None:
        stage = EasyConsistency().stage
        assert [stage(k / 200) for k in (0, 24.9, 25, 50, 174.9, 175, 200)] == [0, 0, 1, 2, 6, 7, 7]
        assert sorted({stage(k / 1000) for k in range(1001)}) == [*range(8)]

    def test_ict_doubles_from_ten_to_1280(self) -> None:
        """N(k) + 1 levels: 11, 21, ..., 1281, each for an eighth of the run."""
        steps = ImprovedConsistency().steps
        assert [steps((i + 0.5) / 8) + 1 for i in range(8)] == [11, 21, 41, 81, 161, 321, 641, 1281]
        assert [steps(i / 8) for i in range(8)] == [10 * 2**i for i in range(8)]
        assert steps(1.0) == 1280

    @pytest.mark.parametrize("start", [0.1, 0.3, 0.7, 3.0, 10.0])
    @pytest.mark.parametrize("doublings", [1, 3, 6, 10])
    def test_doubling_has_all_values_whatever_their_rounding(self, start: float, doublings: int) -> None:
        steps = Doubling(start=start, end=float(f"{start * 2**doublings:.6g}"))
        values = [steps((i + 0.5) / (doublings + 1)) for i in range(doublings + 1)]
        assert values == pytest.approx([start * 2**i for i in range(doublings + 1)])

    def test_ct_has_the_levels_of_its_code(self) -> None:
        """script_util.py: ceil(sqrt(k / K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1 with s0 = 2 and s1 = 150 or 200."""
        for last in (150, 200):
            levels = Root(start=2.0, end=last + 1.0)
            for step in range(0, 801):
                scale = math.ceil(math.sqrt(step / 800 * ((last + 1) ** 2 - 4) + 4) - 1)
                assert levels(step / 800) == scale + 1
            assert (levels(0.0), levels(1.0)) == (2, last + 1)

    def test_so_flow_falls_by_equal_ratios(self) -> None:
        a = SolutionFlow().a
        ratios = [a((i + 1) / 10) / a(i / 10) for i in range(10)]
        assert max(ratios) - min(ratios) < 1e-12
        assert (a(0.0), a(1.0)) == (pytest.approx(0.1), pytest.approx(0.002))


class TestSettings:
    def test_a_plain_number_is_a_constant_and_stays_a_plain_number(self) -> None:
        e = Experiment.model_validate({"objectives": {"fm": {"weight": 0.3}, "cm": {"weight": 2, "lam": 0.9}}})
        assert e.objectives["fm"].weight == Constant(value=0.3)
        tree = e.tree()["objectives"]
        assert tree["fm"]["weight"] == 0.3
        assert isinstance(tree["fm"]["weight"], float)
        assert (tree["cm"]["weight"], tree["cm"]["lam"]) == (2.0, 0.9)
        assert Experiment.model_validate(e.tree()) == e

    def test_a_schedule_is_a_table_or_a_name(self) -> None:
        table = {"kind": "linear", "start": 1.0, "end": 0.3, "until": 0.5}
        e = Experiment.model_validate({"objectives": {"fm": {"weight": table}, "cm": {"lam": "cosine"}}} | _lam(0.99))
        assert e.objectives["fm"].weight == Straight(start=1.0, end=0.3, until=0.5)
        assert e.tree()["objectives"]["fm"]["weight"] == table | {"begin": 0.0}
        assert Experiment.model_validate(e.tree()) == e

    def test_overrides_reach_a_schedule(self) -> None:
        e, _ = resolve(overrides=['objectives.fm.weight={kind="linear",start=1.0,end=0.5}', "objectives.cm.weight=2"])
        assert e.objectives["fm"].weight == Straight(start=1.0, end=0.5)
        assert e.objectives["cm"].weight == Constant(value=2.0)
        e, _ = resolve(overrides=["objectives.fm.weight.kind=linear", "objectives.fm.weight.end=0.5"])
        assert e.objectives["fm"].weight == Straight(end=0.5)

    @pytest.mark.parametrize(
        ("cls", "tree", "says"),
        [
            (Straight, {"begin": 0.5, "until": 0.5}, r"begin=0\.5 must lie before until=0\.5"),
            (Cosine, {"begin": 1.2}, "begin"),
            (Exponential, {"end": 0.0}, "type kind=linear to reach 0"),
            (Exponential, {"start": -1.0}, "are positive"),
            (Doubling, {"start": 8.0, "end": 4.0}, "times 2, 4, 8"),
            (Doubling, {"start": 0.0}, "times 2, 4, 8"),
            (Stairs, {"count": 1}, "count"),
            (Root, {"start": 2.5}, r"start=2\.5 and end=151 must be whole numbers with 1 <= start < end"),
            (Root, {"start": 20.0, "end": 3.0}, "start < end"),
            (Sigmoid, {"snap": 0.5}, "snap"),
            (Sigmoid, {"gain": 0}, "gain"),
            (AlphaFlow, {"a": 1.5}, r"must be in \[0, 1\], got 1\.5"),
            (AlphaFlow, {"a": {"kind": "linear", "start": 1.0, "end": -0.5}}, r"got -0\.5 to 1"),
            (SolutionFlow, {"a": 0.0}, r"must be in \[1e-06, 1\], got 0"),
            (SolutionFlow, {"a": {"kind": "linear"}}, r"got 0 to 1"),
            (Consistency, {"lam": 1.0}, r"must be in \[0, 0\.999999\], got 1"),
            (Consistency, {"weight": -0.1}, r"must be at least 0, got -0\.1"),
            (Consistency, {"weight": {"kind": "linear", "end": -1.0}}, r"must be at least 0, got -1 to 1"),
            (ImprovedConsistency, {"steps": 0.5}, r"must be at least 1, got 0\.5"),
            (Consistency, {"weight": True}, "weight"),
            (Consistency, {"weight": "sometimes"}, "unknown schedule 'sometimes'"),
            (Consistency, {"weight": {"start": 1.0}}, "say which schedule"),
        ],
    )
    def test_errors(self, cls: Any, tree: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            cls.model_validate(tree)


def _lam(end: float) -> dict[str, Any]:
    ramp = {"kind": "cosine", "start": 0.5, "end": end}
    weight = {"kind": "linear", "start": 1.0, "end": 0.3, "until": 0.5}
    return {"objectives": {"fm": {"weight": weight}, "cm": {"lam": ramp}}}


RISING = 'objectives.cm.weight={kind="linear",start=0.0,end=1.0}'
TINY = ["backbone.width=16", "train.batch=8", "pictures.count=8", "evaluation.nfe=[1]"]
TINY += ["evaluation.count=8", "evaluation.reference=8", "checkpoint.every=3"]


class TestInARun:
    def test_progress_is_the_share_of_samples_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[float] = []
        draw = Composer.draw

        def watched(self: Composer, x: Any, y: Any, generator: Any, progress: float, *part: int) -> Any:
            told.append(progress)
            return draw(self, x, y, generator, progress, *part)

        monkeypatch.setattr(Composer, "draw", watched)
        e, _ = resolve(overrides=[*TINY, RISING, "train.steps=4", "train.micro_batch=4"])
        Run(e, tmp_path / "run").go()
        assert told == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]

    def test_weights_change_the_total_with_progress(self) -> None:
        e, _ = resolve(overrides=["backbone.width=16", RISING, "objectives.fm.weight=0.5"])
        composer, net = e.composer(), e.model_settings().build()
        for progress in (0.0, 0.25, 1.0):
            draw = composer.draw(torch.randn(8, 2), None, torch.Generator().manual_seed(0), progress)
            loss = composer.loss({"online": net}, draw)
            assert torch.allclose(loss.total, 0.5 * loss.terms["fm"] + progress * loss.terms["cm"])

    @pytest.mark.parametrize(
        ("objective", "last"), [(SolutionFlow(), 0.002), (AlphaFlow(a=Straight(start=0.9, end=0.1)), 0.1)]
    )
    def test_step_fractions_follow_progress(self, objective: Any, last: float) -> None:
        e = Experiment.model_validate({"objectives": {"part": objective}})
        for progress, a in ((0.0, objective.a(0.0)), (1.0, last)):
            draw = e.composer().draw(torch.randn(64, 2), None, torch.Generator().manual_seed(0), progress)
            long = draw.t - draw.r > 0.3
            torch.testing.assert_close(
                (draw.t - objective.earlier(draw))[long], (a * (draw.t - draw.r))[long], rtol=1e-3, atol=1e-6
            )

    def test_stages_and_levels_follow_progress(self) -> None:
        sigma = torch.tensor([0.5, 2.0, 10.0])
        for objective in (EasyConsistency(), ImprovedConsistency()):
            early, late = objective.lower(sigma, 0.0), objective.lower(sigma, 1.0)
            assert (early < late).all()
            assert (late < sigma).all()
            assert (sigma - late < 0.12 * sigma).all()

    @pytest.mark.parametrize("objectives", ["fm,cm", "fm@v,alphaflow@u"])
    def test_a_resumed_run_is_exact(self, objectives: str, tmp_path: Path) -> None:
        scheduled = [*TINY, "train.steps=8", 'objectives.fm.weight={kind="cosine",start=1.0,end=0.1}']
        e, _ = resolve(objectives=objectives, overrides=scheduled)
        Run(e, tmp_path / "whole").go()
        part = Run(e, tmp_path / "parts")
        update = part.state.averages.update

        def stop(done: int, progress: float) -> None:
            if done >= 5:
                raise KeyboardInterrupt
            update(done, progress)

        part.state.averages.update = stop  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            part.go()
        Run(e, tmp_path / "parts", resume=True).go()
        one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
        assert one == two
        plain, _ = resolve(objectives=objectives, overrides=scheduled[:-1])
        Run(plain, tmp_path / "plain").go()
        assert (tmp_path / "plain/model.safetensors").read_bytes() != one  # the schedule matters
