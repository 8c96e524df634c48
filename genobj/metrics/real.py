"""Real samples that generated ones are compared with: of the data, or of reference files."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from genobj.autoencoders import pixels
from genobj.data.base import Batch, Data, Source
from genobj.images import Rounding
from genobj.metrics.features import CHUNK, FeatureMetric, Need, Observer, Seen, Space
from genobj.metrics.references import Reference
from genobj.metrics.team import ALONE, Team
from genobj.parts import DATA, METRICS

Which = Literal["reference", "other"]
SHARED = 2**31
"""Bytes of samples up to which every process reads them all and looks at its share; of more, the first looks alone."""


@dataclass
class Real:
    """What is compared with: samples of `source`, or reference files, which win.

    Every process of the team calls `look`; the first alone asks for what was seen.
    """

    data: Any
    """Settings of the data, or of the model where these are not at hand."""
    source: Source | None
    """The opened data."""
    files: Callable[[], Sequence[Reference]]
    """Reads the reference files."""
    counts: Mapping[Which, int]
    """How many samples of the data: to compare with, and others for the floor."""
    seed: int
    rounding: Rounding
    device: torch.device
    team: Team = ALONE
    keeps: bool = False
    """Whether samples themselves are compared, so that they are not read anew for that."""
    _seen: dict[tuple[str, Space], Seen | None] = field(default_factory=dict)
    _kept: dict[Which, Batch] = field(default_factory=dict)
    _images: dict[Which, Batch] = field(default_factory=dict)
    _n: dict[Which, int] = field(default_factory=dict)

    @property
    def floored(self) -> bool:
        """Whether there are real samples that are neither in the reference nor seen by training."""
        return self.source is not None and not self.files() and self.source.unseen

    def file(self, metric: FeatureMetric, space: Space) -> Reference | None:
        """The reference file for a metric: the first that can serve it. None without files; ValueError if none can."""
        problems = [file.refusal(space, metric.needs) for file in self.files()]
        fitting = [file for file, problem in zip(self.files(), problems, strict=True) if problem is None]
        if problems and not fitting:
            raise ValueError(f"metric {METRICS.name_of(type(metric))!r}: {problems[0]}")
        return fitting[0] if fitting else None

    def look(self, metrics: Sequence[tuple[FeatureMetric, Space]]) -> None:
        """Look, with all processes together, at everything that these metrics compare with, at each image once."""
        sets: dict[Which, dict[Space, set[Need]]] = {"reference": {}, "other": {}}
        files: dict[tuple[str, Space], tuple[Reference, set[Need]]] = {}
        for metric, space in metrics:
            file = self.file(metric, space) if metric.compares else None
            if file is not None and not file.tells(space, metric.needs):
                files.setdefault((str(file.file), space), (file, set()))[1].update(metric.needs)
            if file is None and metric.compares:
                sets["reference"].setdefault(space, set()).update(metric.needs)
            if self.floored:
                sets["other"].setdefault(space, set()).update(metric.needs)
        for key, (file, needs) in files.items():
            self._seen[key] = file.of(key[1], needs, self.rounding, self.team)
        for which, spaces in sets.items():
            self._look(which, spaces)

    def _look(self, which: Which, spaces: Mapping[Space, set[Need]]) -> None:
        alone = 4 * self.counts[which] * math.prod(self.data.shape) > SHARED
        if not spaces or (alone and not self.team.first):
            return
        team, batch = ALONE if alone else self.team, self._drawn(which)
        if which == "other" and len(batch.x) < 2:
            return
        observers = {space: Observer(space, needs, self.rounding) for space, needs in spaces.items()}
        for part in self._parts(batch, team):
            for observer in observers.values():
                observer.add(part)
        for space, observer in observers.items():
            self._seen[which, space] = observer.seen(team)

    def seen(self, metric: FeatureMetric, space: Space) -> Seen:
        """What a metric compares with; only after `look`, on the first process."""
        if not metric.compares:
            return Seen(None)
        file = self.file(metric, space)
        if file is not None and file.tells(space, metric.needs):
            return file.seen
        found = self._seen["reference" if file is None else str(file.file), space]
        assert found is not None
        return found

    def others(self, metric: FeatureMetric, space: Space) -> Seen | None:
        """What the floor of a metric is measured with; None if that is too little, or not there."""
        found = self._seen.get(("other", space))
        reference = self.seen(metric, space).n if metric.compares else None
        return None if found is None or metric.too_few(found.n or 0, reference) else found

    def samples(self, which: Which) -> Batch:
        """The samples themselves, as images. ValueError if no file holds any."""
        if which not in self._images:
            found = self._drawn(which) if self.source is not None else self._stored()
            self._images[which] = self._decoded(found) if self.source is not None else found
            self._n[which] = len(found.x)
        return self._images[which]

    def check(self, name: str) -> None:
        """ValueError if the metric of this name, which compares samples themselves, has none to compare with."""
        if self.source is None and all(file.images is None for file in self.files()):
            raise ValueError(
                f"{name} compares samples themselves, and no reference file holds images (arr_0); leave it out"
            )

    def n(self, which: Which) -> int:
        """How many there are; only after they were looked at."""
        return self._n[which]

    def identity(self) -> dict[str, Any]:
        """What two values must share to be compared, if they were compared with the data: which images, not where they
        lie or what training does with them."""
        assert self.source is not None
        kind, made = DATA.name_of(type(self.data)) if isinstance(self.data, Data) else "model", self.data.autoencoder
        try:
            rows, sha256 = self.source.inventory("train")
        except ValueError:  # samples without end are what their settings say
            return {"kind": kind, **self.data.model_dump(mode="json", exclude_none=True)}
        decoded = None if made is None else made.sha256 or made.source
        return {"kind": kind, "rows": rows, "sha256": sha256, "autoencoder": decoded}

    def _stored(self) -> Batch:
        return next(file.images.whole() for file in self.files() if file.images is not None)

    def _drawn(self, which: Which) -> Batch:
        """Samples of the data as it gives them. Digits has those of the floor in its reference, too."""
        if which in self._kept:
            return self._kept[which]
        assert self.source is not None
        draw = self.source.reference if which == "reference" else self.source.held_out
        found = draw(self.counts[which], self.seed)
        self._n[which] = len(found.x)
        if self.keeps and self.team.first:
            self._kept[which] = found
        return found

    def _parts(self, batch: Batch, team: Team) -> Iterator[Batch]:
        """The images of this process, CHUNK at a time."""
        for rows in team.chunks(len(batch.x), CHUNK):
            if rows:
                some = slice(rows.start, rows.stop)
                yield self._decoded(Batch(batch.x[some], None if batch.y is None else batch.y[some]))

    def _decoded(self, batch: Batch) -> Batch:
        return batch._replace(x=pixels(self.data, batch.x, self.device))
