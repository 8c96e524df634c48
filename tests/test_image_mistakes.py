"""What can be wrong with image data: each is a sentence that names the file, or a skipped file that is named."""

import io
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genobj.data.archives import Zip
from genobj.data.base import Batch
from genobj.data.folders import FolderImages, ImageNet
from genobj.data.images import Images
from genobj.data.standard import CIFAR10, MNIST
from tests.test_images import archive, encoded, pixels, same, small, zipped


def refused(data: Images, *words: str) -> str:
    """The sentence with which opening or reading the data is refused."""
    with pytest.raises(ValueError, match=words[0]) as caught:
        data.open().train(range(40), 0)
    told = str(caught.value)
    assert all(word in told for word in words), told
    assert "\n" not in told
    assert "Traceback" not in told
    assert len(told) < 500
    return told


def outcome(data: Images) -> tuple[Batch | None, list[str]]:
    """All images, or none; and what was said about what was wrong."""
    try:
        source = data.open()
        (read,) = source.whole("train", 9)
    except ValueError as error:
        return None, [str(error)]
    return read, source.complaints()


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with a header that claims this, and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def of_mode(mode: str, size: int = 8) -> bytes:
    image = Image.fromarray(pixels(0, size)).convert(mode)
    return encoded(np.asarray(image)) if mode != "P" else _saved(image)


def _saved(image: Image.Image, kind: str = "png") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


DEEP = np.arange(64, dtype=np.uint16).reshape(8, 8)
WRONG_IMAGES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no image of the formats"),
    "text": (b"<html>404 not found</html>", "is no image of the formats"),
    "half a JPEG": (encoded(pixels(0, 8), "jpeg")[:-100], "is damaged or cut short"),
    "half a PNG": (encoded(pixels(0, 8))[:100], "is damaged or cut short"),
    "16 bits of grey": (_saved(Image.fromarray(DEEP)), "16 bits"),
    "16 bits of colour": (png(8, 8, 16), "16 bits"),
    "floats": (_saved(Image.fromarray(np.zeros((8, 8), np.float32)), "tiff"), "16 bits per colour or more"),
    "grey": (of_mode("L"), "is grey, the data RGB; if all images are grey, type data.channels=1"),
    "transparent": (of_mode("RGBA"), "is RGB with transparency, the data RGB"),
    "a palette": (of_mode("P"), "is of a palette, the data RGB"),
    "CMYK": (_saved(Image.fromarray(pixels(0)).convert("CMYK"), "jpeg"), "is CMYK, the data RGB"),
    "larger": (encoded(pixels(0, 16)), "has 16 x 16 pixels, the data 8 x 8; type data.resolution=16"),
    "oblong": (encoded(pixels(0, 16)[:8]), "has 16 x 8 pixels, the data 8 x 8; make all images square"),
    "a bomb": (png(60_000, 60_000), "claims more pixels than an image of a data set has"),
    "a smaller bomb": (png(9_000, 9_000), "claims more pixels than an image of a data set has"),
}


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
class TestOneWrongImage:
    def test_is_refused_by_name(self, tmp_path: Path, wrong: str) -> None:
        data, words = WRONG_IMAGES[wrong]
        path = archive(tmp_path / "x.zip", {"a.png": encoded(pixels(1)), "b.png": data, "c.png": encoded(pixels(2))})
        told = refused(zipped(path, labels=0), "b.png")
        assert words in told
        assert str(path) in told
        assert "data.on_error=skip" in told
        assert refused(zipped(path, labels=0, cache="none"), "b.png") == told

    def test_is_skipped_and_named(self, tmp_path: Path, wrong: str) -> None:
        files = {"a.png": encoded(pixels(1)), "b.png": WRONG_IMAGES[wrong][0], "c.png": encoded(pixels(2))}
        source = zipped(archive(tmp_path / "x.zip", files), labels=0, on_error="skip").open()
        assert len(next(source.whole("train", 9)).x) == 2
        assert len(source.train(range(5), 0).x) == 5
        (told,) = source.complaints()
        assert "x.zip: b.png" in told


PAIRS = [[f"00000/img{i:05d}.png", i % 4] for i in range(40)]
WRONG_LABELS: dict[str, tuple[Any, str]] = {
    "none": (None, "dataset.json has no labels; type data.labels=0"),
    "one missing": (PAIRS[:-1], "no label for 00000/img00039.png"),
    "one too many": ([*PAIRS, ["other.png", 1]], "41 labels for 40 images: other.png is not there"),
    "another name": ([["img.png", 0], *PAIRS[1:]], "no label for 00000/img00000.png"),
    "negative": ([[PAIRS[0][0], -1], *PAIRS[1:]], "the label of 00000/img00000.png is -1"),
    "a float": ([[PAIRS[0][0], 0.5], *PAIRS[1:]], "is 0.5; it is to be a whole number"),
    "a truth": ([[PAIRS[0][0], True], *PAIRS[1:]], "is True; it is to be a whole number"),
    "a word": ([[PAIRS[0][0], "cat"], *PAIRS[1:]], "is 'cat'; it is to be a whole number"),
    "too large": ([[PAIRS[0][0], 7], *PAIRS[1:]], "label 7, data.labels says 0 to 3; type data.labels=8"),
    "two": ([*PAIRS, [PAIRS[0][0], 2]], "has two labels, 0 and 2"),
    "a triple": ([[*PAIRS[0], 1], *PAIRS[1:]], "is to be a pair"),
    "a table": (dict(PAIRS), '"labels" is to be a list'),
}


@pytest.mark.parametrize("wrong", WRONG_LABELS)
def test_wrong_labels(tmp_path: Path, wrong: str) -> None:
    labels, words = WRONG_LABELS[wrong]
    path = archive(tmp_path / "x.zip", {name: encoded(pixels(0)) for name, _ in PAIRS}, labels)
    told = refused(zipped(path), "dataset.json")
    assert words in told
    assert str(path) in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "has no labels"),
        (b"[" * 100_000, "no JSON"),
        (None, "is missing"),
    ],
)
def test_a_labels_file_that_is_none(tmp_path: Path, text: bytes | None, words: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pixels(0)))
    if text is not None:
        (tmp_path / "dataset.json").write_bytes(text)
    assert words in refused(zipped(tmp_path), "dataset.json", "data.labels=0")


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_images(path: Path) -> None:
    archive(path, {"readme.txt": b"hello"})


def _packed_otherwise(path: Path) -> None:
    archive(path, {"a.png": encoded(pixels(0))}, [["a.png", 0]], zipfile.ZIP_BZIP2)


def _encrypted(path: Path) -> None:
    data = bytearray(archive(path, {"a.png": encoded(pixels(0))}, [["a.png", 0]]).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


def _claiming(path: Path) -> None:
    """The directory says that the first file unpacks to 3 GB."""
    data = bytearray(archive(path, {"a.png": bytes(10**6)}, [["a.png", 0]], zipfile.ZIP_DEFLATED).read_bytes())
    data[data.index(b"PK\1\2") + 24 : data.index(b"PK\1\2") + 28] = struct.pack("<I", 3 * 10**9)
    path.write_bytes(data)


def _understating(path: Path) -> None:
    """The directory says that a file of a megabyte unpacks to a hundred bytes."""
    data = bytearray(archive(path, {"a.png": bytes(10**6)}, [["a.png", 0]], zipfile.ZIP_DEFLATED).read_bytes())
    data[data.index(b"PK\1\2") + 24 : data.index(b"PK\1\2") + 28] = struct.pack("<I", 100)
    path.write_bytes(data)


def _elsewhere(path: Path) -> None:
    data = bytearray(archive(path, {"a.png": encoded(pixels(0))}, [["a.png", 0]]).read_bytes())
    data[data.index(b"PK\1\2") + 42 : data.index(b"PK\1\2") + 46] = struct.pack("<I", 40)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncate, "is no whole zip archive"),
        (_empty, "is no whole zip archive"),
        (_no_images, "holds no images"),
        (_packed_otherwise, "packed by another method"),
        (_encrypted, "is encrypted"),
        (_claiming, "claims to be 3000000000 bytes large"),
        (_understating, "a.png is damaged"),
        (_elsewhere, "a.png is not where the archive's directory says"),
    ],
)
def test_spoilt_archives(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    path = small(tmp_path / "x.zip", 4)
    spoil(path)
    assert words in refused(zipped(path, labels=0), "x.zip")


def test_nothing_there(tmp_path: Path) -> None:
    assert "type data.path=PATH" in refused(Zip(), "data.path: nothing is set")
    missing = Zip(path=str(tmp_path / "no.zip"))
    assert refused(missing, "nothing is at") == missing.missing
    path = small(tmp_path / "x.zip", 4)
    assert "type data.test=PATH" in refused(zipped(path, test="none.zip"), "data.test: nothing is at none.zip")
    assert f"type data=zip data.path={path}" in refused(FolderImages(path=str(path)), "is no folder")
    assert zipped(path).missing is None


class TestFolders:
    def test_class_folders(self, tmp_path: Path) -> None:
        def folder(labels: int = 2) -> FolderImages:
            return FolderImages(path=str(tmp_path), resolution=8, labels=labels)

        refused(folder(), "holds no images")
        (tmp_path / "a.png").write_bytes(encoded(pixels(0)))
        refused(folder(), "has no class folders; type data.labels=0")
        for name in ("cats", "dogs"):
            (tmp_path / name).mkdir()
        refused(folder(), "a.png lies in no class folder")
        (tmp_path / "a.png").rename(tmp_path / "cats" / "a.png")
        refused(folder(), "class folder dogs holds no images")
        refused(folder(3), "has 2 class folders, data.labels=3; type data.labels=2")
        shutil.copy(tmp_path / "cats/a.png", tmp_path / "dogs/a.png")
        assert len(folder().open().train(range(3), 0).x) == 3

    def test_a_link_to_a_folder_above(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        refused(FolderImages(path=str(tmp_path)), "symbolic link to a folder that it lies in", "loop")

    def test_a_link_to_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
        refused(FolderImages(path=str(tmp_path)), "a.png cannot be read: No such file")

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
        (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
        refused(FolderImages(path=str(tmp_path)), "cannot be read: Too many levels of symbolic links")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_no_permission(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(encoded(pixels(0)))
        (tmp_path / "a.png").chmod(0)
        refused(FolderImages(path=str(tmp_path)), "a.png cannot be read: Permission denied")

    def test_a_fifo_hangs_nobody(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        refused(FolderImages(path=str(tmp_path)), "a.png is no file")

    def test_imagenet(self, tmp_path: Path) -> None:
        data = ImageNet(path=str(tmp_path), labels=1, resolution=8)
        assert "train" in refused(data, "nothing is at")
        for split, name in (("train", "n01"), ("val", "n02")):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.JPEG").write_bytes(encoded(pixels(0), "jpeg"))
        refused(data, "class folder n01 is in train/ or val/, but not in both")


class TestStandard:
    def test_absent(self, tmp_path: Path) -> None:
        data = CIFAR10(root=str(tmp_path))
        told = refused(data, "CIFAR-10 is not, or not whole, in", "type data.download=true, or data.root=FOLDER")
        assert data.missing is not None
        assert told.startswith(data.missing)

    def test_damaged(self, tmp_path: Path) -> None:
        raw = tmp_path / MNIST.lies_in
        raw.mkdir(parents=True)
        for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (raw / f"{stem}-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(30))
        refused(MNIST(root=str(tmp_path)), "MNIST is not, or not whole, in")

    def test_a_download_without_a_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import MNIST as Theirs  # noqa: N811

        def offline(_: object) -> None:
            raise OSError("<urlopen error [Errno -2] Name or service not known>")

        monkeypatch.setattr(Theirs, "download", offline)
        refused(MNIST(root=str(tmp_path), download=True), "MNIST is not, or not whole, in", "Name or service not known")

    def test_without_torchvision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        refused(CIFAR10(), "needs torchvision", "pip install")


@pytest.fixture(scope="module", params=["png", "jpeg"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    files = {f"{i}.{request.param}": encoded(pixels(i), request.param) for i in range(3)}
    return archive(folder / "whole.zip", files, [[name, i] for i, name in enumerate(files)], zipfile.ZIP_DEFLATED)


class TestFuzz:
    """Flipped bytes and cuts: refused or skipped in a sentence, or equal to what was written."""

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_archives(self, whole: Path, data: st.DataObject) -> None:
        spoilt = bytearray(whole.read_bytes())
        for _ in range(data.draw(st.integers(0, 4))):
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del spoilt[data.draw(st.integers(0, len(spoilt))) :]
        path = whole.with_name("spoilt.zip")
        path.write_bytes(spoilt)
        (original,) = zipped(whole).open().whole("train", 9)
        for on_error in ("refuse", "skip"):
            read, told = outcome(zipped(path, on_error=on_error))
            assert read is None or told or same(read, original)
            assert all("spoilt.zip" in line and "\n" not in line for line in told)
            assert read is None or len(read.x) + len(told) == len(original.x)

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(data=st.data(), kind=st.sampled_from(["png", "jpeg", "webp", "bmp", "tiff", "ppm"]))
    def test_files(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str) -> None:
        """A flipped byte of a JPEG may well be another image: what matters is that nothing but a sentence comes."""
        folder = tmp_path_factory.mktemp("file")
        spoilt = bytearray(encoded(pixels(0), kind))
        for _ in range(data.draw(st.integers(1, 6))):
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        (folder / f"a.{kind.replace('jpeg', 'jpg')}").write_bytes(spoilt)
        settings = FolderImages(path=str(folder), resolution=8, on_error="skip", cache="none")
        (read,) = settings.open().whole("train", 9)
        assert len(read.x) in (0, 1)
        if len(read.x):
            assert read.x.abs().max() <= 1
