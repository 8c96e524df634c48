"""What every trunk must keep, parametrised over all registered backbones and a few presets."""

import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genobj.backbones.base import Backbone, Trunk
from genobj.backbones.dit import DiT
from genobj.backbones.mlp import MLP
from genobj.backbones.unet import UNet
from genobj.config.base import find
from genobj.parts import BACKBONES
from genobj.registry import UnknownName

NAMES = [*BACKBONES.names(), "dit-tiny", "dit-TINY/4", "unet-tiny"]
SHAPES = [(2,), (1, 8, 8), (3, 16, 16), (2, 8, 16)]
CLASSES = 3
BATCH = 5


def settings(name: str) -> Backbone:
    cls, preset = find(BACKBONES, name)
    part = cls.model_validate(preset)
    assert isinstance(part, Backbone)
    return part


def allowed() -> list[Any]:
    """Every (backbone, shape) that builds."""
    pairs = []
    for name in NAMES:
        for shape in SHAPES:
            try:
                settings(name).build(shape, 0, sees_r=False)
            except ValueError:
                assert len(shape) == 1, f"{name} refuses {shape}"
            else:
                pairs.append(pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}"))
    return pairs


every = pytest.mark.parametrize(("name", "shape"), allowed())


class Case:
    """A trunk with an output layer, and inputs for it."""

    def __init__(self, name: str, shape: tuple[int, ...], classes: int = CLASSES, sees_r: bool = True):
        self.trunk = settings(name).build(shape, classes, sees_r=sees_r)
        self.output = self.trunk.projection(shape[0])
        self.x, self.t = torch.randn(BATCH, *shape), torch.rand(BATCH)
        self.r = self.t * torch.rand(BATCH) if sees_r else None
        self.y = torch.arange(BATCH) % CLASSES if classes else None

    def perturb(self) -> "Case":
        """Leave the initialisation, where much is zero."""
        with torch.no_grad():
            for parameter in [*self.trunk.parameters(), *self.output.parameters()]:
                parameter.add_(0.1 * torch.randn_like(parameter))
        return self

    def double(self) -> "Case":
        self.trunk.double(), self.output.double()
        self.x, self.t, self.r = self.x.double(), self.t.double(), self.r if self.r is None else self.r.double()
        return self

    def __call__(self, **changed: Tensor | None) -> Tensor:
        given = {"x": self.x, "t": self.t, "r": self.r, "y": self.y, **changed}
        assert given["x"] is not None
        assert given["t"] is not None
        return self.output(self.trunk(given["x"], given["t"], r=given["r"], y=given["y"]))


@every
@pytest.mark.parametrize("sees_r", [False, True])
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_features_and_output_have_their_shapes_and_start_at_zero(
    name: str, shape: tuple[int, ...], classes: int, sees_r: bool
) -> None:
    case = Case(name, shape, classes, sees_r)
    features = case.trunk(case.x, case.t, r=case.r, y=case.y)
    assert features.hidden.shape[case.trunk.channel_axis] == case.trunk.channels
    assert features.condition.ndim == 2
    assert len(features.condition) == BATCH
    for out_channels in (shape[0], 2 * shape[0]):
        out = case.trunk.projection(out_channels)(features)
        assert out.shape == (BATCH, out_channels, *shape[1:])
        assert not out.any()
    deeper = case.trunk.block()(features)
    assert [part.shape for part in deeper] == [part.shape for part in features]


@every
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_gradient_reaches_every_parameter(name: str, shape: tuple[int, ...], classes: int) -> None:
    case = Case(name, shape, classes).perturb()
    case().square().mean().backward()
    for part in (case.trunk, case.output):
        for key, parameter in part.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{key} is not used"
                assert parameter.grad.any(), f"{key} gets no gradient"


# The first forward-mode derivative of a process makes torch script its own formulas.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@every
def test_forward_mode_derivative_equals_differences(name: str, shape: tuple[int, ...]) -> None:
    case = Case(name, shape).perturb().double()
    direction, step = torch.randn_like(case.x), 1e-5
    with sdpa_kernel(SDPBackend.MATH):
        tangents = (direction, torch.ones_like(case.t))
        value, derivative = torch.func.jvp(lambda x, t: case(x=x, t=t), (case.x, case.t), tangents)
        ahead, behind = (case(x=case.x + s * direction, t=case.t + s) for s in (step, -step))
    torch.testing.assert_close(value, case())
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)
    assert derivative.dtype == torch.float64


@every
def test_r_and_labels_matter_and_no_labels_means_null(name: str, shape: tuple[int, ...]) -> None:
    case = Case(name, shape).perturb()
    null = torch.full((BATCH,), CLASSES)
    assert case.t is not None
    outs = [case(y=torch.full((BATCH,), label)) for label in range(CLASSES + 1)]
    for i, out in enumerate(outs):
        assert all((out - other).flatten(1).norm(dim=1).min() > 1e-6 for other in outs[:i])
    torch.testing.assert_close(case(y=None), case(y=null))
    assert (case() - case(r=case.t)).flatten(1).norm(dim=1).min() > 1e-6


@every
def test_rows_do_not_see_each_other(name: str, shape: tuple[int, ...]) -> None:
    case = Case(name, shape).perturb().double()
    alone = Case.__call__(case, x=case.x[1:2], t=case.t[1:2], r=case.r[1:2] if case.r is not None else None, y=None)
    torch.testing.assert_close(alone, case(y=None)[1:2])


@every
def test_runs_under_bfloat16_autocast_and_on_the_meta_device(name: str, shape: tuple[int, ...]) -> None:
    case = Case(name, shape).perturb()
    exact = case()
    with torch.autocast("cpu", torch.bfloat16):
        rough = case()
    assert (rough - exact).norm() < 0.1 * exact.norm()
    with torch.device("meta"):
        ghost = Case(name, shape)
        assert ghost().shape == exact.shape
    assert {p.device.type for p in [*ghost.trunk.state_dict().values(), *ghost.output.parameters()]} == {"meta"}
    assert layout(ghost.trunk) == layout(case.trunk)


def layout(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (value.shape, value.dtype) for name, value in module.state_dict().items()}


@every
def test_a_state_dict_is_the_whole_trunk(name: str, shape: tuple[int, ...]) -> None:
    """Built on the meta device, emptied onto the CPU and loaded, it computes the same."""
    case = Case(name, shape).perturb()
    with torch.device("meta"):
        other = settings(name).build(shape, CLASSES, sees_r=True)
    other.to_empty(device="cpu").load_state_dict(case.trunk.state_dict())
    expected = case()
    case.trunk = other
    torch.testing.assert_close(case(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backbone", "shape", "says"),
    [
        (DiT(), (2,), "type backbone=mlp"),
        (DiT(patch=2), (1, 9, 9), "type backbone.patch=1"),
        (DiT(patch=2), (1, 15, 9), "type backbone.patch=1"),
        (DiT(patch=8), (3, 28, 28), "type backbone.patch=7"),
        (UNet(), (2,), "type backbone=mlp"),
        (UNet(), (1, 7, 8), "type backbone.multipliers=[1]"),
        (UNet(multipliers=(1, 2, 4, 4)), (1, 28, 28), "type backbone.multipliers=[1, 2, 4]"),
    ],
)
def test_a_refused_shape_is_one_sentence_that_says_what_to_type(
    backbone: Backbone, shape: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as refusal:
        backbone.build(shape, 0, sees_r=False)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("name", ["dit-q", "dit-s/", "dit-s/x", "dit-s/0", "dit-", "unet-huge", "mlp-big"])
def test_an_unknown_preset_is_refused(name: str) -> None:
    with pytest.raises(UnknownName) as refusal:
        settings(name)
    if not name.startswith("mlp"):
        assert f"type {name.partition('-')[0]}-tiny" in str(refusal.value)


def test_presets_know_their_patch() -> None:
    assert settings("dit-XL") == settings("dit-xl/2")
    assert settings("dit-xl/4") == DiT(depth=28, width=1152, heads=16, patch=4)
    assert settings("dit") == settings("dit-tiny")
    assert settings("unet") == settings("unet-tiny")


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (DiT, {"width": 64, "heads": 3}),
        (DiT, {"width": 66}),
        (UNet, {"filter": (1, 2, 1)}),
        (MLP, {"time_features": 3}),
    ],
)
def test_settings_that_cannot_be_built_are_refused(cls: type[Backbone], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cls.model_validate(wrong)


def test_dropout_is_active_in_training_only() -> None:
    trunk = UNet(dropout=0.5).build((1, 8, 8), 0, sees_r=False)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    perturbed(trunk)
    assert not torch.equal(trunk(x, t).hidden, trunk(x, t).hidden)
    trunk.eval()
    torch.testing.assert_close(trunk(x, t).hidden, trunk(x, t).hidden, rtol=0, atol=0)


def perturbed(trunk: Trunk) -> None:
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_mlp_time_features_run_from_one_to_the_top_frequency() -> None:
    trunk = MLP(time_features=8, top_frequency=8).build((2,), 0, sees_r=False)
    t = torch.rand(BATCH)
    waves = trunk(torch.zeros(BATCH, 2), t).condition
    angles = t[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
    torch.testing.assert_close(waves, torch.cat((angles.sin(), angles.cos()), dim=1))


def test_unet_filters_agree_on_constant_images() -> None:
    """Both filters sum to one: away from the borders a constant stays what it is."""
    trunk = UNet(filter=(1, 3, 3, 1)).build((1, 16, 16), 0, sees_r=False)
    for name in ("enc.8x8_down.conv0", "dec.16x16_up.conv0"):
        layer = trunk.get_submodule(name)
        resampled = layer._resample(torch.ones(1, layer.in_channels, 16, 16))  # type: ignore[operator]
        torch.testing.assert_close(resampled[..., 2:-2, 2:-2], torch.ones_like(resampled[..., 2:-2, 2:-2]))
