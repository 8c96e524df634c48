"""Images in the layout of EDM and StyleGAN: a zip, or a folder like it, with labels in dataset.json."""

import json
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from genobj.data.base import Split
from genobj.data.files import LABELS, Files, Unreadable, absent, opened
from genobj.data.images import Images
from genobj.data.stores import Encoded


class Zip(Images):
    """Images of a zip in EDM's layout (dataset.json beside them), or of a folder like it; all square, of one size."""

    citations: ClassVar[tuple[str, ...]] = ()

    path: str = ""
    """The zip or folder, e.g. cifar10-32x32-train.zip."""
    test: str = ""
    """Another one with held-out images."""
    resolution: Annotated[int, Field(gt=0)] = 32
    """Pixels on a side."""
    channels: Literal[1, 3] = 3
    """1 for grey images, 3 for RGB."""
    labels: Annotated[int, Field(ge=0)] = 0
    """Number of classes in dataset.json; at 0 labels are not read, and the data is unconditional."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As set."""
        return (self.channels, self.resolution, self.resolution)

    @property
    def classes(self) -> int:
        """As set."""
        return self.labels

    @property
    def missing(self) -> str | None:
        """Says which file is not there."""
        return absent(self.path, "path") or (absent(self.test, "test") if self.test else None)

    def store(self, split: Split) -> Encoded | None:
        """All images of the zip, sorted by name; each must be in dataset.json if labels are wanted, and no other."""
        if split == "held_out" and not self.test:
            return None
        files = opened(self.path, "path") if split == "train" else opened(self.test, "test")
        names = files.images()
        if not names:
            raise ValueError(f"{files.where} holds no images")
        labels = read_labels(files, names, self.labels) if self.labels else None
        return Encoded(files, names, labels, self.resolution, self.channels, "exact", self.on_error)


def read_labels(files: Files, names: list[str], classes: int) -> Tensor:
    """The labels of `names` out of dataset.json, whose "labels" are pairs [name, label] or null; ValueError."""
    where = f"{files.where}: {LABELS}"
    hint = "type data.labels=0 to train without labels"
    if LABELS not in files.names():
        raise ValueError(f"{where} is missing; {hint}")
    try:
        tree = json.loads(files.read(LABELS))
    except Unreadable as error:
        raise ValueError(f"{where} {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error or type(error).__name__}); {hint}") from None
    pairs = tree.get("labels") if isinstance(tree, dict) else None
    if pairs is None:
        raise ValueError(f"{where} has no labels; {hint}")
    table = _table(where, pairs)
    if unlabelled := [name for name in names if name not in table]:
        raise ValueError(f"{where} has no label for {unlabelled[0]} ({len(unlabelled)} images are without); {hint}")
    if len(table) > len(names):
        other = min(table.keys() - set(names))
        raise ValueError(f"{where} has {len(table)} labels for {len(names)} images: {other} is not there; mend either")
    if (most := max(table.values())) >= classes:
        raise ValueError(f"{where} has label {most}, data.labels says 0 to {classes - 1}; type data.labels={most + 1}")
    return torch.tensor([table[name] for name in names], dtype=torch.int64)


def _table(where: str, pairs: Any) -> dict[str, int]:
    if not isinstance(pairs, list):
        raise ValueError(f'{where}: "labels" is to be a list of [name, label], or null')
    table: dict[str, int] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"{where}: {pair!r:.80} is to be a pair [name, label]")
        name, label = pair
        if not isinstance(label, int) or isinstance(label, bool) or label < 0:
            raise ValueError(f"{where}: the label of {name} is {label!r:.40}; it is to be a whole number from 0 on")
        if table.setdefault(name, label) != label:
            raise ValueError(f"{where}: {name} has two labels, {table[name]} and {label}")
    return table
