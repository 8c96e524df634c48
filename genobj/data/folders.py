"""Images in folders, one for each class: torchvision's ImageFolder layout, and ImageNet's."""

import abc
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from genobj.data.base import Split
from genobj.data.files import Folder, absent
from genobj.data.images import Images
from genobj.data.stores import Encoded


class _Cropped(Images, abc.ABC):
    """Images of any size below folders, brought to one size."""

    path: str = ""
    """The folder. Every folder in it is a class; without labels, images may lie anywhere in it."""
    resolution: Annotated[int, Field(gt=0)] = 32
    """Pixels on a side: images are halved by averaging, scaled by bicubic interpolation until the short side fits, and
    cut to the middle (ADM's preprocessing; an image of this size stays as it is)."""
    channels: Literal[1, 3] = 3
    """Images are converted to RGB (3) or grey (1)."""
    labels: Annotated[int, Field(ge=0)] = 0
    """Number of class folders; at 0 the data is unconditional."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As set."""
        return (self.channels, self.resolution, self.resolution)

    @property
    def classes(self) -> int:
        """As set."""
        return self.labels

    def _below(self, path: str, setting: str) -> Encoded:
        if told := absent(path, setting):
            raise ValueError(told)
        files = Folder(Path(path).expanduser())
        if not files.where.is_dir():
            raise ValueError(f"data.{setting}: {path} is no folder; for a zip type data=zip data.path={path}")
        names = files.images()
        if not names:
            raise ValueError(f"{files.where} holds no images")
        labels = _labels(files.where, names, self.labels) if self.labels else None
        return Encoded(files, names, labels, self.resolution, self.channels, "centre", self.on_error)


class FolderImages(_Cropped):
    """Images of any size in a folder, scaled and cropped to their middle; class folders in alphabetical order."""

    test: str = ""
    """Another one with held-out images."""

    @property
    def missing(self) -> str | None:
        """Says which folder is not there."""
        return absent(self.path, "path") or (absent(self.test, "test") if self.test else None)

    def store(self, split: Split) -> Encoded | None:
        """All images, class by class."""
        if split == "held_out" and not self.test:
            return None
        path, setting = (self.path, "path") if split == "train" else (self.test, "test")
        return self._below(path, setting)


class ImageNet(_Cropped):
    """ImageNet as it is unpacked: train/ and val/ with a folder for each of the 1,000 classes; val/ is held out."""

    citations: ClassVar[tuple[str, ...]] = ("deng2009imagenet",)

    path: str = ""
    """The folder with train/ and val/ in it."""
    resolution: Annotated[int, Field(gt=0)] = 256
    """Pixels on a side, by ADM's preprocessing."""
    labels: Annotated[int, Field(ge=0)] = 1000
    """Number of classes, those of the folders in alphabetical order; 0: unconditional."""

    @property
    def missing(self) -> str | None:
        """Says which folder is not there."""
        return absent(self.path, "path") or absent(str(Path(self.path) / "train"), "path")

    def store(self, split: Split) -> Encoded | None:
        """train/, or val/ if it is there; both with the same classes."""
        root = Path(self.path).expanduser()
        if split == "train":
            return self._below(str(root / "train") if self.path else "", "path")
        if not (root / "val").is_dir():
            return None
        unseen = self._below(str(root / "val"), "path")
        if self.labels and (other := sorted(set(_folders(root / "val")) ^ set(_folders(root / "train")))):
            raise ValueError(f"{root}: class folder {other[0]} is in train/ or val/, but not in both; add or remove it")
        return unseen


def _folders(root: Path) -> list[str]:
    """Class folders, sorted; hidden ones are none."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _labels(root: Path, names: list[str], classes: int) -> torch.Tensor:
    """The place of every image's folder among the class folders."""
    hint = "type data.labels=0 to train without labels"
    folders = _folders(root)
    if not folders:
        raise ValueError(f"{root} has no class folders; {hint}")
    if len(folders) != classes:
        raise ValueError(
            f"{root} has {len(folders)} class folders, data.labels={classes}; type data.labels={len(folders)}"
        )
    number = {folder: label for label, folder in enumerate(folders)}
    if loose := [name for name in names if name.partition("/")[0] not in number]:
        raise ValueError(f"{root}: {loose[0]} lies in no class folder; move it into one, or {hint}")
    labels = [number[name.partition("/")[0]] for name in names]
    if empty := set(number.values()) - set(labels):
        raise ValueError(f"{root}: class folder {folders[min(empty)]} holds no images; fill or remove it")
    return torch.tensor(labels, dtype=torch.int64)
