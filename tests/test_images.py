"""Image data: samples are functions of (seed, index), whoever reads; layouts, crops and augmentation as published."""

import io
import json
import math
import multiprocessing
import os
import pickle
import signal
import struct
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genobj.assembly import Assembly
from genobj.data.archives import Zip
from genobj.data.augment import TRANSFORMS, Augmentation, Moves, warp
from genobj.data.base import Batch
from genobj.data.folders import FolderImages, ImageNet
from genobj.data.images import Images, ImageSource
from genobj.data.standard import CIFAR10, MNIST, FashionMNIST
from genobj.experiment import Experiment
from genobj.training.feed import Feed
from genobj.training.log import Complaints
from genobj.training.loop import Hook, train
from genobj.training.state import State

CPU = torch.device("cpu")
REAL = Path(__file__).parents[2] / "shared" / "data" / "cifar10-32x32-test.zip"
MEANFLOW = ("x_flip", "scale", "stretch", "translate")


def pixels(number: int, size: int = 8, channels: int = 3) -> np.ndarray:
    """The image of a number, (size, size, channels) uint8."""
    return np.random.default_rng(number).integers(0, 256, (size, size, channels), np.uint8)


def encoded(image: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    Image.fromarray(image.squeeze()).save(out, kind, **options)
    return out.getvalue()


def archive(path: Path, files: Mapping[str, bytes], labels: Any = None, method: int = zipfile.ZIP_STORED) -> Path:
    """A zip with these files and dataset.json."""
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in files.items():
            out.writestr(name, data)
        out.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def small(path: Path, count: int = 40, **options: Any) -> Path:
    """A zip of random images, number i labelled i % 4 and named so that the order of names is theirs."""
    files = {f"00000/img{i:05d}.png": encoded(pixels(i)) for i in range(count)}
    return archive(path, files, [[name, i % 4] for i, name in enumerate(files)], **options)


def wanted(*numbers: int) -> Tensor:
    """The images of these numbers in [-1, 1]."""
    return torch.stack([torch.tensor(pixels(n)).permute(2, 0, 1) / 127.5 - 1 for n in numbers])


def which(x: Tensor) -> list[int]:
    """The numbers of these images, exactly."""
    known = {wanted(number).numpy().tobytes(): number for number in range(40)}
    return [known[image.contiguous().numpy().tobytes()] for image in x]


def zipped(path: Path, **settings: Any) -> Zip:
    return Zip.model_validate({"path": str(path), "resolution": 8, "labels": 4, **settings})


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(a, b, strict=True)
    return all((x is None and y is None) or (x is not None and y is not None and x.equal(y)) for x, y in pairs)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("zip") / "some.zip")


class TestZip:
    @pytest.mark.parametrize("cache", ["memory", "none"])
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_every_image_comes_once_with_its_label(self, tmp_path: Path, cache: str, method: int) -> None:
        source = zipped(small(tmp_path / "a.zip", method=method), cache=cache).open()
        batches = list(source.whole("train", chunk=16))
        assert [len(batch.x) for batch in batches] == [16, 16, 8]
        assert torch.cat([batch.x for batch in batches]).equal(wanted(*range(40)))
        assert torch.cat([batch.y for batch in batches if batch.y is not None]).tolist() == [i % 4 for i in range(40)]
        epoch = source.train(range(40, 80), 0)
        assert sorted(epoch.x.flatten(1).tolist()) == sorted(wanted(*range(40)).flatten(1).tolist())

    def test_a_folder_of_the_same_layout_is_the_same_data(self, made: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(made) as all_files:
            all_files.extractall(tmp_path)
        assert same(zipped(made).open().train(range(30), 1), zipped(tmp_path).open().train(range(30), 1))

    def test_ranks_share_the_whole_out(self, made: Path) -> None:
        source = zipped(made).open()
        (whole,) = source.whole("held_out", chunk=100)
        parts = [torch.cat([b.x for b in source.whole("held_out", 3, rank, 3)]) for rank in range(3)]
        assert all(part.equal(whole.x[rank::3]) for rank, part in enumerate(parts))

    def test_splits(self, made: Path, tmp_path: Path) -> None:
        """A test set, a share that is held out, or training images; the reference is always of training images."""
        other = archive(tmp_path / "t.zip", {"a.png": encoded(pixels(99))}, [["a.png", 3]])
        tested, kept, bare = (zipped(made, **s).open() for s in ({"test": str(other)}, {"holdout": 0.25}, {}))
        assert (tested.unseen, kept.unseen, bare.unseen) == (True, True, False)
        assert tested.held_out(5, 0).x.equal(wanted(99))
        seen = [number for batch in kept.whole("train", 7) for number in which(batch.x)]
        unseen = which(kept.held_out(100, 0).x)
        assert (len(unseen), sorted(unseen + seen)) == (10, list(range(40)))
        assert set(which(zipped(made, holdout=0.25).open().held_out(100, 7).x)) == set(unseen)
        assert set(which(kept.train(range(60), 3).x)) == set(seen)
        assert set(which(kept.reference(12, 0).x)) < set(seen)
        assert sorted(which(kept.reference(1000, 0).x)) == seen
        assert sorted(which(bare.held_out(100, 0).x)) == list(range(40))

    def test_labels_are_left_out_on_demand(self, made: Path) -> None:
        assert zipped(made, labels=0).open().train(range(3), 0).y is None

    def test_grey(self, tmp_path: Path) -> None:
        path = archive(tmp_path / "g.zip", {"a.png": encoded(pixels(1, channels=1))})
        data = zipped(path, channels=1, labels=0)
        (batch,) = data.open().whole("train", 4)
        assert data.shape == (1, 8, 8)
        assert batch.x.equal(torch.tensor(pixels(1, channels=1)).permute(2, 0, 1)[None] / 127.5 - 1)

    def test_the_real_cifar(self) -> None:
        if not REAL.exists():
            pytest.skip("needs the CIFAR-10 zips beside the repository")
        source = Zip(path=str(REAL), labels=10, cache="none").open()
        x, y, _ = source.train(range(300), 0)
        assert x.shape == (300, 3, 32, 32)
        assert y is not None
        assert set(y.tolist()) == set(range(10))
        assert x.mean().item() == pytest.approx(-0.05, abs=0.06)
        assert x.std().item() == pytest.approx(0.5, abs=0.03)


class TestSamplesAreFunctionsOfSeedAndIndex:
    @pytest.fixture
    def source(self, made: Path) -> ImageSource:
        return zipped(made, flip=True, augment={"p": 0.4}, cache="none").open()

    def test_however_they_are_batched(self, source: ImageSource) -> None:
        whole = source.train(range(250, 550), 3)
        pieces = [source.train(range(start, min(start + 37, 550)), 3) for start in range(250, 550, 37)]
        joined = Batch(*(torch.cat(column) for column in zip(*pieces, strict=True)))  # type: ignore[arg-type]
        assert same(whole, joined)
        assert same(whole.map(lambda value: value[1::3]), source.train(range(251, 550, 3), 3))
        assert not whole.x.equal(source.train(range(250, 550), 4).x)

    def test_in_memory_or_not(self, source: ImageSource, made: Path) -> None:
        memory = zipped(made, flip=True, augment={"p": 0.4}).open()
        assert same(memory.train(range(100), 1), source.train(range(100), 1))
        assert same(memory.held_out(20, 1), source.held_out(20, 1))

    def test_in_a_pickled_copy(self, source: ImageSource) -> None:
        assert same(pickle.loads(pickle.dumps(source)).train(range(9), 0), source.train(range(9), 0))

    def test_half_are_flipped(self, made: Path) -> None:
        plain, flipped = (
            zipped(made).open().train(range(400), 0).x,
            zipped(made, flip=True).open().train(range(400), 0).x,
        )
        mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
        assert ((flipped == plain).flatten(1).all(1) ^ mirrored).all()
        assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)

    def test_held_out_and_reference_are_never_changed(self, source: ImageSource) -> None:
        for batch in (source.held_out(9, 0), source.reference(9, 0)):
            assert len(set(which(batch.x))) == 9
            assert batch.a is None


class TestAugmentation:
    def test_widths_and_order(self) -> None:
        assert Augmentation().width == 0
        assert Augmentation(p=0.12).width == 9
        assert Augmentation(p=0.12, transforms=MEANFLOW).width == 6
        assert Augmentation(transforms=("translate", "x_flip")).transforms == ("x_flip", "translate")

    def test_labels_are_zero_exactly_where_nothing_is_changed(self) -> None:
        x = torch.rand(600, 3, 8, 8) * 2 - 1
        changed, a = Augmentation(p=0.12)(x, range(600), 0)
        untouched = (changed == x).flatten(1).all(1)
        assert untouched.equal((a == 0).all(1))
        flipped = (a[:, 0] == 1) & (a[:, 1:] == 0).all(1)
        assert changed[flipped].equal(x[flipped].flip(3))
        assert flipped.float().mean().item() == pytest.approx(0.5 * (1 - 0.06) * 0.88**4, abs=0.06)
        for column in (2, 4, 5, 8):  # scale, rotation's sine, stretch, translation: each on with probability p
            assert (a[:, column] != 0).float().mean().item() == pytest.approx(0.12, abs=0.05)

    def test_leaving_a_transform_out_changes_no_other(self) -> None:
        x = torch.rand(200, 3, 8, 8)
        every, six = (
            Augmentation(p=0.3)(x, range(200), 0)[1],
            Augmentation(p=0.3, transforms=MEANFLOW)(x, range(200), 0)[1],
        )
        assert six.equal(every[:, [0, 2, 5, 6, 7, 8]])

    def test_an_image_of_one_colour_stays_so(self) -> None:
        """The filters keep the mean, and the borders are reflected."""
        moves = _moves(16, scale=torch.linspace(-1, 1, 16), rotate=torch.linspace(-3, 3, 16))
        x = torch.full((16, 3, 16, 16), 0.3)
        assert warp(x, moves.inverse(16)).allclose(x, atol=2e-3)

    def test_a_quarter_turn_turns_by_a_quarter(self) -> None:
        smooth = _smooth()
        turned = warp(smooth, _moves(1, rotate=torch.tensor([math.pi / 2])).inverse(32))
        assert turned.allclose(smooth.rot90(1, (2, 3)), atol=0.03)
        assert not turned.allclose(smooth.rot90(-1, (2, 3)), atol=0.3)

    def test_a_translation_by_whole_pixels_shifts(self) -> None:
        """Label 1 is an eighth of the width; right and down are positive."""
        smooth = _smooth()
        moved = warp(smooth, _moves(1, right=torch.tensor([1.0]), down=torch.tensor([0.5])).inverse(32))
        assert moved[..., 4:, 6:].allclose(smooth[..., 2:-2, 2:-4], atol=0.03)

    def test_scaling_enlarges_about_the_centre(self) -> None:
        smooth = _smooth()
        larger = warp(smooth, _moves(1, scale=torch.tensor([5.0])).inverse(32))  # 2 ** (5 * 0.2) = 2
        middle = torch.nn.functional.interpolate(smooth[..., 8:24, 8:24], scale_factor=2, mode="bilinear")
        assert larger[..., 2:-2, 2:-2].allclose(middle[..., 2:-2, 2:-2], atol=0.03)

    def test_against_the_published_order_of_operations(self) -> None:
        """The same warp by torch's own convolutions, affine grids and one margin for the whole batch."""
        torch.manual_seed(1)
        moves = Moves.drawn(torch.rand(24, 11), torch.randn(24, 4), 0.6, TRANSFORMS)
        x = torch.rand(24, 3, 16, 16) * 2 - 1
        assert warp(x, moves.inverse(16)).allclose(_published(x, moves.inverse(16)), atol=5e-5)

    def test_mistakes(self) -> None:
        with pytest.raises(ValueError, match="stands twice"):
            Augmentation(transforms=("scale", "scale"))
        with pytest.raises(ValueError, match="less than or equal to 1"):
            Augmentation(p=12)


def _moves(count: int, **given: Tensor) -> Moves:
    still = {name: torch.zeros(count) for name in Moves._fields}
    return Moves(**(still | given))


def _smooth() -> Tensor:
    line = torch.linspace(-1, 1, 32)
    return torch.stack([(2 * line)[:, None].sin() * (1.5 * line + 0.4).cos(), line[:, None] * line + line / 2])[None]


def _published(x: Tensor, inverse: Tensor) -> Tensor:
    from torch.nn import functional as F

    from genobj.data.augment import SYM6

    def matrix(scale: float, shift: float) -> Tensor:
        return torch.tensor([[scale, 0, shift], [0, scale, shift], [0, 0, 1]], dtype=torch.float32)

    n, c, size, _ = x.shape
    padded = F.pad(x, [size - 1] * 4, mode="reflect")
    wide = torch.zeros(n, c, 2 * padded.shape[2] - 1, 2 * padded.shape[2] - 1)
    wide[..., ::2, ::2] = padded
    taps = torch.tensor(SYM6)
    filter_2d = (taps[:, None] * taps).expand(c, 1, 12, 12)
    doubled = F.conv2d(wide, filter_2d.flip(2, 3), padding=6, groups=c)
    theta = matrix(1, -0.5) @ matrix(2, 0) @ inverse @ matrix(0.5, 0) @ matrix(1, 0.5)
    side = 2 * (size + 6)
    theta = matrix(2 / doubled.shape[2], 0) @ theta @ matrix(side / 2, 0)
    seen = F.grid_sample(doubled, F.affine_grid(theta[:, :2], [n, c, side, side], False), align_corners=False)
    return F.conv2d(seen, filter_2d, stride=2, padding=5, groups=c)[..., 3:-3, 3:-3]


class TestFolders:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for number, name in enumerate(["cats/1.png", "cats/more/2.png", "dogs/1.PNG", "ants/x.png"]):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(encoded(pixels(number)))
        (tmp_path / "readme.txt").write_text("not an image")
        return tmp_path

    def test_class_folders_in_alphabetical_order(self, root: Path) -> None:
        data = FolderImages(path=str(root), resolution=8, labels=3)
        (batch,) = data.open().whole("train", 10)
        assert batch.x.equal(wanted(3, 0, 1, 2))
        assert batch.y is not None
        assert batch.y.tolist() == [0, 1, 1, 2]
        assert FolderImages(path=str(root), resolution=8).open().train(range(4), 0).y is None

    @pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "1"])
    def test_other_colours_are_converted(self, tmp_path: Path, mode: str) -> None:
        image = Image.fromarray(pixels(0)).convert(mode)
        options = {"transparency": bytes(range(256))} if mode == "P" else {}
        kind = "jpeg" if mode == "CMYK" else "png"
        image.save(tmp_path / f"a.{kind}", kind, **options)
        (batch,) = FolderImages(path=str(tmp_path), resolution=8).open().whole("train", 1)
        read = Image.open(tmp_path / f"a.{kind}")
        direct = np.asarray((read.convert("RGBA") if mode == "P" else read).convert("RGB"))
        assert batch.x.equal(torch.tensor(direct).permute(2, 0, 1)[None] / 127.5 - 1)

    @pytest.mark.parametrize("shape", [(70, 41), (33, 90), (16, 16), (5, 9), (32, 16)])
    def test_the_crop_is_adms(self, tmp_path: Path, shape: tuple[int, int]) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
        image.save(tmp_path / "a.png")
        (batch,) = FolderImages(path=str(tmp_path), resolution=16).open().whole("train", 1)
        while min(image.size) >= 32:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = 16 / min(image.size)
        array = np.asarray(image.resize((round(image.width * scale), round(image.height * scale)), 3))
        top, left = (array.shape[0] - 16) // 2, (array.shape[1] - 16) // 2
        crop = torch.tensor(array[top : top + 16, left : left + 16].copy()).permute(2, 0, 1)
        assert batch.x.equal(crop[None] / 127.5 - 1)

    def test_imagenet(self, tmp_path: Path) -> None:
        for number, name in enumerate(["train/n01/a.JPEG", "train/n02/b.JPEG", "val/n01/c.JPEG", "val/n02/d.JPEG"]):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(encoded(pixels(number, 80), "jpeg"))
        data = ImageNet(path=str(tmp_path), labels=2, resolution=64)  # large enough for threads
        source = data.open()
        (unseen,) = source.whole("held_out", 9)
        assert (len(source.parts["train"]), unseen.x.shape) == (2, (2, 3, 64, 64))
        assert unseen.y is not None
        assert unseen.y.tolist() == [0, 1]
        assert not unseen.x.equal(next(source.whole("train", 9)).x)


class TestStandard:
    """What torchvision reads, from files that the test writes."""

    @pytest.mark.parametrize(("kind", "size"), [(MNIST, 28), (FashionMNIST, 32)])
    def test_mnist(self, tmp_path: Path, kind: type[MNIST], size: Literal[28, 32]) -> None:
        raw = tmp_path / kind.lies_in
        raw.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for stem, count in (("train", 6), ("t10k", 3)):
            images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8)
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
        data = kind(root=str(tmp_path), resolution=size)
        assert data.missing is None
        source = data.open()
        (unseen,) = source.whole("held_out", 9)
        assert unseen.x.shape == (3, 1, size, size) == (3, *data.shape)
        edge = (size - 28) // 2
        inner = unseen.x[:, 0, edge : size - edge, edge : size - edge]
        assert inner.equal(torch.tensor(images) / 127.5 - 1)
        assert unseen.y is not None
        assert unseen.y.tolist() == [0, 1, 2]
        assert source.train(range(6), 0).x.shape[0] == 6

    def test_cifar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import CIFAR10 as Theirs  # noqa: N811

        root = tmp_path / CIFAR10.lies_in
        root.mkdir()
        rows = np.stack([pixels(i, 32).transpose(2, 0, 1).reshape(-1) for i in range(4)])
        (root / "batch").write_bytes(pickle.dumps({"data": rows, "labels": [3, 1, 9, 0]}))
        (root / "meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
        for name, value in (("train_list", [["batch", None]]), ("test_list", [["batch", None]])):
            monkeypatch.setattr(Theirs, name, value)
        monkeypatch.setattr(Theirs, "meta", {"filename": "meta", "key": "label_names", "md5": None})
        (batch,) = CIFAR10(root=str(tmp_path)).open().whole("train", 9)
        assert batch.x.equal(torch.stack([torch.tensor(pixels(i, 32)).permute(2, 0, 1) for i in range(4)]) / 127.5 - 1)
        assert batch.y is not None
        assert batch.y.tolist() == [3, 1, 9, 0]
        assert CIFAR10(root=str(tmp_path), labelled=False).open().train(range(2), 0).y is None


class TestWorkers:
    @staticmethod
    def rows() -> Iterator[range]:
        return iter([range(start, start + 7) for start in range(3, 80, 7)])

    @pytest.mark.parametrize(("workers", "ahead"), [(1, 0), (2, 5)])
    def test_whoever_reads_gives_the_same(self, made: Path, workers: int, ahead: int) -> None:
        source = zipped(made, flip=True, augment={"p": 0.3}, cache="none").open()
        state = torch.get_rng_state()
        with Feed(source, self.rows(), 5, CPU) as feed:
            alone = [next(feed) for _ in range(11)]
        with Feed(source, self.rows(), 5, CPU, ahead, workers) as feed:
            for batch in alone:
                assert same(next(feed), batch)
            with pytest.raises(StopIteration):
                next(feed)
        assert torch.get_rng_state().equal(state)

    def test_skipped_files_are_told_once(self, tmp_path: Path) -> None:
        told: list[str] = []
        source = zipped(damaged(tmp_path), cache="none", on_error="skip").open()
        with Feed(source, iter([range(i, i + 12) for i in range(0, 96, 12)]), 0, CPU, 0, 2, told.append) as feed:
            for _ in range(8):
                next(feed)
        assert len(told) == 2
        assert all("img0000" in line and "is damaged" in line for line in told)

    def test_errors_keep_their_words(self, tmp_path: Path) -> None:
        source = zipped(damaged(tmp_path), cache="none").open()
        with (
            pytest.raises(ValueError, match=r"^[^\n]*img0000\d.png is damaged[^\n]*on_error=skip[^\n]*$"),
            Feed(source, iter([range(12)]), 0, CPU, 0, 1) as feed,
        ):
            next(feed)

    def test_a_killed_worker_is_a_sentence(self, made: Path) -> None:
        with (
            pytest.raises(ValueError, match="a process that reads data was killed"),
            Feed(_Killed(zipped(made)), self.rows(), 0, CPU, 0, 1) as feed,
        ):
            next(feed)

    def test_workers_in_a_long_read_end_with_the_feed(self, made: Path) -> None:
        """SIGTERM, with which torch ends them, is the run's to hear; torch alone waits 20 s for two."""
        source = zipped(made)
        with Feed(_Slow(source), iter([range(4), range(4, 8), range(8, 12)]), 0, CPU, 0, 2) as feed:
            next(feed)
            workers = multiprocessing.active_children()
            start = time.monotonic()
        assert len(workers) == 2
        assert time.monotonic() - start < 4
        assert not any(worker.is_alive() for worker in workers)


class Halt(Exception):
    """Ends training in a test."""


def weights(data: Images, stop: int = 0, **machine: Any) -> Tensor:
    """All weights after 6 steps; interrupted after `stop` steps, to go on with another feed."""
    tree = {
        "data": data,
        "backbone": {"kind": "dit", "width": 32, "depth": 1, "heads": 2},
        "train": {"steps": 6, "batch": 16, "device": "cpu", **machine},
    }
    assembly = Assembly(Experiment.model_validate(tree))
    e, step = assembly.experiment, assembly.ready(assembly.step_module())

    def halt(state: State, _: dict[str, float]) -> None:
        if state.step == stop:
            raise Halt

    with suppress(Halt):
        train(assembly.state, step, assembly.source, e.train, e.optim, e.seed, [Hook(1, halt)])
        stop = 0
    if stop:
        train(assembly.state, step, assembly.source, e.train, e.optim, e.seed)
    assert assembly.state.step == 6
    return torch.cat([p.detach().flatten() for p in assembly.model.parameters()])


def test_training_goes_on_in_the_middle_of_an_epoch_whoever_reads(made: Path) -> None:
    """40 images, 16 a step in two parts: the interruption after step 3 lies in the second epoch."""
    data = zipped(made, flip=True, cache="none")
    alone = weights(data, micro_batch=8)
    assert weights(data, stop=3, micro_batch=8, workers=2, prefetch=3).equal(alone)
    assert weights(data, stop=3, micro_batch=8, prefetch=2).equal(alone)


class _Slow(ImageSource):
    """A source whose later batches take a minute, as from a disk that hangs."""

    def __init__(self, settings: Images):
        super().__init__(settings, settings.store("train"), None)

    def train(self, rows: range, seed: int) -> Batch:
        time.sleep(60 if rows.start else 0)
        return super().train(rows, seed)


class _Killed(ImageSource):
    """A source whose reader is killed, as by a system without memory."""

    def __init__(self, settings: Images):
        super().__init__(settings, settings.store("train"), None)
        self.home = os.getpid()

    def train(self, rows: range, seed: int) -> Batch:
        assert os.getpid() != self.home
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def damaged(folder: Path) -> Path:
    """A zip of 12 images, of which 3 and 4 are damaged."""
    path = small(folder / "damaged.zip", 12)
    data = bytearray(path.read_bytes())
    for number in (3, 4):
        data[data.index(encoded(pixels(number))) + 60] ^= 255
    path.write_bytes(data)
    return path


class TestSkipping:
    @pytest.mark.parametrize("cache", ["memory", "none"])
    def test_the_next_sound_image_stands_in(self, tmp_path: Path, cache: str) -> None:
        source = zipped(damaged(tmp_path), cache=cache, on_error="skip").open()
        (whole,) = source.whole("train", 12)
        sound = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
        assert whole.x.equal(wanted(*sound))
        epoch, labels, _ = source.train(range(12), 0)
        assert sorted(which(epoch)) == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 11]
        assert labels is not None
        assert labels.tolist() == [number % 4 for number in which(epoch)]
        assert len(source.held_out(12, 0).x) == 10
        for seed in range(5):  # sound images stand in for damaged ones here, too
            for batch in (source.held_out(9, seed), source.reference(10, seed)):
                assert len(set(which(batch.x))) == len(batch.x) >= 9
                assert batch.y is not None
                assert batch.y.tolist() == [number % 4 for number in which(batch.x)]
        assert [line.split(": ")[1].split()[0][-6:] for line in source.complaints()] == ["03.png", "04.png"]
        assert source.complaints() == []

    @pytest.mark.parametrize("cache", ["memory", "none"])
    def test_nothing_sound_at_all(self, tmp_path: Path, cache: str) -> None:
        path = archive(tmp_path / "bad.zip", {f"{i}.png": b"no" for i in range(3)})
        source = zipped(path, labels=0, cache=cache, on_error="skip").open()
        with pytest.raises(ValueError, match="none of 3 images in a row can be read"):
            source.train(range(2), 0)
        with pytest.raises(ValueError, match="none of 3 images in a row can be read"):
            source.reference(2, 0)

    def test_complaints_are_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        complaints = Complaints(tmp_path)
        for number in range(12):
            complaints(f"file {number}\nis damaged")
        resumed = Complaints(tmp_path)
        resumed("file 3 is damaged")
        assert complaints.total() == resumed.total() == 12
        assert (tmp_path / "data_errors.log").read_text().splitlines()[11] == "file 11 is damaged"
        assert len(caplog.records) == 10
        assert "further ones are in" in caplog.records[-1].message
