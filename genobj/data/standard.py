"""Data sets that torchvision fetches and reads: CIFAR-10, MNIST, FashionMNIST. Their test sets are held out."""

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from genobj.data.base import Split
from genobj.data.images import Images
from genobj.data.stores import Decoded


class Standard(Images, abc.ABC):
    """Images that torchvision knows by name, all in memory."""

    title: ClassVar[str]
    """What the data set is called."""
    reader: ClassVar[str]
    """Its class in torchvision.datasets."""
    lies_in: ClassVar[str]
    """The folder below `root` where torchvision looks for it."""

    root: str = "data"
    """Folder where torchvision keeps its data sets."""
    download: bool = False
    """Fetch the files first if they are not there."""
    labelled: bool = True
    """Give the labels 0 to 9; without them the data is unconditional."""

    @property
    def idle(self) -> frozenset[str]:
        """What is about files and about having no test set."""
        return super().idle | {"holdout", "on_error", "cache"}

    @property
    def classes(self) -> int:
        """Ten, or none for unlabelled data."""
        return 10 if self.labelled else 0

    @property
    def missing(self) -> str | None:
        """Says where the files are looked for."""
        if self.download or (Path(self.root).expanduser() / self.lies_in).is_dir():
            return None
        return self._advice()

    def store(self, split: Split) -> Decoded:
        """The training or test set."""
        read = _torchvision(self.reader)
        try:
            found = read(str(Path(self.root).expanduser()), train=split == "train", download=self.download)
        except Exception as error:  # damaged files make torchvision raise anything
            what = " ".join(f"{error or type(error).__name__}".split())
            raise ValueError(f"{self._advice()} ({what:.200})") from None
        labels = torch.as_tensor(found.targets).long() if self.labelled else None
        return Decoded(self._pixels(torch.as_tensor(np.asarray(found.data))), labels)

    @abc.abstractmethod
    def _pixels(self, raw: torch.Tensor) -> torch.Tensor:
        """uint8 (images, channels, height, width) out of torchvision's array."""

    def _advice(self) -> str:
        folder = Path(self.root) / self.lies_in
        return f"{self.title} is not, or not whole, in {folder}; type data.download=true, or data.root=FOLDER"


class CIFAR10(Standard):
    """CIFAR-10 through torchvision: 50,000 RGB 32 x 32 training images in ten classes, 10,000 held out."""

    citations: ClassVar[tuple[str, ...]] = ("krizhevsky2009cifar",)
    title: ClassVar[str] = "CIFAR-10"
    reader: ClassVar[str] = "CIFAR10"
    lies_in: ClassVar[str] = "cifar-10-batches-py"

    @property
    def shape(self) -> tuple[int, ...]:
        """RGB, 32 x 32."""
        return (3, 32, 32)

    def _pixels(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.permute(0, 3, 1, 2).contiguous()


class MNIST(Standard):
    """MNIST through torchvision: 60,000 grey 28 x 28 handwritten digits, 10,000 held out."""

    citations: ClassVar[tuple[str, ...]] = ("lecun1998mnist",)
    title: ClassVar[str] = "MNIST"
    reader: ClassVar[str] = "MNIST"
    lies_in: ClassVar[str] = "MNIST/raw"

    resolution: Literal[28, 32] = 28
    """Pixels on a side; 32 adds two black ones around, for networks that halve the image three times and more."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One grey channel."""
        return (1, self.resolution, self.resolution)

    def _pixels(self, raw: torch.Tensor) -> torch.Tensor:
        return F.pad(raw[:, None], [(self.resolution - 28) // 2] * 4)


class FashionMNIST(MNIST):
    """FashionMNIST through torchvision: 60,000 grey 28 x 28 pieces of clothing in ten classes, 10,000 held out."""

    citations: ClassVar[tuple[str, ...]] = ("xiao2017fashion",)
    title: ClassVar[str] = "FashionMNIST"
    reader: ClassVar[str] = "FashionMNIST"
    lies_in: ClassVar[str] = "FashionMNIST/raw"


def _torchvision(name: str) -> Callable[..., Any]:
    """A class of torchvision.datasets; ValueError where torchvision cannot be imported."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another torch raises RuntimeError
        raise ValueError(
            f"this data needs torchvision, which does not work here ({error}); type pip install -U torch torchvision"
        ) from None
    return getattr(datasets, name)
