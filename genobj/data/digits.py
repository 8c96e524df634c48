"""The 8 x 8 digits that come with scikit-learn: real images without a download."""

from functools import cache
from typing import ClassVar

import torch

from genobj.data.base import Batch, Data
from genobj.data.table import Table, take


class Digits(Data):
    """Handwritten digits of scikit-learn: 1,797 grey 8 x 8 images in ten classes, no download."""

    citations: ClassVar[tuple[str, ...]] = ("alpaydin1998digits",)

    labelled: bool = True
    """Give the labels 0 to 9; without them the data is unconditional."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One grey channel, pixel / 8 - 1 in [-1, 1]."""
        return (1, 8, 8)

    @property
    def classes(self) -> int:
        """Ten, or none for unlabelled data."""
        return 10 if self.labelled else 0

    @property
    def level(self) -> float:
        """Pixels are whole numbers from 0 to 16."""
        return 1 / 8

    def open(self) -> Table:
        """1,437 training rows and 360 held out, a fixed stratified split.

        `reference` gives all 1,797 images whatever count is asked for: a Frechet distance depends on the number of
        reference images, so that figures compare only if all of them are always used.
        """
        every = _read() if self.labelled else _read()._replace(y=None)
        held_out = _held_out()
        rest = torch.ones(len(every.x), dtype=torch.bool)
        rest[held_out] = False
        return Table(take(every, rest.nonzero()[:, 0]), take(every, held_out), reference=every)


@cache
def _read() -> Batch:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Batch(torch.tensor(images).float().view(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels, dtype=torch.int64))


@cache
def _held_out() -> torch.Tensor:
    # Every fifth row of each class in the file's order: 360 rows, the same whatever random numbers a version draws.
    labels = _read().y
    assert labels is not None
    return labels.argsort(stable=True)[::5].sort().values
