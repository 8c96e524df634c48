"""N heads on one trunk: who sees r, what heads cost, how they start, how weights are kept."""

from typing import Any

import pytest
import torch

from genobj.experiment import Experiment
from genobj.model import ModelSettings, Reweighted
from genobj.parts import BACKBONES, HEADS, PATHS
from genobj.training.averages import EMA, Averages


def _settings(
    backbone: str, horizons: dict[str, Any], heads: dict[str, Any] | None = None, **more: Any
) -> ModelSettings:
    tree = {
        "backbone": backbone,
        "heads": heads or {name: {} for name in horizons},
        "horizons": horizons,
        "shape": (1, 8, 8),
        "classes": 10,
        "path": "linear",
    }
    return ModelSettings.model_validate(tree | more)


def _inputs(n: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(n, 1, 8, 8), torch.rand(n), torch.rand(n), torch.arange(n)


def _stirred(model: torch.nn.Module) -> Any:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("backbone", ["mlp", "unet-tiny", "dit-tiny"])
class TestHeads:
    def test_a_lone_interval_head_sees_r_in_the_trunk(self, backbone: str) -> None:
        model = _stirred(_settings(backbone, {"u": "interval"}).build())
        x, t, r, y = _inputs()
        assert model.trunk_r
        assert model.sees_r == {"u"}
        assert not torch.allclose(model(x, t, r=r, y=y)["u"], model(x, t, r=t, y=y)["u"])

    def test_beside_other_heads_it_sees_r_in_the_head_only(self, backbone: str) -> None:
        model = _stirred(_settings(backbone, {"v": "instant", "u": "data", "w": "interval"}).build())
        x, t, r, y = _inputs()
        assert not model.trunk_r
        assert model.sees_r == {"w"}
        one, two = model(x, t, r=r, y=y), model(x, t, r=t, y=y)
        assert torch.equal(one["v"], two["v"])
        assert torch.equal(one["u"], two["u"])
        assert not torch.allclose(one["w"], two["w"])

    def test_deeper_heads_have_blocks_of_their_own(self, backbone: str) -> None:
        flat, deep = (
            _settings(backbone, {"v": "instant", "u": "data"}, {"v": {}, "u": {"depth": depth}}).build()
            for depth in (0, 2)
        )
        sizes = [sum(p.numel() for p in model.heads["u"].parameters()) for model in (flat, deep)]
        assert sizes[1] > 2 * sizes[0]
        x, t, _, y = _inputs()
        _stirred(deep)(x, t, y=y)["u"].square().sum().backward()
        assert all(p.grad is not None for p in deep.heads["u"].parameters())

    def test_heads_start_at_zero_and_are_the_same_for_the_same_seed(self, backbone: str) -> None:
        settings = _settings(backbone, {"v": "instant", "u": "data"})
        x, t, _, y = _inputs()
        assert not any(out.any() for out in settings.build()(x, t, y=y).values())
        one, two, other = settings.build(3), settings.build(3), settings.build(4)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_second_head_on_dit_xl_costs_what_the_paper_says() -> None:
    """DuMo: about 3M parameters, less than .5 % (OBJECTIVES.md B9: a full FinalLayer, 2,674,960)."""
    with torch.device("meta"):
        sizes = []
        for horizons in ({"v": "instant"}, {"v": "instant", "u": "data"}):
            model = _settings("dit-xl/2", horizons, shape=(4, 32, 32), classes=1000).build()
            sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes == [675_111_184, 675_111_184 + 2_674_960]


class TestAverages:
    def test_they_follow_the_definition(self) -> None:
        model = torch.nn.Linear(3, 2)
        averages = Averages(model, EMA(decays=(0.9, 0.5), warmup=False))  # type: ignore[arg-type]
        expected = {d: {k: p.detach().clone() for k, p in model.named_parameters()} for d in (0.9, 0.5)}
        for step in range(4):
            _stirred(model)
            averages.update(step)
            for d, values in expected.items():
                for k, p in model.named_parameters():
                    values[k] = d * values[k] + (1 - d) * p.detach()
        for d, values in expected.items():
            for k, value in values.items():
                torch.testing.assert_close(averages.values[d][k], value)

    def test_warm_up_forgets_the_start(self) -> None:
        model = torch.nn.Linear(3, 2)
        averages = Averages(model, EMA(decays=(0.999,)))  # type: ignore[arg-type]
        with torch.no_grad():
            model.weight.fill_(1.0)
        for step in range(500):
            averages.update(step)
        assert (averages.values[0.999]["weight"] - 1).abs().max() < 1e-3

    def test_they_stay_float32(self) -> None:
        averages = Averages(torch.nn.Linear(3, 2).bfloat16(), EMA())  # type: ignore[arg-type]
        assert averages.values[0.9999]["weight"].dtype == torch.float32

    def test_an_averaged_network_borrows_the_model(self) -> None:
        model = _stirred(_settings("mlp", {"v": "instant"}).build())
        averages = Averages(model, EMA(decays=(0.5,), warmup=False))
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        x, t, _, y = _inputs()
        first = model(x, t, y=y)["v"].detach()
        _stirred(model)
        averaged = averages.network(model)
        assert isinstance(averaged, Reweighted)
        torch.testing.assert_close(averaged(x, t, y=y)["v"], first)
        assert any(not torch.equal(before[k], p) for k, p in model.named_parameters())


def test_settings_rebuild_the_same_network() -> None:
    settings = Experiment().model_settings()
    again = ModelSettings.model_validate(settings.model_dump(mode="json", exclude_none=True))
    assert again == settings
    names = [list(s.build().state_dict()) for s in (settings, again)]
    assert names[0] == names[1]


def test_families_of_the_core_are_registered() -> None:
    assert {"mlp", "unet", "dit"} <= set(BACKBONES.names())
    assert "projection" in HEADS.names()
    assert {"linear", "trig", "vp", "edm"} <= set(PATHS.names())
