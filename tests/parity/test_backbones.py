"""Backbones against the official networks: same state dicts in, same numbers out; same names, shapes and counts."""

import json
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from genobj.backbones.base import Features, Trunk
from genobj.backbones.dit import DiT
from genobj.backbones.unet import UNet
from tests.parity.fixtures import FOLDER, Case, check, ect, load, skip

BACKBONES = sorted(p.stem for p in (FOLDER / "backbones").glob("*.json") if not p.stem.startswith("sizes_"))
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-4)]


def sizes(name: str) -> dict[str, Any]:
    path = FOLDER / "backbones" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def split(state: dict[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """An official state dict as ours: that of the trunk and that of the output layer."""
    trunk, output = {}, {}
    for name, value in state.items():
        name = name.removeprefix(prefix)
        if name.startswith("final_layer."):
            output[name.removeprefix("final_layer.")] = value
        elif name.startswith("dec.") and "_aux_" in name:
            output[f"aux_{name.partition('_aux_')[2]}"] = value
        else:
            trunk[name] = value
    return trunk, output


class Both(nn.Module):
    """A trunk and one output layer with official weights, in evaluation mode."""

    def __init__(self, trunk: Trunk, case: Case, out_channels: int, prefix: str = ""):
        super().__init__()
        self.trunk, self.output = trunk, trunk.projection(out_channels)
        for module, state in zip((self.trunk, self.output), split(case.group("state"), prefix), strict=True):
            module.load_state_dict(state)
        self.eval()

    def forward(self, x: Tensor, t: Tensor, **given: Tensor) -> Tensor:
        features = self.trunk(x, t, **given)
        assert isinstance(features, Features)
        return self.output(features)


def dit(case: Case) -> Both:
    config = case.info["config"]
    settings = DiT(
        depth=config["depth"],
        width=config["hidden_size"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
    )
    shape = (config["in_channels"], config["input_size"], config["input_size"])
    trunk = settings.build(shape, config["num_classes"], sees_r="r_fed" in case.arrays)
    out_channels = case.arrays["state/final_layer.linear.bias"].numel() // config["patch_size"] ** 2
    return Both(trunk, case, out_channels)


def unet(config: dict[str, Any], *, sees_r: bool) -> Trunk:
    settings = UNet(
        channels=config.get("model_channels", 128),
        multipliers=config["channel_mult"],
        blocks=(config.get("num_blocks", 4),),
        attention=config.get("attn_resolutions", (16,)),
        dropout=config.get("dropout", 0.1),
        time_features=config["channel_mult_noise"],
        filter=config["resample_filter"],
        encoder=config["encoder_type"],
        waves=config.get("embedding_type", "positional"),
    )
    side = config.get("img_resolution", 32)
    return settings.build((3, side, side), 0, sees_r=sees_r, augmentation=config.get("augment_dim", 0))


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("name", [name for name in BACKBONES if "it_tiny" in name])
def test_dit_and_sit_compute_the_official_numbers(name: str, dtype: torch.dtype, rtol: float) -> None:
    case = load(name, "backbones")
    given: dict[str, Tensor] = {"y": case.arrays["y"]}
    t = case.arrays["t_fed"].to(dtype)
    if "r_fed" in case.arrays:
        given["r"] = case.arrays["r_fed"].to(dtype)
    out = dit(case).to(dtype)(case.arrays["x"].to(dtype), t, **given)
    expected = case.arrays["expected/out_f64"]
    check(name, out[:, : expected.shape[1]], expected, rtol)  # SiT returns the first half of its channels


def test_own_positions_are_the_official_ones() -> None:
    if "dit_tiny_nosigma" not in BACKBONES:
        skip("this folder has no dit_tiny_nosigma")
    positions = load("dit_tiny_nosigma", "backbones").arrays["state/pos_embed"]
    trunk = DiT(width=48, heads=3).build((4, 8, 8), 10, sees_r=False)
    check("pos_embed", trunk.get_parameter("pos_embed"), positions, 1e-6)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith("unet_")])
def test_unet_computes_the_official_numbers(name: str, dtype: torch.dtype, rtol: float) -> None:
    case = load(name, "backbones")
    if name == "unet_pymf_tiny":
        out = pymf(case, dtype)
    elif name == "unet_edm_tiny_ddpmpp":
        out = edm(case, dtype)
    else:
        skip(f"no test knows how {name} is called")
    check(name, out, case.arrays["expected/out_f64"], rtol)


def pymf(case: Case, dtype: torch.dtype) -> Tensor:
    """With augmentation labels."""
    network = Both(unet(case.info["config"], sees_r=True), case, 3).to(dtype)
    x, t, h, a = (case.arrays[key].to(dtype) for key in ("x", "t_fed", "h_fed", "augment"))
    return network(x, t, r=t - h, a=a)


def edm(case: Case, dtype: torch.dtype) -> Tensor:
    """D = c_skip x + c_out F(c_in x, ln(sigma) / 4). EDM's q, k, v alternate by channel."""
    state = {
        key: rearrange(value, "(c three) ... -> (three c) ...", three=3) if ".qkv." in key else value
        for key, value in case.arrays.items()
    }
    case = case._replace(arrays=state)
    sides = {"img_resolution": case.arrays["x"].shape[-1]}
    network = Both(unet({**case.info["config"], **sides}, sees_r=False), case, 3, "model.").to(dtype)
    x, sigma = case.arrays["x"].to(dtype), case.arrays["sigma"].to(dtype)
    norm = (sigma[:, None, None, None] ** 2 + 0.25).sqrt()
    return ect(case, network(x / norm, sigma.log() / 4), dtype)


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


DIT_SIZES = sizes("sizes_dit_sit")


@pytest.mark.parametrize("name", [*DIT_SIZES.get("dit", ()), *DIT_SIZES.get("meanflow_sit", ())])
def test_every_official_size_has_our_names_shapes_and_count(name: str) -> None:
    two_times = name in DIT_SIZES["meanflow_sit"]
    size, _, sigma = name.partition(" ")
    with torch.device("meta"):
        trunk = DiT.model_validate(DiT.preset(size.partition("-")[2])).build((4, 32, 32), 1000, sees_r=two_times)
        output = trunk.projection(8 if "True" in sigma else 4)
    listed = DIT_SIZES["meanflow_sit" if two_times else "dit"][name]
    expected = {}
    for key, shape in listed["keys_in_order_with_block_0_only"].items():
        copies = range(listed["blocks"]) if key.startswith("blocks.0.") else range(1)
        expected |= {key.replace("blocks.0.", f"blocks.{i}."): shape for i in copies}
    assert (shapes(trunk), shapes(output)) == split(expected)
    for repository, known in DIT_SIZES["counts"].items():
        name_there = name.replace("DiT", "SiT") if "SiT" in repository else name
        if name_there in known:
            assert count(trunk, output) == known[name_there]["parameters"]
            trainable = count(trunk, output) - trunk.get_parameter("pos_embed").numel()
            assert trainable == known[name_there]["trainable"]


def test_mean_flow_m_size_count() -> None:
    """OBJECTIVES.md B9."""
    with torch.device("meta"):
        for two_times, expected in ((False, 306_968_592), (True, 308_281_360)):
            trunk = DiT.model_validate(DiT.preset("m/2")).build((4, 32, 32), 1000, sees_r=two_times)
            assert count(trunk, trunk.projection(4)) == expected


def test_second_head_of_the_largest_size() -> None:
    """A whole final layer, 0.4 % of the network: OBJECTIVES.md B9."""
    with torch.device("meta"):
        trunk = DiT.model_validate(DiT.preset("xl/2")).build((4, 32, 32), 1000, sees_r=False)
        assert count(trunk.projection(4)) == 2_674_960


UNET_SIZES = sizes("sizes_unet")


@pytest.mark.parametrize("name", UNET_SIZES)
def test_official_unets_have_our_names_shapes_and_count(name: str) -> None:
    listed = UNET_SIZES[name]
    with torch.device("meta"):
        trunk = unet(listed["config"], sees_r="meanflow" in name)
        output = trunk.projection(3)
    assert (shapes(trunk), shapes(output)) == split(listed["keys"], "model.")
    assert count(trunk, output) == listed["parameters"]


@pytest.mark.parametrize(
    ("preset", "official"),
    [("cifar10", "py-meanflow SongUNet CIFAR-10"), ("edm", "EDM/ECT ddpmpp"), ("ncsnpp", "EDM/ECT ncsnpp")],
)
@pytest.mark.parametrize("labels", [False, True])
def test_presets_are_the_official_networks(preset: str, official: str, labels: bool) -> None:
    known = {name: listed for name, listed in UNET_SIZES.items() if name.startswith(official)}
    listed = next(listed for listed in known.values() if bool(listed["config"]["augment_dim"]) == labels)
    with torch.device("meta"):
        settings = UNet.model_validate(UNet.preset(preset))
        more = {"augmentation": listed["config"]["augment_dim"]}
        trunk = settings.build((3, 32, 32), 0, sees_r=preset == "cifar10", **more)
        output = trunk.projection(3)
    assert (shapes(trunk), shapes(output)) == split(listed["keys"], "model.")
    assert count(trunk, output) == listed["parameters"]


def test_second_heads_of_the_cifar10_network() -> None:
    """An output layer costs what OBJECTIVES.md B10 says. So does the decoder's last block, which takes a skip.

    The block of a deeper head (Head.depth) is a further one behind it, of the trunk's width and without a skip: less.
    """
    with torch.device("meta"):
        trunk = UNet.model_validate(UNet.preset("cifar10")).build((3, 32, 32), 0, sees_r=True)
        assert count(trunk, trunk.projection(3)) == 55_929_347
        assert count(trunk.projection(3)) == 7_427
        assert count(trunk.get_submodule("dec.32x32_block4")) == 1_706_240
        assert count(trunk.block()) == 1_312_512


IMF = {"b": (88_935_184, 145_596_960), "m": (173_908_240, 230_570_016)}
IMF |= {"l": (409_054_224, 509_752_352), "xl": (610_415_632, 711_113_760)}


@pytest.mark.parametrize("size", IMF)
def test_improved_mean_flow_sizes(size: str) -> None:
    """OBJECTIVES.md B2, in millions: 88.9, 173.9, 409.1, 610.4 with u alone, 145.6, 230.6, 509.8, 711.1 with v too."""
    with torch.device("meta"):
        settings = DiT.model_validate(DiT.preset(f"imf-{size}/2"))
        trunk = settings.build((4, 32, 32), 1000, sees_r=True, guided=True)
        head = count(trunk.projection(4), *(trunk.block() for _ in range(8)))
    assert (count(trunk) + head, count(trunk) + 2 * head) == IMF[size]
