"""What all image data share: settings, and a source whose every sample is a function of (seed, sample index)."""

import abc
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from genobj import seeds
from genobj.data.augment import Augmentation
from genobj.data.base import HELD_OUT, REFERENCE, Batch, Data, Inventory, Source, Split
from genobj.data.stores import Decoded, Encoded, OnError, Rows, Store
from genobj.data.table import ordered, permutation
from genobj.types import Samples

FLIP, SPLIT = 0xF11B, 0xF11C
"""Streams of random numbers: who is flipped, and which rows are held out."""
ROOM = 2**30
"""Bytes of pixels up to which `cache = "auto"` keeps a data set in memory."""

IN_A_ROW = 1000
"""Files that may be skipped one after the other: where more are damaged, it is the data set that is."""


class Images(Data, abc.ABC):
    """Images of one size, uint8 p becoming p / 127.5 - 1 in [-1, 1], and how training varies them."""

    flip: bool = False
    """Mirror half of the training samples from left to right, without telling the network."""
    augment: Augmentation = Augmentation()
    """Further random changes, of which the network is told."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training images that is held out, the same for every seed, where there is no test set. At 0 all are
    trained on, and 'held-out' samples are training images."""
    on_error: OnError = "refuse"
    """A file that holds no image of this kind ends the run (refuse), or is left out, counted and named in the run's
    data_errors.log (skip): the next sound image stands in for it."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Decode all images once into memory, or each whenever it is needed; auto: memory for up to 1 GiB of pixels."""

    @property
    def idle(self) -> frozenset[str]:
        """The set of transforms, where none happens."""
        return frozenset() if self.augment.width else frozenset({"augment"})

    @property
    def level(self) -> float:
        """Of uint8."""
        return 1 / 127.5

    @property
    def augmentation(self) -> int:
        """As `augment` says."""
        return self.augment.width

    @abc.abstractmethod
    def store(self, split: Split) -> Store | None:
        """The training images, or the test set's; None if there is no test set. Raises ValueError."""

    def open(self) -> "ImageSource":
        """List the files, and read them if they are kept in memory; ValueError that names what cannot be used."""
        stores = {split: self.store(split) for split in ("train", "held_out")}
        return ImageSource(self, *(store and self._kept(store) for store in stores.values()))

    def _kept(self, store: Store) -> Store:
        size = len(store) * torch.Size(self.shape).numel()
        small = self.cache == "memory" or (self.cache == "auto" and size <= ROOM)
        return Decoded.of(store) if isinstance(store, Encoded) and small else store


class Part:
    """Some rows of a store."""

    def __init__(self, store: Store, rows: Rows):
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.rows)

    def sound(self, at: Rows) -> Batch:
        """The images at these places that are sound."""
        rows = self.rows[at]
        images, good = self.store.read(rows)
        return self._batch(images[good], rows[good])

    def some(self, at: Rows, count: int) -> Batch:
        """The first `count` sound images of these places, fewer if there are fewer. ValueError if there is none."""
        found, done = [self.sound(at[:count])], count
        while (lack := count - sum(len(batch.x) for batch in found)) and done < len(at):
            if done >= IN_A_ROW and lack == count:
                break
            found.append(self.sound(at[done : done + lack]))
            done += lack
        if lack == count > 0:
            raise self._none(min(done, len(at)))
        if len(found) == 1:
            return found[0]
        y = [batch.y for batch in found if batch.y is not None]
        return Batch(torch.cat([batch.x for batch in found]), torch.cat(y) if y else None)

    def full(self, at: Rows) -> Batch:
        """An image for every place: the next sound one where there is none. ValueError if none is sound at all."""
        at = at.clone()
        images, good = self.store.read(self.rows[at])
        for _ in range(min(len(self), IN_A_ROW)):
            if bool(good.all()):
                return self._batch(images, self.rows[at])
            bad = (~good).nonzero()[:, 0]
            at[bad] = (at[bad] + 1) % len(self)
            images[bad], good[bad] = self.store.read(self.rows[at[bad]])
        raise self._none(min(len(self), IN_A_ROW))

    def _none(self, count: int) -> ValueError:
        first = "; ".join(self.store.complaints()[:1])
        return ValueError(f"none of {count} images in a row can be read, the first: {first}")

    def _batch(self, images: Tensor, rows: Rows) -> Batch:
        labels = self.store.labels
        return Batch(images.float().div_(127.5).sub_(1), None if labels is None else labels[rows])


class ImageSource(Source):
    """Images of stores, in a new seeded order every epoch, flipped and augmented for training only.

    `held_out` gives rows of the test set, else of the share that is held out, else training images. `reference` gives
    training images, as published Frechet distances do: a seeded choice of `count`, all if there are no more.
    """

    def __init__(self, settings: Images, train: Store | None, test: Store | None):
        assert train is not None
        self.settings, self.stores = settings, [store for store in (train, test) if store is not None]
        every = torch.arange(len(train))
        if test is not None:
            self.parts = {"train": Part(train, every), "held_out": Part(test, torch.arange(len(test)))}
        else:
            self.parts = dict.fromkeys(("train", "held_out"), Part(train, every))
            if kept := min(round(settings.holdout * len(train)), len(train) - 1):
                order = permutation(len(train), 0, SPLIT)
                unseen, seen = order[:kept].sort().values, order[kept:].sort().values
                self.parts = {"train": Part(train, seen), "held_out": Part(train, unseen)}

    @property
    def unseen(self) -> bool:
        """Whether there is a test set, or a share that is held out."""
        return self.parts["held_out"] is not self.parts["train"]

    def train(self, rows: range, seed: int) -> Batch:
        """These training samples."""
        part = self.parts["train"]
        x, y, _ = part.full(ordered(rows, len(part), seed))
        if self.settings.flip:
            x = _flipped(x, rows, seed)
        if not self.settings.augmentation:
            return Batch(x, y)
        x, a = self.settings.augment(x, rows, seed)
        return Batch(x, y, a)

    def held_out(self, count: int, seed: int) -> Batch:
        """A seeded choice of `count` held-out images, no image twice; fewer if fewer are sound."""
        return self._some("held_out", count, seed, HELD_OUT)

    def reference(self, count: int, seed: int) -> Batch:
        """A seeded choice of `count` training images, unchanged; all sound ones if there are no more."""
        return self._some("train", count, seed, REFERENCE)

    def whole(self, split: Split, chunk: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Every sound image of a split, in the order of the files, unchanged."""
        for at in torch.arange(rank, len(self.parts[split]), world).split(chunk):
            yield self.parts[split].sound(at)

    def inventory(self, split: Split) -> Inventory:
        """Rows of a split, and a hash of names and labels (of the pixels, where they are in memory)."""
        part = self.parts[split]
        return Inventory(len(part), part.store.signature(part.rows))

    def complaints(self) -> list[str]:
        """A sentence for every file that was skipped since the last call."""
        return [told for store in self.stores for told in store.complaints()]

    def _some(self, split: Split, count: int, seed: int, stream: int) -> Batch:
        part = self.parts[split]
        return part.some(permutation(len(part), seed, stream), count)


def _flipped(x: Samples, rows: range, seed: int) -> Samples:
    """Half of the samples mirrored."""
    chance = seeds.indexed(lambda n, source: torch.rand(n, generator=source), rows, seed, FLIP)
    return torch.where((chance < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
