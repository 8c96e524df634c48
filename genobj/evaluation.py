"""Samples from a model, and scores of the samples: sampler x nfe x metric."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from genobj.config.base import Config, Pick, named
from genobj.data.base import Batch, Data, Source
from genobj.metrics.base import Metric
from genobj.model import ModelSettings
from genobj.parts import METRICS, SAMPLERS
from genobj.samplers.auto import choose
from genobj.samplers.base import Sampler
from genobj.seeds import noise
from genobj.types import Horizon, Network

Positive = Annotated[int, Field(gt=0)]
Evaluations = Annotated[int, Field(gt=0, le=10_000)]
AtLeastTwo = Annotated[int, Field(ge=2)]
START, FRESH = 0, 1  # streams of random numbers: z, re-noising
PREFERRED = ("mmd", "sliced_w2", "frechet", "accuracy")
"""Metrics taken if none is named, where they fit the data."""


class Evaluation(Config):
    """What is measured when a run ends and by `genobj evaluate`."""

    nfe: Annotated[tuple[Evaluations, ...], Field(min_length=1)] = (1, 2, 4, 32)
    """Network evaluations per sample, a row of results for each."""
    sampler: Annotated[Sampler, Pick(SAMPLERS)] | None = None
    """Sampler for all of them; unset: the usual one for the model's heads at each nfe."""
    metrics: dict[str, Annotated[Metric, Pick(METRICS)]] = Field(default_factory=dict)
    """Metrics, a table or a list of names; empty: those of mmd, sliced_w2, frechet and accuracy that fit the data."""
    count: AtLeastTwo = 4096
    """Generated samples."""
    reference: AtLeastTwo = 8192
    """Real samples compared with (all of them where a data set has fewer)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of noise and labels; sample i is the same whatever the count."""
    weights: Literal["ema", "live"] = "ema"
    """Weights that sample."""
    batch: Positive = 1024
    """Samples at once; does not change them."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _metric_names(cls, table: Any) -> Any:
        return named(METRICS, table)

    def samplers(self, horizons: Mapping[str, Horizon]) -> dict[int, Sampler]:
        """The sampler of every nfe; ValueError if a model with these heads cannot answer one."""
        chosen = {n: self.sampler.with_nfe(n) if self.sampler else choose(horizons, n) for n in self.nfe}
        for sampler in chosen.values():
            if problem := sampler.refusal(horizons):
                raise ValueError(problem)
        return chosen

    def chosen_metrics(self, data: Data) -> dict[str, Metric]:
        """The metrics that will be computed; ValueError if one that was asked for cannot judge this data."""
        if self.metrics:
            for name, metric in self.metrics.items():
                if problem := metric.refusal(data.shape, data.classes):
                    raise ValueError(f"metric {name!r}: {problem}")
            return dict(self.metrics)
        offered = {name: METRICS.get(name)() for name in PREFERRED}
        return {name: m for name, m in offered.items() if m.refusal(data.shape, data.classes) is None}


@dataclass(frozen=True)
class Record:
    """One measured number and everything needed to read it."""

    metric: str
    """Name of the metric in the settings."""
    kind: str
    """Its registered name."""
    value: float
    floor: float
    """The same metric between other real data (`floor_n` of them) and the reference, for scale."""
    floor_n: int
    nfe: int
    sampler: str
    head: str
    """Head that the sampler followed."""
    settings: dict[str, Any]
    """Settings of the sampler that are not its defaults."""
    weights: str
    n: int
    reference: int
    seed: int
    higher_is_better: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Generator:
    """A model that samples; sample i is a function of (seed, i), whatever the batches."""

    net: Network
    settings: ModelSettings
    device: torch.device
    batch: int = 1024

    def __call__(self, sampler: Sampler, count: int, seed: int, labels: Tensor | None = None) -> tuple[Batch, int]:
        """`count` samples on the CPU and their nfe; labels run through all classes unless given."""
        parts, nfe = [], 0
        if self.settings.classes and labels is None:
            labels = torch.arange(count) % self.settings.classes
        for first in range(0, count, self.batch):
            size = min(self.batch, count - first)
            y = None if labels is None else labels[first : first + size].to(self.device)
            walk = sampler(
                self.net,
                self._noise(first, size, seed, START),
                y,
                path=self.settings.path,
                null=self.settings.classes or None,
                keep=False,
                noise=lambda i, first=first, size=size: self._noise(first, size, seed, FRESH, i),
            )
            parts.append(walk.samples.cpu())
            nfe = walk.nfe
        return Batch(torch.cat(parts), labels), nfe

    def _noise(self, first: int, size: int, seed: int, *stream: int) -> Tensor:
        return noise(self.settings.shape, range(first, first + size), seed, *stream).to(self.device)


class Scorer:
    """Scores samples against the same reference again and again."""

    def __init__(self, settings: Evaluation, data: Data, source: Source):
        self.settings, self.source = settings, source
        self.metrics = settings.chosen_metrics(data)

    @cached_property
    def reference(self) -> Batch:
        """Real samples to compare with."""
        return self.source.reference(self.settings.reference, self.settings.seed)

    @cached_property
    def other(self) -> Batch:
        """Held-out samples, as many as are generated or as there are; digits has them in its reference, too."""
        return self.source.held_out(self.settings.count, self.settings.seed)

    @cached_property
    def floors(self) -> dict[str, float]:
        """Every metric between held-out data and the reference."""
        return {name: metric(self.other, self.reference, self.settings.seed) for name, metric in self.metrics.items()}

    def __call__(self, generator: Generator, weights: str) -> list[Record]:
        """A record for every nfe of the settings and every metric."""
        return self.score(self.settings.samplers(generator.net.horizons).values(), generator, weights)

    def score(self, samplers: Iterable[Sampler], generator: Generator, weights: str) -> list[Record]:
        """A record for every sampler and metric; `weights` names the weights in the records."""
        records = []
        for sampler in samplers:
            samples, nfe = generator(sampler, self.settings.count, self.settings.seed)
            for name, metric in self.metrics.items():
                records.append(
                    Record(
                        metric=name,
                        kind=METRICS.name_of(type(metric)),
                        value=metric(samples, self.reference, self.settings.seed),
                        floor=self.floors[name],
                        floor_n=len(self.other.x),
                        nfe=nfe,
                        sampler=SAMPLERS.name_of(type(sampler)),
                        head=sampler.follows(generator.net.horizons),
                        settings=sampler.model_dump(mode="json", exclude_defaults=True),
                        weights=weights,
                        n=len(samples.x),
                        reference=len(self.reference.x),
                        seed=self.settings.seed,
                        higher_is_better=metric.higher_is_better,
                    )
                )
        return records
