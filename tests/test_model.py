"""N heads on one trunk: who sees r, what heads cost, how they start, how weights are kept."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genobj.backbones.dit import DiT
from genobj.derivatives import Derivative
from genobj.experiment import Experiment
from genobj.model import ModelSettings, Reweighted
from genobj.parts import BACKBONES, HEADS, PATHS
from genobj.passes import Count, Masks, StepPasses
from genobj.training.averages import EMA, Averages
from genobj.types import Draw


def _settings(
    backbone: Any, horizons: dict[str, Any], heads: dict[str, Any] | None = None, **more: Any
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


_SMALL = {"kind": "dit", "width": 32, "depth": 1, "heads": 2}
_UNET = {"kind": "unet", "channels": 8, "blocks": (0, 1)}
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "modern": (_SMALL | {"norm": "rms", "position": "sincos+rope", "mlp": "swiglu", "qk_norm": True}, {"fed": 4.0}),
    "both": (_SMALL | {"condition": "both", "position": "rope"}, {"fed": 4.0}),
    "imf": (DiT.preset("imf-b/2") | _SMALL, {"fed": 4.0}),
    "ncsnpp": (_UNET | {"encoder": "residual", "waves": "fourier", "bandwidth": 0.5}, {"augmentation": 6}),
    "dropout": (_UNET | {"dropout": 0.3}, {"augmentation": 6}),
}
"""Variants of backbones (name, what the model is told besides), with a deep head u and a flat one v that both see r."""


def _network(name: str, dtype: torch.dtype = torch.float64) -> Any:
    backbone, more = NETWORKS[name]
    heads = {"u": {"depth": 2, "r_in": "trunk"}, "v": {}}
    return _stirred(_settings(backbone, {"u": "interval", "v": "instant"}, heads, **more).build().to(dtype))


def _drawn(name: str, dtype: torch.dtype = torch.float64) -> Draw:
    x, z, v = (torch.randn(5, 1, 8, 8, dtype=dtype) for _ in range(3))
    t = torch.rand(5, dtype=dtype)
    g = torch.rand(5, 3, dtype=dtype) + 0.5 if "fed" in NETWORKS[name][1] else None
    a = torch.randn(5, 6, dtype=dtype) if "augmentation" in NETWORKS[name][1] else None
    return Draw(x, z, t, t * torch.rand(5, dtype=dtype), x, v, v, torch.arange(5), g=g, a=a)


class TestVariants:
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
    @pytest.mark.parametrize("name", NETWORKS)
    def test_derivatives_agree_and_no_function_lacks_a_rule(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """With dropout in the same masks, and with the augmentation labels of the step, which nobody asks for."""
        net, draw = _network(name), _drawn(name)
        masks = Masks(torch.device("cpu")) if net.has_dropout else None
        passes = StepPasses({"online": net}, 5, masks, a=draw.a)
        exact = {head: Derivative(method="jvp")(draw, passes, head) for head in ("u", "v")}
        with monkeypatch.context() as patch:
            patch.setattr("genobj.tangents.tape.forward_mode", None)  # a function without a rule would call it
            passes.main(draw.point, beside=["u", "v"])
            beside = {head: Derivative(method="tangent")(draw, passes, head) for head in ("u", "v")}
        for head, expected in exact.items():
            size = expected.abs().max()
            assert (beside[head] - expected).abs().max() <= 1e-11 * size
            differences = Derivative(step=1e-4)(draw, passes, head)
            assert 0 < (differences - expected).abs().max() <= 1e-5 * size
        assert passes.count == Count(1, 2, 2)
        if draw.a is not None:
            unlike, other = StepPasses({"online": net}, 5, masks), draw._replace(a=draw.a + 1)
            assert not torch.allclose(Derivative(method="jvp")(other, unlike, "u"), exact["u"])

    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_weight_learns_after_one_step_from_the_initialisation(self, name: str) -> None:
        backbone, more = NETWORKS[name]
        heads = {"u": {"depth": 1, "r_in": "trunk"}, "v": {}}
        net = _settings(backbone, {"u": "interval", "v": "instant"}, heads, **more).build()
        draw = _drawn(name, torch.float32)
        weights = {key: p for key, p in net.named_parameters() if p.requires_grad}
        steps = torch.optim.Adam(weights.values(), lr=0.01)
        for _ in range(3):  # output layers first, then gates, then all behind them
            steps.zero_grad()
            out = net(draw.x_t, draw.t, r=draw.r, y=draw.y, g=draw.g, a=draw.a)
            sum((value - draw.v_t).square().mean() for value in out.values()).backward()
            steps.step()
        assert [key for key, p in weights.items() if p.grad is None or not p.grad.any()] == []

    @pytest.mark.parametrize("name", NETWORKS)
    def test_bf16_throughout_is_near(self, name: str) -> None:
        net, draw = _network(name, torch.float32).eval(), _drawn(name, torch.float32)
        told = {"r": draw.r, "y": draw.y, "g": draw.g, "a": draw.a}
        exact, rough = net(draw.x_t, draw.t, **told), net.lowered()(draw.x_t, draw.t, **told)
        for head, value in exact.items():
            assert rough[head].dtype == torch.bfloat16
            assert (rough[head] - value).norm() < 0.1 * value.norm()

    @pytest.mark.parametrize("name", NETWORKS)
    def test_deep_heads_are_units_too(self, name: str) -> None:
        net = _network(name)
        assert net.units == [*net.trunk.units, *net.heads["u"].blocks]
        assert len(net.heads["u"].blocks) == 2
        assert not _settings("mlp", {"u": "data"}, {"u": {"depth": 2}}).build().units


def test_fed_guidance_enters_where_the_backbone_has_a_place_for_it() -> None:
    for name, channels in (("modern", 4), ("imf", 1)):
        net, draw = _network(name), _drawn(name)
        assert net.trunk.x_embedder.proj.in_channels == channels
        plain = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64).expand(5, 3)
        told, untold, other = (net(draw.x_t, draw.t, r=draw.r, y=draw.y, g=g)["u"] for g in (plain, None, draw.g))
        torch.testing.assert_close(told, untold)
        assert not torch.allclose(told, other)


class _Calls(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["modern", "imf"])
def test_no_guidance_is_no_copy_from_the_host(name: str) -> None:
    """On a GPU each would wait until the device is idle."""
    net, draw = _network(name), _drawn(name)
    with _Calls() as calls:
        net(draw.x_t, draw.t, r=draw.r, y=draw.y)
    assert "aten::lift_fresh" not in calls.names
    assert "aten::cat" in calls.names


@pytest.mark.parametrize("reading", ["sit", "ddpm", "edm"])
def test_bf16_leaves_a_reading_what_it_reads_from(reading: str) -> None:
    """Before training the network answers 0, and v = given x_t: DDPM's factor is -157 near t = 1."""
    net = _settings("unet-tiny", {"v": "instant"}, reading=reading).build().eval()
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.5, 0.9, 0.999])
    exact, rough = net(x, t)["v"], net.lowered()(x, t)["v"]
    assert exact.any() == (reading != "sit")
    assert torch.equal(rough.float(), exact)


def test_augmentation_labels_that_a_backbone_cannot_take_are_refused() -> None:
    for backbone in ("mlp", "dit-tiny"):
        with pytest.raises(ValueError, match=r"data\.augment: backbone .* type backbone=unet"):
            _settings(backbone, {"v": "instant"}, augmentation=6).build()


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
