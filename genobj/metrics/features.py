"""Feature spaces: networks that look at images, and what metrics keep of what they saw."""

import abc
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from genobj.config.base import Config, Pick
from genobj.data.base import Batch
from genobj.images import Rounding, from_uint8, to_uint8
from genobj.metrics.base import Metric
from genobj.metrics.team import ALONE, Team
from genobj.parts import EXTRACTORS
from genobj.precision import exactly
from genobj.types import Samples

CHUNK = 512
"""Images per forward; fixed, so that features do not depend on anybody's batch size."""
Need = Literal["moments", "spatial", "features", "logits", "labels"]
Matrix = Float[Tensor, "dim dim"]


class Look(NamedTuple):
    """What a network sees in some images."""

    features: Float[Tensor, "batch dim"]
    logits: Float[Tensor, "batch labels"] | None = None
    spatial: Float[Tensor, "batch places"] | None = None
    """Features that still know where in the image they are (sFID)."""


@dataclass(frozen=True)
class Space:
    """An opened extractor."""

    name: str
    """Its registered name."""
    sha256: str
    """Of its weights."""
    width: int
    """Number of features."""
    net: Callable[[Samples], Look]
    """Looks at images in [-1, 1] of at most CHUNK rows."""
    device: torch.device
    rounded: bool = True
    """Whether it is shown images as eight bits would keep them."""
    spatial: bool = False
    """Whether it shows features that know where in the image they are."""
    scale: float = 1.0
    """Size of a feature: kernels, which are not indifferent to it, see features divided by this."""

    def identity(self) -> dict[str, str]:
        """What two values must share to be compared."""
        return {"name": self.name, "sha256": self.sha256}

    @torch.no_grad()
    def look(self, x: Samples, rounding: Rounding) -> Look:
        """Float32 features of images in [-1, 1], on this space's device; not a number for images that are not."""
        shown = from_uint8(to_uint8(x, rounding)) if self.rounded else x
        with exactly(self.device):
            looks = [self.net(some.to(self.device, torch.float32)) for some in shown.split(CHUNK)]
        broken = ~x.flatten(1).isfinite().all(1).to(self.device)
        return Look(
            _spoilt([one.features for one in looks], broken),
            *(
                None if found[0] is None else _spoilt(found, broken)
                for found in ([one.logits for one in looks], [one.spatial for one in looks])
            ),
        )


def _spoilt(pieces: Sequence[Tensor | None], broken: Tensor) -> Tensor:
    found = torch.cat([piece for piece in pieces if piece is not None])
    return found.masked_fill(broken[:, None], torch.nan) if broken.any() else found


class Extractor(Config, abc.ABC):
    """Settings of a feature network."""

    @abc.abstractmethod
    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Why it cannot look at samples of this shape, or None."""

    @abc.abstractmethod
    def open(self, device: torch.device) -> Space:
        """The network with its weights. ValueError, with what to do, if they are not there or damaged."""

    @property
    def classes(self) -> int | None:
        """Labels that its classifier tells apart; 0 if they are not those of any data here, None if not known yet."""
        return 0


def hash_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Moments(NamedTuple):
    """Mean and covariance (divided by n - 1), float64."""

    mean: Float[Tensor, " dim"]
    covariance: Matrix


class Spread:
    """Mean and covariance of rows that come in batches, float64, by Chan's way of putting batches together.

    As good as two passes over all rows, where sums of squares would cancel.
    """

    def __init__(self) -> None:
        self.n, self.mean, self.scatter = 0, torch.zeros(0).double(), torch.zeros(0, 0).double()

    def add(self, rows: Float[Tensor, "n dim"]) -> None:
        """Take in some rows."""
        if len(rows):
            rows = rows.double()
            mean = rows.mean(0)
            centred = rows - mean
            self.join(len(rows), mean.cpu(), (centred.T @ centred).cpu())

    def join(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Take in the mean and the scatter (n - 1 times the covariance) of n rows."""
        if not n:
            return
        if not self.n:
            self.n, self.mean, self.scatter = n, mean, scatter
            return
        total, gap = self.n + n, mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(gap, gap) * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n = total

    def gathered(self, team: Team) -> "Spread | None":
        """That of all processes, on the first one, which must have seen some rows."""
        mine = (torch.tensor(self.n)[None], self.mean[None], self.scatter[None])
        told = [team.gathered(value if self.n else torch.zeros(0)) for value in mine]
        if not team.first:
            return None
        whole = Spread()
        for n, mean, scatter in zip(*told, strict=True):
            if len(n):
                whole.join(int(n), mean[0], scatter[0])
        return whole

    def moments(self) -> Moments:
        """Mean and covariance; ValueError for fewer than two rows."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two samples, got {self.n}.")
        return Moments(self.mean, self.scatter / (self.n - 1))


@dataclass(frozen=True)
class Seen:
    """What was kept of a set of images; only what some metric needs."""

    n: int | None
    """Number of images; unknown (None) where a file does not say."""
    moments: Moments | None = None
    spatial: Moments | None = None
    features: Float[Tensor, "n dim"] | None = None
    logits: Float[Tensor, "n labels"] | None = None
    accuracy: float | None = None
    """Share of images whose most likely class is their label."""
    scale: float = 1.0
    """See Space.scale."""

    def has(self, need: Need) -> bool:
        """Whether this was kept."""
        kept: Mapping[Need, object] = {
            "moments": self.moments,
            "spatial": self.spatial,
            "features": self.features,
            "logits": self.logits,
            "labels": self.accuracy,
        }
        return kept[need] is not None


class Observer:
    """Looks at images batch by batch and keeps what is needed: a few sums, and rows only where a metric asks."""

    def __init__(self, space: Space, needs: Iterable[Need], rounding: Rounding = "truncate"):
        self.space, self.needs = space, frozenset(needs)
        self.rounding: Rounding = rounding
        self.n, self.hits, self.labelled = 0, 0, True
        self.spreads: dict[Need, Spread] = {need: Spread() for need in ("moments", "spatial") if need in self.needs}
        self.rows: dict[Need, list[Tensor]] = {need: [] for need in ("features", "logits") if need in self.needs}

    def add(self, batch: Batch) -> Look:
        """Look at images in [-1, 1] and, for the accuracy, at their labels."""
        look = self.space.look(batch.x, self.rounding)
        found: Mapping[str, Tensor | None] = {
            "moments": look.features,
            "features": look.features,
            "spatial": look.spatial,
            "logits": look.logits,
        }
        for need, kept in (*self.spreads.items(), *self.rows.items()):
            values = found[need]
            if values is None:
                raise ValueError(f"extractor {self.space.name!r} gives no {need}; type --extractor inception")
            kept.add(values) if isinstance(kept, Spread) else kept.append(values.cpu())
        if "labels" in self.needs and look.logits is not None:
            self.labelled &= batch.y is not None
            if batch.y is not None:
                right = look.logits.argmax(1).cpu() == batch.y.cpu()
                self.hits += int((right & look.features.isfinite().all(1).cpu()).sum())
        self.n += len(batch.x)
        return look

    def seen(self, team: Team = ALONE, chunk: int = CHUNK) -> Seen | None:
        """What all processes saw, rows in the order of their numbers; None but on the first process.

        chunk: rows of the chunks in which the work was shared. The first process must have looked at something.
        """
        counts = team.gathered(torch.tensor([[self.n, self.hits]]))
        spreads = {need: spread.gathered(team) for need, spread in self.spreads.items()}
        empty = torch.zeros(0)
        rows = {need: team.whole(torch.cat(parts) if parts else empty, chunk) for need, parts in self.rows.items()}
        if not team.first:
            return None
        n, hits = torch.cat(counts).sum(0).tolist()
        moments = {need: spread.moments() for need, spread in spreads.items() if spread is not None}
        return Seen(
            n,
            moments.get("moments"),
            moments.get("spatial"),
            rows.get("features"),
            rows.get("logits"),
            accuracy=hits / n if "labels" in self.needs and self.labelled else None,
            scale=self.space.scale,
        )


class FeatureMetric(Metric):
    """Subclasses make numbers out of what an extractor saw."""

    needs: ClassVar[frozenset[Need]]
    """What has to be kept of the samples, and of the reference if they are compared with one."""
    compares: ClassVar[bool] = True
    """Whether there is a reference at all."""
    inception: ClassVar[bool] = False
    """Whether the name of the number promises features of Inception."""

    extractor: Annotated[Extractor, Pick(EXTRACTORS)] | None = Field(default=None)
    """Feature network; unset: that of the evaluation."""

    @abc.abstractmethod
    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """Numbers by name; '' names the one that the metric itself is named after."""

    def too_few(self, samples: int, reference: int | None) -> str | None:
        """Why so many samples and real images (None: nobody knows) do not make a number, or None."""
        return None

    def chosen(self, shape: tuple[int, ...], default: Extractor | None = None) -> Extractor:
        """The extractor for samples of this shape; default: that of the evaluation.

        Unset, 8 x 8 digits are shown to the digits classifier, and everything else to Inception.
        """
        from genobj.metrics.extractor import SHAPE, DigitsExtractor
        from genobj.metrics.inception import Inception

        if self.extractor is not None:
            return self.extractor
        if self.inception:
            return default if isinstance(default, Inception) else Inception()
        return default or (DigitsExtractor() if shape == SHAPE else Inception())

    def refusal_of(self, extractor: Extractor, shape: tuple[int, ...], classes: int) -> str | None:
        """Why this metric cannot judge such data with this extractor, or None."""
        from genobj.metrics.inception import Inception

        if self.inception and not isinstance(extractor, Inception):
            return f"it is defined by Inception's features, not by those of {EXTRACTORS.name_of(type(extractor))!r}."
        return extractor.refusal(shape)

    def refusal(self, shape: tuple[int, ...], classes: int) -> str | None:
        """Why the extractor that would be taken cannot judge such data, or None."""
        return self.refusal_of(self.chosen(shape), shape, classes)

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """The first of the numbers, over all samples; looks at both sets on the CPU."""
        space = self.chosen(tuple(samples.x.shape[1:])).open(torch.device("cpu"))
        mine, theirs = (observed(space, self.needs, batch) for batch in (samples, reference))
        return next(iter(self.values(mine, theirs, seed).values()))


def observed(space: Space, needs: Iterable[Need], batch: Batch, rounding: Rounding = "truncate") -> Seen:
    """What a space sees in images that are all at hand."""
    observer = Observer(space, needs, rounding)
    for first in range(0, len(batch.x), CHUNK):
        some = slice(first, first + CHUNK)
        observer.add(Batch(batch.x[some], None if batch.y is None else batch.y[some]))
    seen = observer.seen()
    assert seen is not None
    return seen
