"""Latents on disk: what `genobj encode` writes, and files of LightningDiT and UCGM, scaled for the network."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genobj import seeds
from genobj.autoencoders import Autoencoder
from genobj.data import shards as files
from genobj.data.base import HELD_OUT, REFERENCE, TRAIN, Batch, Data, Inventory, Source, Split
from genobj.data.latent_checks import Checks, Kind, of_job, statistics
from genobj.data.rows import Rows
from genobj.data.shards import Damaged
from genobj.data.table import ordered, permutation
from genobj.types import Samples

FLIP, EPS = 1, 2
"""Streams below a split's: whether a row is mirrored, and where in its moments it is drawn."""

LOG_VARIANCES = (-30.0, 20.0)
"""Where diffusers cuts log-variances off."""

PIECE = 16
"""Rows that are scaled at once: what fits into a core's cache."""


class Latents(Data):
    """Latents of images, made by `genobj encode` or by the scripts of LightningDiT and UCGM."""

    path: Annotated[str, Field(min_length=1)] = "latents"
    """Folder of the shards."""
    test: str | None = None
    """Folder with latents of other images, which are held out; unset: see holdout."""
    encoded_by: Autoencoder | None = None
    """The autoencoder that made them: a name, or a table of source, scale and shift; unset: as the folder tells. Scale
    and shift given here win over the folder's."""
    sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=3, max_length=3)] | None = None
    """Shape of one sample, e.g. [4, 32, 32] for SD-VAE and 256 x 256 images; unset: as the folder tells."""
    labels: Annotated[int, Field(ge=0)] | None = None
    """Number of labels, 0 for unconditional; unset: as the folder tells."""
    flip: bool = True
    """Take the latents of the mirrored image half of the time."""
    sample: bool = True
    """Draw from the moments, anew in every epoch; false takes their mean. Files of latents have nothing to draw."""
    moments: Literal["std", "logvar"] = "std"
    """What stands beside the mean in moments of others: standard deviations, or log-variances as in diffusers' moments.
    Moments of `genobj encode` are known to have standard deviations."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the rows that training never sees, if there is no test folder; 0: what is held out is seen, too."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """What happens about a file that is damaged, missing or of another set: stop, or go on without it and say so."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As set, else as the folder tells. ValueError if it does not."""
        if self.sizes is not None:
            return self.sizes
        if self._told is not None:
            return tuple(self._told["shape"])
        return files.header(files.names(Path(self.path))[0]).shape

    @property
    def classes(self) -> int:
        """As set, else as the folder tells. ValueError if it does not."""
        if self.labels is not None:
            return self.labels
        if self._told is None:
            raise ValueError(f"{self.path} does not say how many labels there are; type data.labels=1000, 0 for none")
        return int(self._told["classes"])

    @property
    def autoencoder(self) -> Autoencoder | None:
        """The one that made the latents, with the numbers by which they are scaled. ValueError if nobody says."""
        folder, given = Path(self.path), self.encoded_by
        if self._told is None and given is not None and (given.scale is not None or not folder.is_dir()):
            return given
        if self._told is not None:
            made = of_job(self._told)
        else:
            names = files.names(folder)
            if given is None:
                raise ValueError(
                    f"{names[0].parent} does not say which autoencoder made it; type data.encoded_by=sd-vae-ft-ema, or "
                    "the folder or Hub id of another"
                )
            shift, scale = statistics(folder)
            made = given.model_copy(update={"shift": shift, "scale": scale})
        return made if given is None else self._merged(made, given)

    def _merged(self, made: Autoencoder, given: Autoencoder) -> Autoencoder:
        """The recorded autoencoder, with the scale that was asked for. ValueError if another one was named."""
        same = made.source == given.source if None in (given.sha256, made.sha256) else made.sha256 == given.sha256
        if not same:
            raise ValueError(
                f"data.encoded_by: {self.path} was made by {made.source!r}, weights {(made.sha256 or '?')[:12]}..., "
                f"not by {given.source!r}; type data.encoded_by={made.source}"
            )
        asked = {key: value for key in ("scale", "shift") if (value := getattr(given, key)) is not None}
        return made.model_copy(update=asked)

    @property
    def missing(self) -> str | None:
        """That the folder is not there, if it is not."""
        try:
            files.names(Path(self.path))
        except ValueError as error:
            return str(error)
        return None

    @property
    def _told(self) -> dict[str, Any] | None:
        """The folder's index; None if it is not here or of others. ValueError if ours is unfinished."""
        index = files.read_index(Path(self.path))
        if index is None and Path(self.path).is_dir():
            files.refuse_unfinished(Path(self.path))
        return index

    def open(self) -> "LatentSource":
        """Check every file's header and labels. ValueError names a file that is damaged, missing or of another set."""
        return LatentSource(self)


class LatentSource(Source):
    """Opened latents. Sample i is row `ordered(i)`, mirrored and drawn by its own seed: a function of (seed, i)."""

    def __init__(self, settings: Latents):
        self.settings, self._complaints = settings, []
        scaling = settings.autoencoder
        assert scaling is not None
        self.scaling, self.shape = scaling, settings.shape  # the index is read once, not for every batch
        self.kind: Kind
        self.kind, self.rows, self.labels = self._opened(Path(settings.path), settings.flip)
        self.tested = None if settings.test is None else self._opened(Path(settings.test), False)

    @property
    def unseen(self) -> bool:
        """Whether there is a test folder, or a share that is held out."""
        return self.tested is not None or len(self._share[1]) > 0

    def train(self, rows: range, seed: int) -> Batch:
        """These training samples."""
        numbers = self.kept[ordered(rows, len(self.kept), seed)]
        mirrored = self._coins(rows, seed) if self.settings.flip else None
        return self._batch(self.rows, self.labels, numbers, self.kind, (seed, TRAIN, rows), mirrored)

    def held_out(self, count: int, seed: int) -> Batch:
        """A seeded choice of rows: of the test folder, else of the share held out, else of the training rows."""
        return self._chosen("held_out", count, seed, HELD_OUT)

    def reference(self, count: int, seed: int) -> Batch:
        """A seeded choice of training rows, with which published figures compare; all of them if there are no more."""
        return self._chosen("train", count, seed, REFERENCE)

    def whole(self, split: Split, chunk: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The rows of a split in the order of the files, never mirrored, moments by their mean."""
        kind, rows, labels, numbers = self._split(split)
        for part in numbers[rank::world].split(chunk):
            yield self._batch(rows, labels, part, kind)

    def inventory(self, split: Split) -> Inventory:
        """Rows of a split, and a hash of the headers of all files."""
        _, rows, _, numbers = self._split(split)
        return Inventory(len(numbers), files.told_by(rows.shards))

    def complaints(self) -> list[str]:
        """Files that were left out, told once."""
        told, self._complaints = self._complaints, []
        return told

    @cached_property
    def kept(self) -> Tensor:
        """Rows of the folder that training sees, in order."""
        return self._share[0]

    @cached_property
    def _share(self) -> tuple[Tensor, Tensor]:
        """Rows that training sees, and those it does not: the same whatever the seed of the run."""
        held = round(len(self.rows) * self.settings.holdout) if self.tested is None else 0
        order = permutation(len(self.rows), 0, HELD_OUT)
        return order[held:].sort().values, order[:held].sort().values

    def _split(self, split: Split) -> tuple[Kind, Rows, Tensor | None, Tensor]:
        """What its files hold, the rows, their labels and which of them."""
        if split == "held_out" and self.tested is not None:
            kind, rows, labels = self.tested
            return kind, rows, labels, torch.arange(len(rows))
        numbers = self._share[1] if split == "held_out" and len(self._share[1]) else self.kept
        return self.kind, self.rows, self.labels, numbers

    def _chosen(self, split: Split, count: int, seed: int, stream: int) -> Batch:
        kind, rows, labels, numbers = self._split(split)
        if count < len(numbers):
            numbers = numbers[permutation(len(numbers), seed, stream)[:count]]
        return self._batch(rows, labels, numbers, kind, (seed, stream, range(len(numbers))))

    def _batch(
        self,
        rows: Rows,
        labels: Tensor | None,
        numbers: Tensor,
        kind: Kind,
        drawn: tuple[int, int, range] | None = None,
        mirrored: Tensor | None = None,
    ) -> Batch:
        """These rows, scaled; drawn: seed, stream and sample indices for the draw from moments, None for their mean."""
        stored = rows.gather(numbers, mirrored)
        x = torch.empty(len(stored), *self.shape)
        for first in range(0, len(x), PIECE):
            piece, out = stored[first : first + PIECE].float(), x[first : first + PIECE]
            if kind != "latents":
                mean, std = piece.chunk(2, 1)
                piece = mean
                if drawn is not None and self.settings.sample:
                    seed, stream, indices = drawn
                    std = std if kind == "std" else std.clamp(*LOG_VARIANCES).mul_(0.5).exp_()
                    piece = _normal(out, seed, stream, indices[first : first + PIECE]).mul_(std).add_(mean)
            out.copy_(self.scaling.to_model(piece))
        return Batch(x, None if labels is None else labels[numbers])

    def _coins(self, rows: range, seed: int) -> Tensor:
        def toss(n: int, source: torch.Generator) -> Tensor:
            return torch.rand(n, generator=source) < 0.5

        return seeds.indexed(toss, rows, seed, TRAIN, FLIP)

    def _opened(self, folder: Path, flip: bool) -> tuple[Kind, Rows, Tensor | None]:
        """What the files of a folder hold, its rows, labels; a bad file is refused, or left out and complained of."""
        asked, made_by = self.settings, self.scaling
        check = Checks(folder, self.shape, asked.classes, flip=flip, made_by=made_by, beside=asked.moments)
        kept, labels, wrong = [], [], list[str]()
        for name, listed in check.files():
            try:
                shard = check.shard(name, listed)
                labels.append(check.labels(shard))
                kept.append(shard)
            except Damaged as error:
                if self.settings.on_error == "refuse":
                    raise ValueError(f"{error}; mend it, or type data.on_error=skip to go on without it") from None
                wrong.append(str(error))
        self._complaints += wrong
        if not kept:
            raise ValueError(f"{folder}: not one file of latents is whole; the first: {wrong[0]}")
        return check.kind, Rows(kept), torch.cat(labels) if self.settings.classes else None


def _normal(out: Samples, seed: int, stream: int, rows: range) -> Samples:
    """Fill with the normal numbers of these samples, from a generator for each.

    A generator for every block of samples (seeds.noise) is a third faster, but wasted where several ranks share blocks.
    """
    source = torch.Generator()
    for row, index in zip(out, rows, strict=True):
        row.normal_(generator=source.manual_seed(seeds.mix(seed, stream, EPS, index)))
    return out
