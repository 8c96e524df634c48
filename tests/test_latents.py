"""Autoencoders, genobj encode, latents as training data, and the way back to images."""

import json
import os
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from genobj import autoencoders
from genobj.autoencoders import Autoencoder, pixels
from genobj.data import rows, shard_writing, shards
from genobj.data.base import Inventory
from genobj.data.digits import Digits
from genobj.data.latents import Latents
from genobj.encoding import Encoder, Encoding, verify
from genobj.training.feed import Feed
from genobj.training.ranks import Ranks

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
DC_BLOCKS = ("ResBlock", "EfficientViTBlock")


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AutoencoderKL for 8 x 8 grey images: 4 x 4 x 4 latents."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    )
    folder = tmp_path_factory.mktemp("kl")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AutoencoderDC for colour images: half as large latents."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=DC_BLOCKS,
        decoder_block_types=DC_BLOCKS,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="Conv",
        scaling_factor=0.41,
    )
    folder = tmp_path_factory.mktemp("dc")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoded(kl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training digits as latents, eight shards. Tests that change them copy them first."""
    folder = tmp_path_factory.mktemp("encoded")
    outcome = Encoder(Digits(), recipe(kl), folder)()
    assert (outcome.shards, outcome.made, outcome.missing, outcome.rows) == (8, 8, 0, 1437)
    return folder


@pytest.fixture
def copied(encoded: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    for file in encoded.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def recipe(source: Path, **more: Any) -> Encoding:
    return Encoding.model_validate({"autoencoder": str(source), "shard": 200, "batch": 64, **more})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Autoencoders


def test_moments_are_those_of_diffusers_and_come_back(kl: Path) -> None:
    codec, model = Autoencoder(source=str(kl)).open(), diffusers.AutoencoderKL.from_pretrained(kl)
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    moments = codec.encode(images, 5)
    with torch.no_grad():
        law = model.encode(images).latent_dist
        assert torch.equal(moments, torch.cat([law.mean, law.std], 1))
        z = torch.randn(5, 4, 4, 4)
        wanted = model.decode(z).sample.clamp(-1, 1)
    x = codec.settings.to_model(z)
    torch.testing.assert_close(x, (z - 0.1) * 0.5)
    torch.testing.assert_close(codec.decode(x), wanted, atol=1e-5, rtol=1e-4)
    assert codec.settings.sha256 == autoencoders.digest(kl / autoencoders.WEIGHTS)


def test_latents_of_a_deterministic_autoencoder(dc: Path, tmp_path: Path) -> None:
    codec, model = Autoencoder(source=str(dc)).open(), diffusers.AutoencoderDC.from_pretrained(dc)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(images), model.encode(images).latent)
    assert (codec.gives, codec.factor, codec.settings.scale) == ("latents", 2, 0.41)
    assert codec.decode(torch.randn(2, 4, 8, 8)).shape == (2, 3, 16, 16)


def test_samples_do_not_depend_on_the_batch_in_which_they_are_decoded(kl: Path) -> None:
    codec, x = Autoencoder(source=str(kl)).open(), torch.randn(7, 4, 4, 4)
    assert torch.equal(codec.decode(x)[4:], codec.decode(x[4:]))


def test_pixels_is_the_identity_without_an_autoencoder() -> None:
    x = torch.randn(3, 2)
    assert pixels(Digits(), x) is x


def test_scale_and_shift_per_channel() -> None:
    settings = Autoencoder(source="a/b", scale=(1.0, 2.0), shift=(0.5, -1.0))
    z = torch.randn(3, 2, 4, 4)
    x = settings.to_model(z)
    torch.testing.assert_close(x[:, 1], (z[:, 1] + 1) * 2)
    torch.testing.assert_close(settings.from_model(x), z)
    with pytest.raises(ValueError, match="scale has 2 numbers, the latents 4 channels"):
        settings.to_model(torch.randn(1, 4, 2, 2))
    with pytest.raises(ValueError, match="its scale is not known; give it"):
        Autoencoder(source="a/b").to_model(z)


def test_mean_and_deviation_of_a_config_become_shift_and_scale(kl: Path, tmp_path: Path) -> None:
    folder = clone(kl, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config |= {"latents_mean": [0.0, 1.0, 2.0, 3.0], "latents_std": [1.0, 2.0, 4.0, 5.0]}
    (folder / "config.json").write_text(json.dumps(config))
    made = Autoencoder(source=str(folder)).open().settings
    assert (made.shift, made.scale) == ((0.0, 1.0, 2.0, 3.0), (0.5, 0.25, 0.125, 0.1))


def clone(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / autoencoders.WEIGHTS).unlink()


def _truncated(folder: Path) -> None:
    file = folder / autoencoders.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def _tensor_missing(folder: Path) -> None:
    file = folder / autoencoders.WEIGHTS
    tensors = load_file(file)
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, file)


def _tensor_of_another_shape(folder: Path) -> None:
    file = folder / autoencoders.WEIGHTS
    save_file(load_file(file) | {"decoder.conv_in.weight": torch.zeros(2, 2)}, file)


def _another_class(folder: Path) -> None:
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_no_config, "has no config.json; give a folder of diffusers"),
        (_no_weights, "has no diffusion_pytorch_model.safetensors"),
        (_truncated, "does not hold a whole autoencoder"),
        (_tensor_missing, "does not fit its config.json: missing decoder.conv_in.weight"),
        (_tensor_of_another_shape, r"(does not hold a whole|does not fit).*decoder.conv_in.weight"),
        (_another_class, "describes UNet2DModel; AutoencoderKL and AutoencoderDC are understood"),
        (_no_json, "is not the config of an autoencoder"),
    ],
)
def test_a_damaged_autoencoder_is_named(harm: Callable[[Path], None], message: str, kl: Path, tmp_path: Path) -> None:
    folder = clone(kl, tmp_path / "harmed")
    harm(folder)
    with pytest.raises(ValueError, match=message):
        Autoencoder(source=str(folder)).open()


def test_other_weights_do_not_decode(kl: Path) -> None:
    with pytest.raises(
        ValueError, match=r"but 000000000000\.\.\. made these latents; give the source of those weights"
    ):
        Autoencoder(source=str(kl), sha256="0" * 64).open()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "sd-vae-ft-ema",
            r"type: hf download stabilityai/sd-vae-ft-ema config.json diffusion_pytorch_model.safetensors",
        ),
        ("owner/pipeline/vae", r"hf download owner/pipeline vae/config.json vae/diffusion_pytorch_model.safetensors"),
        ("no-such-name", "there is no folder 'no-such-name' and no autoencoder of that name; type a folder"),
        ("./nowhere/at/all", "there is no folder './nowhere/at/all'"),
    ],
)
def test_what_is_not_on_this_machine_is_one_sentence(
    source: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        Autoencoder(source=source).open()
    assert "\n" not in str(caught.value)


def test_without_diffusers_the_extra_is_named(kl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'genobj\[diffusers\]'"):
        Autoencoder(source=str(kl)).open()


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 7, 8), (2, 8, 8)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], kl: Path) -> None:
    with pytest.raises(ValueError, match="takes images of 1 channels and sides that 2 divides"):
        Autoencoder(source=str(kl)).open().encode(torch.zeros(shape))


# Encoding


def test_shards_hold_moments_of_both_sides_labels_and_their_story(encoded: Path, kl: Path) -> None:
    codec, source = Autoencoder(source=str(kl)).open(), Digits().open()
    told = json.loads((encoded / "index.json").read_text())
    assert (told["rows"], told["shape"], told["classes"], told["kind"]) == (1437, [4, 4, 4], 10, "moments")
    for number in range(8):
        (given,) = source.whole("train", 1437, number, 8)
        assert given.y is not None
        file = encoded / f"latents_rank00_shard{number:03d}.safetensors"
        stored = load_file(file)
        assert stored["latents"].dtype == torch.float16
        torch.testing.assert_close(stored["latents"].float(), codec.encode(given.x, 64), atol=2e-3, rtol=2e-3)
        mirrored = codec.encode(given.x.flip(-1), 64)
        torch.testing.assert_close(stored["latents_flip"].float(), mirrored, atol=2e-3, rtol=2e-3)
        assert torch.equal(stored["labels"], given.y)
        about = shards.header(file).told
        assert (about["scale"], about["shift"], about["sha256"]) == ("0.5", "0.1", codec.settings.sha256)
        assert json.loads(about["data"])["kind"] == "digits"
        assert about["rows"] == f"{number}, {number + 8}, ...: every 8th image, in order"


def test_two_processes_make_what_one_makes(encoded: Path, kl: Path, tmp_path: Path) -> None:
    one, two = (Encoder(Digits(), recipe(kl), tmp_path, Ranks(rank=rank, world=2)) for rank in (0, 1))
    first = two()
    assert (first.made, first.missing, first.rows) == (4, 4, 0)
    assert not (tmp_path / "index.json").exists()
    assert one().rows == 1437
    assert contents(tmp_path) == contents(encoded)


def test_a_finished_set_is_left_as_it_is(copied: Path, kl: Path) -> None:
    before, seen = contents(copied), []
    outcome = Encoder(Digits(), recipe(kl), copied)(lambda done, total: seen.append((done, total)))
    assert (outcome.made, outcome.rows) == (0, 1437)
    assert contents(copied) == before
    assert seen[-1] == (1437, 1437)


def test_progress_is_told_within_a_shard(kl: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    Encoder(Digits(), recipe(kl, shard=800, split="held_out"), tmp_path)(lambda *told: seen.append(told))
    assert [done for done, _ in seen] == [64, 128, 192, 256, 320, 360, 360]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("victim", ["checksum", "save", "safe", "write_index"])
@pytest.mark.parametrize("after", [0, 5])
def test_a_kill_at_any_point_loses_and_doubles_nothing(
    victim: str, after: int, encoded: Path, kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(shard_writing, victim), 0

    def kill(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            if victim == "save":  # in the middle of its file
                arguments[0].write_bytes(b"half a file")
            raise Killed
        return real(*arguments)

    encoder = Encoder(Digits(), recipe(kl), tmp_path)
    monkeypatch.setattr(shard_writing, victim, kill)
    if (victim, after) == ("write_index", 5):
        encoder()  # it is written once: nothing to kill
    else:
        with pytest.raises(Killed):
            encoder()
        assert not (tmp_path / "index.json").exists()
    monkeypatch.undo()
    assert Encoder(Digits(), recipe(kl), tmp_path)().rows == 1437
    assert contents(tmp_path) == contents(encoded)


KILLS = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from pathlib import Path
from genobj.data import shard_writing
from genobj.data.digits import Digits
from genobj.encoding import Encoder, Encoding
source, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
settings = Encoding.model_validate({"autoencoder": source, "shard": 12, "batch": 64})
Encoder(Digits(), settings, folder / "warm")  # imports everything before the first fork
chance, landed, partial, quick = random.Random(0), 0, 0, shard_writing.safe
def safe(path):  # a slow disk, so that kills hit unfinished files
    time.sleep(0.005)
    quick(path)
shard_writing.safe = safe
while landed < kills:
    heard, say = os.pipe()
    child = os.fork()
    if not child:
        encoder = Encoder(Digits(), settings, folder)
        os.write(say, b"ready")
        encoder()
        os._exit(0)
    os.read(heard, 5)
    time.sleep(chance.uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    landed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    partial += any(name.startswith(".latents") for name in os.listdir(folder)) if folder.is_dir() else 0
    if (folder / "index.json").exists():  # it got ready: the next kills start anew
        for file in folder.glob("latents_*_shard0[0-9][0-9].safetensors"):
            file.unlink()
        (folder / "index.json").unlink()
print(landed, partial)
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments(kl: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLS, str(kl), str(tmp_path / "killed"), "20"]
    told = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=500).stdout.split()
    assert int(told[0]) == 20
    assert int(told[1]) >= 3, "so many kills hit a file that was being written"
    settings = recipe(kl, shard=12)
    Encoder(Digits(), settings, tmp_path / "whole")()
    assert Encoder(Digits(), settings, tmp_path / "killed")().rows == 1437
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "data", "message"),
    [
        ({"dtype": "float32"}, Digits(), "dtype was float16, now float32; choose another --to"),
        ({"shard": 100}, Digits(), "shards was 8, now 15"),
        ({"mirrored": False}, Digits(), "mirrored was true, now false"),
        ({}, Digits(labelled=False), "data was"),
    ],
)
def test_a_folder_holds_one_set(more: dict[str, Any], data: Digits, message: str, kl: Path, copied: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(data, recipe(kl, **more), copied)()


def test_images_that_changed_since_the_first_part_are_noticed(
    kl: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genobj.data.table.Table.inventory", lambda *_: Inventory(1437, "other"), raising=False)
    with pytest.raises(ValueError, match="the images have changed since"):
        Encoder(Digits(), recipe(kl), copied)()


def test_another_autoencoder_is_noticed(kl: Path, copied: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = clone(kl, tmp_path_factory.mktemp("other") / "kl")
    save_file({name: 2 * value for name, value in load_file(kl / autoencoders.WEIGHTS).items()}, other / "w")
    (other / "w").replace(other / autoencoders.WEIGHTS)
    with pytest.raises(ValueError, match="sha256 was"):
        Encoder(Digits(), recipe(other), copied)()


def test_a_damaged_shard_is_not_taken_for_done(kl: Path, copied: Path) -> None:
    file = copied / "latents_rank00_shard003.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard003.safetensors is truncated.*remove it, and it is made anew"):
        Encoder(Digits(), recipe(kl), copied)()


def test_two_writers_of_one_shard_are_told_apart(tmp_path: Path) -> None:
    import fcntl

    file = tmp_path / "s.safetensors"
    with (tmp_path / f".{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is being written by another process"):
            shard_writing.write(file, {"latents": torch.zeros(1)}, {})


def test_a_lock_that_its_owner_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, lock, real, calls = tmp_path / "s", tmp_path / ".s.lock", shard_writing.fcntl.flock, list[int]()

    def flock(stream: Any, how: int) -> None:
        real(stream, how)
        calls.append(how)
        if len(calls) == 1:
            lock.unlink()

    monkeypatch.setattr(shard_writing.fcntl, "flock", flock)
    with shard_writing._alone(lock, file), pytest.raises(ValueError, match="is being written by another process"):
        shard_writing.write(file, {"latents": torch.zeros(1)}, {})
    assert len(calls) == 2
    assert not lock.exists()


def test_numbers_that_do_not_fit_the_disk_are_refused(kl: Path, tmp_path: Path) -> None:
    encoder = Encoder(Digits(), recipe(kl), tmp_path)
    encoder.codec.encode = lambda *_: torch.full((64, 8, 4, 4), 1e6)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not finite numbers in float16; type --dtype bfloat16"):
        encoder()
    assert not list(tmp_path.glob("*.safetensors"))


# Reading


def test_samples_are_drawn_from_the_moments_of_their_row(encoded: Path) -> None:
    source, scaling = Latents(path=str(encoded)).open(), Latents(path=str(encoded)).autoencoder
    assert scaling is not None
    plain = Latents(path=str(encoded), sample=False, flip=False).open()
    stored = torch.cat([load_file(file)["latents"] for file in shards.names(encoded)]).float()
    labels = torch.cat([load_file(file)["labels"] for file in shards.names(encoded)])
    mirrored = torch.cat([load_file(file)["latents_flip"] for file in shards.names(encoded)]).float()
    every = plain.train(range(1437), 5)
    order = torch.tensor(
        [int((scaling.to_model(stored[:, :4]) == row).flatten(1).all(1).nonzero()[0]) for row in every.x]
    )
    assert torch.equal(order.sort().values, torch.arange(1437))
    assert every.y is not None
    assert torch.equal(every.y, labels[order])
    drawn = source.train(range(1437), 5).x
    z = scaling.from_model(drawn)
    normal = torch.stack([(z - m[order, :4]) / m[order, 4:] for m in (stored, mirrored)])
    flipped = normal[1].square().flatten(1).mean(1) < normal[0].square().flatten(1).mean(1)
    assert 0.4 < flipped.float().mean() < 0.6
    eps = torch.where(flipped[:, None, None, None], normal[1], normal[0])
    assert abs(eps.mean()) < 0.02
    assert abs(eps.std() - 1) < 0.02


def test_a_sample_is_a_function_of_seed_and_index(encoded: Path) -> None:
    source = Latents(path=str(encoded), holdout=0.1).open()
    whole = source.train(range(1200, 1500), 3)
    assert torch.equal(whole.x, torch.cat([source.train(range(1200, 1210), 3).x, source.train(range(1210, 1500), 3).x]))
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(whole.x[1::3], again.train(range(1201, 1500, 3), 3).x)
    assert not torch.equal(whole.x, source.train(range(1200, 1500), 4).x)


def test_workers_read_the_same_and_pass_complaints_on(copied: Path) -> None:
    (copied / "latents_rank00_shard007.safetensors").unlink()
    source, told = Latents(path=str(copied), on_error="skip").open(), list[str]()
    with Feed(
        source, iter([range(40), range(40, 80)]), 3, torch.device("cpu"), workers=1, complain=told.append
    ) as feed:
        read = torch.cat([next(feed).x, next(feed).x])
    assert torch.equal(read, source.train(range(80), 3).x)
    assert ["shard007" in line for line in told] == [True]


def test_reading_does_not_look_at_the_index_again(copied: Path) -> None:
    source = Latents(path=str(copied)).open()
    wanted = source.train(range(9), 0).x
    (copied / "index.json").unlink()
    assert torch.equal(source.train(range(9), 0).x, wanted)


def test_epochs_draw_anew_and_see_every_row_once(encoded: Path) -> None:
    source = Latents(path=str(encoded), sample=False, flip=False).open()
    first, second = (source.train(range(e * 1437, (e + 1) * 1437), 0).x.flatten(1) for e in (0, 1))
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == len(torch.cat([first, second]).unique(dim=0))


def test_held_out_rows_are_not_trained_on(encoded: Path, kl: Path, tmp_path: Path) -> None:
    source = Latents(path=str(encoded), sample=False, flip=False, holdout=0.25).open()
    held = source.held_out(10_000, 0)
    assert len(held.x) == 359
    assert source.unseen
    assert not Latents(path=str(encoded)).open().unseen
    seen = source.train(range(1078), 0).x
    assert len(torch.cat([held.x, seen]).flatten(1).unique(dim=0)) == len(source.rows) == 1437
    Encoder(Digits(), recipe(kl, split="held_out", dtype="float32"), tmp_path)()
    tested = Latents(path=str(encoded), test=str(tmp_path)).open()
    assert len(tested.held_out(10_000, 0).x) == 360
    assert tested.unseen
    assert len(tested.reference(10_000, 0).x) == 1437
    assert sum(len(batch.x) for batch in tested.whole("held_out", 100, 1, 2)) == 180


def test_settings_say_what_the_folder_says_and_more(encoded: Path) -> None:
    told = Latents(path=str(encoded))
    assert (told.shape, told.classes) == ((4, 4, 4), 10)
    assert told.autoencoder is not None
    assert (told.autoencoder.scale, told.autoencoder.shift) == (0.5, 0.1)
    own = Latents.model_validate({"path": str(encoded), "encoded_by": {"source": told.autoencoder.source, "scale": 2}})
    assert own.autoencoder is not None
    assert (own.autoencoder.scale, own.autoencoder.sha256) == (2.0, told.autoencoder.sha256)
    absent = Latents(path="nowhere", sizes=(4, 32, 32), labels=1000, encoded_by=Autoencoder(source="sd-vae-ft-ema"))
    assert (absent.shape, absent.classes, absent.autoencoder) == ((4, 32, 32), 1000, absent.encoded_by)
    with pytest.raises(ValueError, match=r"was made by '.*', weights .*; type data.encoded_by="):
        _ = Latents(path=str(encoded), encoded_by=Autoencoder(source="sd-vae-ft-ema")).autoencoder
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        _ = Latents(path="nowhere").shape


def test_unlabelled_and_unmirrored(kl: Path, tmp_path: Path) -> None:
    Encoder(Digits(labelled=False), recipe(kl, mirrored=False, split="held_out", dtype="bfloat16"), tmp_path)()
    with pytest.raises(ValueError, match=r"has no 'latents_flip'; type data.flip=false"):
        Latents(path=str(tmp_path)).open()
    batch = Latents(path=str(tmp_path), flip=False).open().train(range(5), 0)
    assert batch.y is None
    assert batch.x.shape == (5, 4, 4, 4)


def foreign(folder: Path, channels: int = 4, n: int = 20) -> dict[str, torch.Tensor]:
    """Files as LightningDiT's script writes them."""
    made = {"latents": torch.randn(n, channels, 4, 4), "latents_flip": torch.randn(n, channels, 4, 4)}
    made["labels"] = torch.arange(n) % 7
    made["latents"][:, 4:].abs_()  # standard deviations
    return save(folder, made)


def save(folder: Path, made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors in two files."""
    for number in (0, 1):
        save_file(made, folder / f"latents_rank{number:02d}_shard000.safetensors")
    return made


def test_files_of_lightningdit_with_their_statistics(tmp_path: Path) -> None:
    made = foreign(tmp_path)
    with pytest.raises(ValueError, match="does not say which autoencoder made it"):
        Latents(path=str(tmp_path), labels=7).open()
    settings = Latents(path=str(tmp_path), labels=7, encoded_by=Autoencoder(source="own/vae"), flip=False)
    with pytest.raises(ValueError, match="does not say how its latents are scaled"):
        settings.open()
    mean, std = torch.arange(4.0), torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.save({"mean": mean.view(1, 4, 1, 1), "std": std.view(1, 4, 1, 1)}, tmp_path / "latents_stats.pt")
    x = next(settings.open().whole("train", 20)).x
    torch.testing.assert_close(x, (made["latents"] - mean.view(4, 1, 1)) / std.view(4, 1, 1))
    (tmp_path / "latents_stats.json").write_text(json.dumps({"mean": [0, 0, 0, 0], "std": [1, 1, 1, 1]}))
    torch.testing.assert_close(next(settings.open().whole("train", 20)).x, made["latents"])
    (tmp_path / "latents_stats.json").write_text(json.dumps({"mean": [0], "std": [0]}))
    with pytest.raises(ValueError, match="std above 0"):
        settings.open()
    with pytest.raises(ValueError, match=r"type data.labels=1000"):
        _ = Latents(path=str(tmp_path)).classes


def test_foreign_moments_are_known_by_their_channels(tmp_path: Path) -> None:
    made = foreign(tmp_path, channels=8)
    by = Autoencoder(source="own/vae", scale=2.0)
    source = Latents(path=str(tmp_path), sizes=(4, 4, 4), labels=7, encoded_by=by).open()
    torch.testing.assert_close(next(source.whole("train", 20)).x, 2 * made["latents"][:, :4])


def test_what_stands_beside_the_mean_in_foreign_moments(tmp_path: Path) -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    made, tree = foreign(tmp_path, channels=8), {"path": str(tmp_path), "sizes": (4, 4, 4), "labels": 7, "flip": False}
    tree["encoded_by"] = Autoencoder(source="own/vae", scale=1.0)
    by_std, by_logs = (Latents.model_validate({**tree, "moments": beside}) for beside in ("std", "logvar"))
    with pytest.raises(ValueError, match=r"no number below 0 where.*type data\.moments=std"):
        by_logs.open()
    means, logs = made["latents"].chunk(2, 1)
    logs.sub_(1)[0, 0] = 100.0  # diffusers cuts it off at 20
    save(tmp_path, made)
    with pytest.raises(ValueError, match=r"numbers below 0 where standard.*type data\.moments=logvar"):
        by_std.open()
    found = by_logs.open().train(range(20), 0)
    law = DiagonalGaussianDistribution(made["latents"])
    save(tmp_path, {**made, "latents": torch.cat([means, law.std], 1)})
    torch.testing.assert_close(found.x, by_std.open().train(range(20), 0).x)


def test_our_own_moments_have_deviations_whatever_is_set(encoded: Path) -> None:
    told, plain = Latents(path=str(encoded), moments="logvar").open(), Latents(path=str(encoded)).open()
    assert torch.equal(told.train(range(50), 0).x, plain.train(range(50), 0).x)


# Damage


def _header(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def harm(file: Path) -> None:
        tree, data = _header(file)
        text = json.dumps(change(tree) or tree).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return harm


def _cut(size: int) -> Callable[[Path], None]:
    return lambda file: _write(file, file.read_bytes()[:size])


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _resaved(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda file: save_file(change(load_file(file)), file)


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_cut(0), "truncated or no safetensors file"),
    "in the length": (_cut(4), "truncated or no safetensors file"),
    "after the length": (_cut(8), "its header does not fit"),
    "in the header": (_cut(100), "its header does not fit"),
    "in the data": (_cut(6000), "is truncated: it has 6,000 bytes"),
    "one byte": (lambda file: _write(file, file.read_bytes()[:-1]), "is truncated"),
    "one byte more": (lambda file: _write(file, file.read_bytes() + b"x"), "is too long"),
    "huge header": (lambda file: _write(file, b"\xff" * 8 + file.read_bytes()[8:]), "its header does not fit"),
    "no json": (lambda file: _write(file, file.read_bytes()[:8] + b"x" + file.read_bytes()[9:]), "its header is not"),
    "a list": (_with_header(lambda _: [1]), "its header is not"),
    "deep": (lambda file: _write(file, struct.pack("<Q", 90_000) + b"[" * 90_000), "its header is not"),
    "other shape": (_with_header(lambda t: t["latents"].update(shape=[9, 8, 4, 4])), "bytes for shape"),
    "negative shape": (_with_header(lambda t: t["latents"].update(shape=[-1, -8, 4, 4])), "sizes"),
    "shape of words": (_with_header(lambda t: t["latents"].update(shape=["a"])), "its header is not"),
    "other dtype": (_with_header(lambda t: t["latents"].update(dtype="F16")), "bytes for shape"),
    "unknown dtype": (_with_header(lambda t: t["latents"].update(dtype="C64")), "its header is not"),
    "overlap": (_with_header(lambda t: t["latents_flip"].update(t["latents"])), "overlap or leave gaps"),
    "offsets": (_with_header(lambda t: t["labels"].update(data_offsets=[0])), "its header is not"),
    "labels missing": (_resaved(lambda t: {k: v for k, v in t.items() if k != "labels"}), "has no tensor 'labels'"),
    "latents missing": (_resaved(lambda t: {"labels": t["labels"]}), "has no tensor 'latents', only labels"),
    "fewer labels": (_resaved(lambda t: {**t, "labels": t["labels"][1:].clone()}), r"'labels' is torch.int64 \(19,\)"),
    "float labels": (_resaved(lambda t: {**t, "labels": t["labels"].float()}), "'labels' is torch.float32"),
    "label too large": (_resaved(lambda t: {**t, "labels": t["labels"] + 5}), "has the label 7, there are 7"),
    "negative label": (_resaved(lambda t: {**t, "labels": t["labels"] - 1}), "has the label -1"),
    "flat": (_resaved(lambda t: {**t, "latents": t["latents"].flatten(1)}), r"not \(n, channels, height, width\)"),
    "whole numbers": (_resaved(lambda t: {**t, "latents": t["latents"].int()}), r"'latents' is torch.int32"),
    "other numbers": (
        _resaved(lambda t: {k: v.half() if v.ndim > 1 else v for k, v in t.items()}),
        "holds torch.float16",
    ),
    "other size": (_resaved(lambda t: {k: v[..., :2].clone() if v.ndim > 1 else v for k, v in t.items()}), "of shape"),
    "other mirror": (_resaved(lambda t: {**t, "latents_flip": t["latents"][:3].clone()}), "'latents_flip' is"),
    "no rows": (_resaved(lambda t: {k: v[:0].clone() for k, v in t.items()}), "'latents' is"),
    "a folder": (lambda file: (file.unlink(), file.mkdir())[1], "cannot be read: Is a directory"),
    "a dangling link": (lambda file: (file.unlink(), file.symlink_to("nothing"))[1], "cannot be read: No such file"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_named_refused_or_skipped_and_counted(harm: str, tmp_path: Path) -> None:
    foreign(tmp_path)
    work, message = HARMS[harm]
    file = tmp_path / "latents_rank01_shard000.safetensors"
    work(file)
    settings = {"path": str(tmp_path), "sizes": (4, 4, 4), "labels": 7}
    settings["encoded_by"] = Autoencoder(source="own/vae", scale=1.0)
    with pytest.raises(ValueError, match=f"{file.name}.*{message}.*type data.on_error=skip"):
        Latents.model_validate(settings).open()
    source = Latents.model_validate({**settings, "on_error": "skip"}).open()
    (complaint,) = source.complaints()
    assert complaint.startswith(str(file))
    assert source.complaints() == []
    assert len(source.rows) == 20
    assert source.train(range(50), 0).x.shape == (50, 4, 4, 4)


def test_every_bit_of_a_header_counts(copied: Path) -> None:
    file = copied / "latents_rank00_shard002.safetensors"
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    chance = random.Random(0)
    for _ in range(150):
        place, bit = chance.randrange(8 + length), chance.randrange(8)
        harmed = bytearray(whole)
        harmed[place] ^= 1 << bit
        file.write_bytes(harmed)
        with pytest.raises(ValueError, match=r"latents_rank00_shard002.safetensors"):
            Latents(path=str(copied)).open()
    file.write_bytes(whole)
    assert Latents(path=str(copied)).open().complaints() == []


def test_bits_of_a_foreign_header_are_a_sentence_or_nothing(tmp_path: Path) -> None:
    made = foreign(tmp_path)
    file = tmp_path / "latents_rank01_shard000.safetensors"
    whole, chance, refused, loaded = file.read_bytes(), random.Random(1), 0, 0
    (length,) = struct.unpack("<Q", whole[:8])
    settings = Latents(path=str(tmp_path), labels=7, encoded_by=Autoencoder(source="own/vae", scale=1.0), flip=False)
    for _ in range(150):
        harmed = bytearray(whole)
        harmed[chance.randrange(8 + length)] ^= 1 << chance.randrange(8)
        file.write_bytes(harmed)
        try:
            assert settings.open().train(range(40), 0).x.shape == (40, 4, 4, 4)
        except ValueError as error:
            refused += file.name in str(error)
        else:
            loaded += 1
    assert refused + loaded == 150
    assert refused > 100
    assert len(made["labels"]) == 20


def test_missing_further_and_mixed_files_are_noticed(copied: Path, kl: Path) -> None:
    def refusal(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Latents(path=str(copied)).open()

    last = copied / "latents_rank00_shard007.safetensors"
    kept = last.read_bytes()
    last.unlink()
    refusal("shard007.safetensors cannot be read: No such file")
    skipping = Latents(path=str(copied), on_error="skip").open()
    assert [str(last) in complaint for complaint in skipping.complaints()] == [True]
    assert len(skipping.rows) == 1437 - 179
    (copied / "index.json").unlink()
    refusal("has 7 of 8 shards and no index.json; run the same `genobj encode` again")
    last.write_bytes(kept)
    Encoder(Digits(), recipe(kl), copied)()
    (copied / "other.safetensors").write_bytes(kept)
    refusal("other.safetensors is not among the files that index.json lists")
    (copied / "other.safetensors").unlink()
    index = json.loads((copied / "index.json").read_text())
    for harmed in ("{", "[]", json.dumps({**index, "files": []}), json.dumps({**index, "files": [{}]})):
        (copied / "index.json").write_text(harmed)
        refusal("index.json is damaged.*remove it and run the same")
    (copied / "index.json").write_text(json.dumps({**index, "scale": "null and void"}))
    refusal("index.json does not describe an autoencoder")


def test_shards_of_two_autoencoders_do_not_mix(tmp_path: Path) -> None:
    for number, sha in enumerate(("a" * 64, "b" * 64)):
        told = {"sha256": sha, "scale": "1.0", "shift": "0.0", "kind": "latents"}
        tensors = {"latents": torch.randn(3, 4, 4, 4), "labels": torch.zeros(3, dtype=torch.int64)}
        shard_writing.write(tmp_path / f"latents_rank00_shard00{number}.safetensors", tensors, told)
    settings = Latents(path=str(tmp_path), labels=0, flip=False, encoded_by=Autoencoder(source="a/b", scale=1.0))
    with pytest.raises(ValueError, match=r"shard001.safetensors belongs to another set than .*: its sha256 differs"):
        settings.open()


def test_a_test_folder_of_another_autoencoder_is_refused(encoded: Path, copied: Path) -> None:
    index = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps({**index, "sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"was made by an autoencoder with the hash 000000000000\.\.\."):
        Latents(path=str(encoded), test=str(copied)).open()


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(copied: Path) -> None:
    source = Latents(path=str(copied)).open()
    source.train(range(100), 0)
    for file in shards.names(copied):
        os.truncate(file, 30_000)
    with pytest.raises(ValueError, match="became shorter while it was read"):
        source.train(range(1437), 0)


def test_many_files_need_few_handles(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Latents(path=str(copied)).open().train(range(300), 0).x
    monkeypatch.setattr(rows, "OPEN", 2)
    source = Latents(path=str(copied)).open()
    assert torch.equal(source.train(range(300), 0).x, wanted)
    assert len(source.rows._open) == 2


def test_verify_reads_every_byte(copied: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(copied, lambda *told: seen.append(told)) == []
    assert seen[-1] == (8, 8)
    for number, name in ((1, "latents"), (2, "latents_flip"), (3, "labels")):
        file = copied / f"latents_rank00_shard00{number}.safetensors"
        place = shards.header(file).tensors[name].first + 100
        data = bytearray(file.read_bytes())
        data[place] ^= 4
        file.write_bytes(data)
    told = verify(copied)
    assert [f"shard00{number}" in line for number, line in zip((1, 2, 3), told, strict=True)] == [True] * 3
    with pytest.raises(ValueError, match="checksum of 'labels' is another one"):  # read when data are opened
        Latents(path=str(copied)).open()
    (copied / "index.json").unlink()
    with pytest.raises(ValueError, match="run its `genobj encode` to the end first"):
        verify(copied)


# From the command to images


@pytest.fixture
def command() -> Callable[..., None]:
    """genobj encode, in this process."""
    from genobj.cli import encode

    app = typer.Typer()
    app.command()(encode.command)
    run = typer.main.get_command(app)
    return lambda *arguments: run.main([str(a) for a in arguments], "encode", standalone_mode=False)


def test_the_command(
    command: Callable[..., None], encoded: Path, kl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "latents"
    command("--data", "digits", "--autoencoder", kl, "--to", place, "--shard", 200, "--batch", 64, "--device", "cpu")
    told = capsys.readouterr().out
    assert "1,437 latents in 8 files" in told
    assert f"genobj train --data latents data.path={place}" in told
    assert contents(place) == contents(encoded)
    command("--verify", place)
    assert "every file is as it was encoded" in capsys.readouterr().out
    file = place / "latents_rank00_shard000.safetensors"
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    with pytest.raises(ValueError, match=r"shard000.safetensors is damaged.*\n1 file.s. of"):
        command("--verify", place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "x"], "say which images"),
        (["--data", "digits"], "say where the latents go"),
        (["--data", "digits", "--to", "x", "train.steps=3"], "is no setting of data"),
        (["--data", "digitz", "--to", "x"], "Did you mean 'digits'"),
        (["--data", "digits", "--to", "x", "--dtype", "int8"], "dtype"),
        (["--data", "moons", "--to", "x", "--autoencoder", "nowhere"], "fresh samples without end"),
        (["--data", "digits", "--to", "x", "--autoencoder", "nowhere"], "there is no folder 'nowhere'"),
    ],
)
def test_mistakes_on_the_command_line(
    command: Callable[..., None], arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        command(*arguments)


def test_encode_train_decode(encoded: Path, tmp_path: Path) -> None:
    from genobj.evaluation import Generator
    from genobj.experiment import Experiment
    from genobj.hub import load
    from genobj.run import Run
    from genobj.samplers.euler import Euler

    tree = {
        "data": {"kind": "latents", "path": str(encoded)},
        "backbone": {"kind": "dit", "width": 32, "depth": 1, "heads": 2, "patch": 2},
        "train": {"steps": 4, "batch": 32, "device": "cpu"},
        "evaluation": {"nfe": [1], "count": 32, "reference": 32, "metrics": ["sliced_w2"]},
        "pictures": {"every": 4, "count": 4},
    }
    Run(Experiment.model_validate(tree), tmp_path / "run").go()
    model = load(tmp_path / "run")
    assert model.settings.autoencoder == Latents(path=str(encoded)).autoencoder
    samples, _ = Generator(model.model, model.settings, torch.device("cpu"))(Euler(), 6, 0)
    images = pixels(model.settings, samples.x)
    assert images.shape == (6, 1, 8, 8)
    assert images.abs().max() <= 1
