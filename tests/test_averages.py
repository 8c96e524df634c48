"""Averages of the weights: power-function profiles, snapshots, and averages of any width made of them."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from genobj.cli import average
from genobj.experiment import Experiment
from genobj.model import Model
from genobj.training import posthoc, weights
from genobj.training.averages import EMA, Averages
from genobj.training.profiles import Profile, combine, decay, exponent
from genobj.training.state import State

WIDTHS = (0.05, 0.1)


def network() -> Model:
    tree = {"data": "moons", "backbone": {"kind": "mlp", "width": 16, "depth": 1}}
    return Experiment.model_validate(tree).model_settings().build()


def walk(
    folder: Path, every: int, widths: tuple[float, ...] = WIDTHS, kind: Any = "float32", steps: int = 400
) -> State:
    """A run whose weights walk at random (the same way each time), with snapshots; its live weights are written."""
    model = network()
    averages = Averages(model, EMA(widths=widths))
    state = State(model, averages, torch.optim.SGD(model.parameters()))
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=draw))
        averages.update(step)
        state.step = step + 1
        if state.step % every == 0 or state.step == steps:
            posthoc.save(folder, state, kind)
    weights.write(folder / "model.safetensors", model.state_dict())
    return state


def distance(found: posthoc.Reconstruction, state: State, width: float) -> float:
    """Between a reconstruction and the average that was kept, as a share of the latter's norm."""
    kept = state.averages.profiles[width]
    return math.sqrt(
        sum(float((found.weights[name] - value).square().sum()) for name, value in kept.items())
        / sum(float(value.square().sum()) for value in kept.values())
    )


class TestProfiles:
    @pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
    def test_the_exponent_gives_the_width(self, width: float) -> None:
        t = (np.arange(1_000_000) + 0.5) / 1_000_000
        p = t ** exponent(width)
        p = p / p.sum()
        assert math.sqrt(p @ t**2 - (p @ t) ** 2) == pytest.approx(width, rel=1e-4)

    def test_the_widths_of_the_paper(self) -> None:
        assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
        assert exponent(0.1) == pytest.approx(6.94, abs=0.005)

    @pytest.mark.parametrize("width", [0.05, 0.25])
    def test_decays_give_the_profile(self, width: float) -> None:
        """After T steps, step k weighs (k^(gamma + 1) - (k - 1)^(gamma + 1)) / T^(gamma + 1)."""
        steps, gamma = 50, exponent(width)
        weights = np.zeros(steps)
        for step in range(steps):
            weights *= decay(gamma, step)
            weights[step] = 1 - decay(gamma, step)
        assert weights == pytest.approx(np.diff((np.arange(steps + 1) / steps) ** (gamma + 1)), abs=1e-12)

    def test_a_stored_profile_is_itself(self) -> None:
        stored = [Profile(end, width) for end in range(100, 1001, 100) for width in WIDTHS]
        for number, profile in enumerate(stored):
            found = combine(stored, profile)
            assert found.coefficients == pytest.approx(np.eye(len(stored))[number], abs=1e-6)
            assert found.error < 1e-6

    def test_more_snapshots_come_nearer(self) -> None:
        errors = []
        for count in (4, 8, 16, 32):
            ends = np.linspace(0, 100_000, count + 1)[1:].astype(int).tolist()
            found = combine([Profile(end, width) for end in ends for width in WIDTHS], Profile(100_000, 0.15))
            assert found.coefficients.sum() == pytest.approx(1)
            errors.append(found.error)
        assert [before > 3 * after for before, after in itertools.pairwise(errors)] == [True] * 3
        assert errors[-1] < 0.003

    def test_a_long_run_does_not_overflow(self) -> None:
        ends = range(100_000, 10_000_001, 100_000)
        found = combine([Profile(end, width) for end in ends for width in (0.01, 0.02)], Profile(10_000_000, 0.015))
        assert found.error < 0.01


class TestAverages:
    @pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
    def test_a_linear_walk_has_a_closed_form(self, width: float) -> None:
        model, steps, gamma = nn.Linear(2, 1), 300, exponent(width)
        averages = Averages(model, EMA(widths=(width,)))
        for step in range(steps):
            with torch.no_grad():
                model.weight.fill_(float(step + 1))
            averages.update(step)
        k = np.arange(steps + 1)
        exact = float(np.diff((k / steps) ** (gamma + 1)) @ k[1:])
        found = averages.profiles[width]["weight"]
        torch.testing.assert_close(found, torch.full_like(found, exact), rtol=1e-5, atol=0.0)
        assert exact == pytest.approx(steps * (gamma + 1) / (gamma + 2), rel=0.01)  # of the continuous profile

    def test_the_start_is_forgotten_at_once(self) -> None:
        model = nn.Linear(2, 1)
        averages = Averages(model, EMA(widths=(0.1,)))
        with torch.no_grad():
            model.weight.fill_(7.0)
        averages.update(0)
        assert torch.equal(averages.profiles[0.1]["weight"], model.weight)

    def test_low_precision_weights_have_exact_averages(self) -> None:
        """In bf16 this average would not move at all: 0.0001 of a difference is below its last digit."""
        low, full = nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4)
        full.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
        settings = EMA(decays=(0.9999,), warmup=False, widths=(0.1,))
        one, two = Averages(low, settings), Averages(full, settings)
        for step in range(50):
            for model in (low, full):
                with torch.no_grad():
                    model.weight.fill_(0.5 + step / 64)
            one.update(step)
            two.update(step)
        for name, values in two.named().items():
            assert all(torch.equal(one.named()[name][key], value) for key, value in values.items())
        assert not torch.equal(one.values[0.9999]["weight"].bfloat16().float(), one.values[0.9999]["weight"])

    def test_names_of_files(self) -> None:
        averages = Averages(nn.Linear(2, 1), EMA(decays=(0.999, 0.9999), widths=WIDTHS))
        assert [*averages.named()] == ["ema_0.999", "ema_0.9999", "ema_width_0.05", "ema_width_0.1"]

    def test_settings_that_do_not_fit(self) -> None:
        for settings, told in (
            ({"widths": [0.1, 0.1000000001]}, "would share a file"),
            ({"widths": [0.3]}, "less than 0.2886"),
            ({"widths": [0.1], "snapshot_every": 5}, r"type ema\.widths=\[0\.05,0\.1\]"),
        ):
            with pytest.raises(ValidationError, match=told):
                EMA.model_validate(settings)
        assert EMA().idle == {"snapshot_type"}


class TestSnapshots:
    def test_a_stored_average_comes_back(self, tmp_path: Path) -> None:
        state = walk(tmp_path, every=100)
        for width in WIDTHS:
            found = posthoc.reconstruct(tmp_path, width)
            assert distance(found, state, width) < 1e-6
            assert (found.step, found.widths, found.snapshots) == (400, WIDTHS, 8)

    def test_another_width_is_met_better_by_more_snapshots(self, tmp_path: Path) -> None:
        distances = []
        for every in (200, 100, 50, 25):
            (tmp_path / str(every)).mkdir()
            state = walk(tmp_path / str(every), every, widths=(*WIDTHS, 0.15))
            for path in (tmp_path / str(every) / "averages").glob("ema_width_0.15_*"):
                path.unlink()
            distances.append(distance(posthoc.reconstruct(tmp_path / str(every), 0.15), state, 0.15))
        assert [before > 2 * after for before, after in itertools.pairwise(distances)] == [True] * 3
        assert distances[-1] < 0.005

    def test_an_earlier_moment(self, tmp_path: Path) -> None:
        walk(tmp_path, every=25)
        (tmp_path / "short").mkdir()
        state = walk(tmp_path / "short", every=25, widths=(*WIDTHS, 0.15), steps=200)
        found = posthoc.reconstruct(tmp_path, 0.15, 200)
        assert distance(found, state, 0.15) < 0.01
        assert (found.step, found.snapshots) == (200, 16)
        (tmp_path / "between").mkdir()
        state = walk(tmp_path / "between", every=25, widths=(*WIDTHS, 0.15), steps=190)
        assert distance(posthoc.reconstruct(tmp_path, 0.15, 190), state, 0.15) < 0.05

    def test_half_precision_is_half_as_large_and_near(self, tmp_path: Path) -> None:
        (tmp_path / "half").mkdir()
        walk(tmp_path, every=50)
        walk(tmp_path / "half", every=50, kind="float16")
        one, two = (posthoc.reconstruct(folder, 0.08).weights for folder in (tmp_path, tmp_path / "half"))
        off = max(float((one[name] - two[name]).norm() / one[name].norm()) for name in one if one[name].norm())
        assert 1e-6 < off < 1e-3
        assert all(value.dtype == torch.float32 for value in two.values())

    def test_what_is_later_than_a_resumed_step_goes(self, tmp_path: Path) -> None:
        walk(tmp_path, every=100)
        half = tmp_path / "averages/.ema_width_0.05_00000200.safetensors.77"
        half.write_bytes(b"half")
        posthoc.cut(tmp_path, 200)
        assert [*posthoc.stored(tmp_path)] == [Profile(end, width) for end in (100, 200) for width in WIDTHS]
        assert not half.exists()
        posthoc.cut(tmp_path / "new", 0)  # a run that has none yet

    def test_a_kill_leaves_whole_snapshots_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        state = walk(tmp_path, every=200)
        monkeypatch.setattr(Path, "replace", stop)
        state.step = 600
        with pytest.raises(KeyboardInterrupt):
            posthoc.save(tmp_path, state)
        assert {profile.end for profile in posthoc.stored(tmp_path)} == {200, 400}

    def test_what_is_missing_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no snapshots.*ema\.snapshot_every=N"):
            posthoc.reconstruct(tmp_path, 0.1)
        walk(tmp_path, every=200)
        with pytest.raises(ValueError, match=r"--at 401: the snapshots of .* reach from step 200 to 400"):
            posthoc.reconstruct(tmp_path, 0.1, 401)
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(ValueError, match="has no weights yet"):
            posthoc.reconstruct(tmp_path, 0.1)
        path = next(iter(posthoc.stored(tmp_path).values()))
        path.write_bytes(b"text")
        weights.write(tmp_path / "model.safetensors", network().state_dict())
        with pytest.raises(ValueError, match="is damaged"):
            posthoc.reconstruct(tmp_path, 0.1)


class TestCommand:
    def test_it_writes_what_a_model_loads(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        state = walk(tmp_path, every=100)
        average.command(tmp_path, width=0.08)
        told = capsys.readouterr().out
        assert "width 0.08 at step 400, from 8 snapshots of widths 0.05, 0.1" in told
        assert "--weights width_0.08" in told
        model = network()
        weights.fill(tmp_path / "ema_width_0.08.safetensors", model.state_dict())
        assert torch.equal(model.trunk.get_buffer("phases"), state.model.trunk.get_buffer("phases"))
        average.command(tmp_path, width=0.08, at=200)
        average.command(tmp_path, width=0.08, out=tmp_path / "mine.safetensors")
        files = {path.name for path in tmp_path.glob("*.safetensors")}
        assert {"ema_width_0.08_at_200.safetensors", "mine.safetensors"} <= files

    def test_what_is_typed_wrong_is_told(self, tmp_path: Path) -> None:
        for settings, told in (
            ({"width": 0.5}, "--width 0.5: type a number above 0"),
            ({"width": 0.1, "out": tmp_path / "x.pt"}, "ends in .safetensors"),
            ({"width": 0.1, "out": tmp_path / "no/x.safetensors"}, "there is no folder"),
            ({"width": 0.1}, "has no snapshots"),
        ):
            with pytest.raises(ValueError, match=told):
                average.command(tmp_path, **settings)
