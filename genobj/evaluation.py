"""Samples from a model, and scores of the samples: sampler x nfe x metric."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from genobj import __version__
from genobj.autoencoders import pixels
from genobj.config.base import Config, Pick, named
from genobj.data.base import Batch, Data, Source
from genobj.data.toys import MixtureToy
from genobj.images import Rounding, to_uint8
from genobj.metrics.accuracy import Accuracy
from genobj.metrics.base import Metric
from genobj.metrics.exact import Exact
from genobj.metrics.export import SampleFile
from genobj.metrics.features import Extractor, FeatureMetric, Need, Observer, Seen, Space
from genobj.metrics.inception import Inception
from genobj.metrics.real import Real
from genobj.metrics.records import Record
from genobj.metrics.references import Reference, read
from genobj.metrics.team import ALONE, Team
from genobj.model import ModelSettings
from genobj.parts import EXTRACTORS, METRICS, SAMPLERS
from genobj.samplers.auto import choose
from genobj.samplers.base import Sampler
from genobj.seeds import noise
from genobj.types import Horizon, Network

CPU = torch.device("cpu")
Positive = Annotated[int, Field(gt=0)]
Evaluations = Annotated[int, Field(gt=0, le=10_000)]
AtLeastTwo = Annotated[int, Field(ge=2)]
START, FRESH = 0, 1  # streams of random numbers: z, re-noising
PREFERRED = ("mmd", "sliced_w2", "fd", "accuracy")
"""Metrics taken if none is named, where they fit the data."""
LARGE = 3 * 64 * 64
"""Numbers in an image above which samples are not kept for a metric that nobody named."""


class Evaluation(Config):
    """What is measured when a run ends, by `genobj evaluate` and, if asked for, while a run trains."""

    nfe: Annotated[tuple[Evaluations, ...], Field(min_length=1)] = (1, 2, 4, 32)
    """Network evaluations per sample, a row of results for each."""
    sampler: Annotated[Sampler, Pick(SAMPLERS)] | None = None
    """Sampler for all of them; unset: the usual one for the model's heads at each nfe."""
    metrics: dict[str, Annotated[Metric, Pick(METRICS)]] = Field(default_factory=dict)
    """Metrics, a table or a list of names; empty: those of mmd, sliced_w2, fd and accuracy that fit the data."""
    extractor: Annotated[Extractor, Pick(EXTRACTORS)] | None = None
    """Feature network of fd, kid, prdc and accuracy: a name, or the folder of `genobj extractor train`; unset: the
    digits classifier for 8 x 8 digits, for labels of toys their exact law, else Inception."""
    inception: Annotated[str, Field(min_length=1)] | None = None
    """Weights file of Inception; unset: torch-fidelity's own, downloaded once into TORCH_HOME."""
    rounding: Rounding = "truncate"
    """How images become eight bits before an extractor sees them: truncate (DiT, SiT, EDM), floor (ADM, py-meanflow)
    or round."""
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
    reference_files: tuple[str, ...] = ()
    """Files (.npz) to compare with instead of the data: genobj's own (`genobj stats`), ADM's, JAX MeanFlow's,
    pytorch-fid's, or images; every metric takes the first one that can serve it."""
    assume: str = "inception"
    """Extractor of reference files that do not say theirs."""
    every: Positive | None = None
    """Steps between scores during training, lines of scores.jsonl; unset: none before the end."""
    every_count: AtLeastTwo = 1024
    """Generated samples of these scores; values for another number of samples do not compare."""

    @property
    def idle(self) -> frozenset[str]:
        """The number of samples for scores that nobody asked for."""
        return frozenset() if self.every else frozenset({"every_count"})

    @field_validator("nfe", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """1,2,4 and a single number as well."""
        if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
            return tuple(int(part) for part in value.split(","))
        return (value,) if isinstance(value, int) else value

    @field_validator("extractor", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        """A folder stands for the network in it."""
        name = value.get("kind") if isinstance(value, dict) and len(value) == 1 else value
        is_folder = isinstance(name, str) and name not in EXTRACTORS.names() and Path(name).is_dir()
        return {"kind": "trained", "path": name} if is_folder else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _metric_names(cls, table: Any) -> Any:
        return named(METRICS, table)

    def samplers(self, horizons: Mapping[str, Horizon]) -> dict[int, Sampler]:
        """The sampler of every nfe; ValueError if a model with these heads cannot answer one.

        One that finds out by itself what it takes stands alone, as if it were that of the first nfe.
        """
        if self.sampler is not None and self.sampler.adaptive:
            chosen = {self.nfe[0]: self.sampler}
        else:
            chosen = {n: self.sampler.with_nfe(n) if self.sampler else choose(horizons, n) for n in self.nfe}
        for sampler in chosen.values():
            if problem := sampler.refusal(horizons):
                raise ValueError(problem)
        return chosen

    def extractor_of(self, metric: FeatureMetric, data: "Data | ModelSettings") -> Extractor:
        """What this metric looks at samples of this data with: a law that is known judges labels itself."""
        if isinstance(metric, Accuracy) and isinstance(data, MixtureToy) and not (metric.extractor or self.extractor):
            return Exact(data=data)
        chosen = metric.chosen(shown(data), self.extractor)
        return chosen if chosen != Inception() else Inception(weights=self.inception)

    def chosen_metrics(self, data: "Data | ModelSettings") -> dict[str, Metric]:
        """The metrics that will be computed; ValueError if one that was asked for cannot judge this data."""
        if self.metrics:
            for name, metric in self.metrics.items():
                if problem := self._refusal(metric, data):
                    raise ValueError(f"metric {name!r}: {problem}")
            return dict(self.metrics)
        offered = {name: METRICS.get(name)() for name in PREFERRED if self._usual(name, shown(data))}
        return {name: metric for name, metric in offered.items() if self._refusal(metric, data) is None}

    @staticmethod
    def _usual(name: str, shape: tuple[int, ...]) -> bool:
        """Whether a metric that nobody named is worth its time: the kernels of mmd are as wide as clouds of points."""
        if name == "mmd":
            return len(shape) == 1
        return name != "sliced_w2" or math.prod(shape) <= LARGE

    def _refusal(self, metric: Metric, data: "Data | ModelSettings") -> str | None:
        shape = shown(data)
        if isinstance(metric, FeatureMetric):
            return metric.refusal_of(self.extractor_of(metric, data), shape, data.classes)
        return metric.refusal(shape, data.classes)


def shown(data: "Data | ModelSettings") -> tuple[int, ...]:
    """Shape of a sample as metrics see it: of latents, that of the colour image (the autoencoder is not opened)."""
    made = data.autoencoder
    return data.shape if made is None else (3, *(made.enlarges * size for size in data.shape[1:]))


@dataclass(frozen=True)
class Generator:
    """A model that samples; sample i is a function of (seed, i), whatever the batches."""

    net: Network
    settings: ModelSettings
    device: torch.device
    batch: int = 1024

    def __call__(
        self, sampler: Sampler, count: int | range, seed: int, labels: Tensor | None = None
    ) -> tuple[Batch, int]:
        """Samples on the CPU, as the network gives them, and their nfe.

        count: how many, or their numbers (a range, with a step where others make the rest). labels: one for each of
        them; unless given, sample i has label i modulo the number of classes.
        """
        rows = range(count) if isinstance(count, int) else count
        parts, nfe = [], 0
        if self.settings.classes and labels is None:
            labels = torch.tensor(rows) % self.settings.classes
        for first in range(0, len(rows), self.batch):
            some = rows[first : first + self.batch]
            y = None if labels is None else labels[first : first + self.batch].to(self.device)
            walk = sampler(
                self.net,
                self._noise(some, seed, START),
                y,
                path=self.settings.path,
                null=self.settings.classes or None,
                keep=False,
                noise=lambda i, some=some: self._noise(some, seed, FRESH, i),
            )
            parts.append(walk.samples.cpu())
            nfe = walk.nfe
        return Batch(torch.cat(parts), labels), nfe

    def _noise(self, rows: range, seed: int, *stream: int) -> Tensor:
        return noise(self.settings.shape, rows, seed, *stream).to(self.device)


@dataclass(frozen=True)
class Generated:
    """What was kept of generated samples, on the first process."""

    nfe: int
    count: int
    seen: Mapping[Space, Seen]
    raw: Batch | None
    """The samples themselves, if a metric compares them."""


class Scorer:
    """Scores samples against the same reference again and again.

    data: what they are samples of (settings of the data, or of the model where these are not at hand); source: the
    opened data, None if reference files alone serve all metrics. team: the processes that share the work; all of them
    call the same methods, and the first one gets the records. show: told what is done of what, now and then.
    Raises ValueError for metrics that cannot judge such data, and when scoring if nothing serves as their reference.
    """

    def __init__(
        self,
        settings: Evaluation,
        data: Data | ModelSettings,
        source: Source | None,
        *,
        device: torch.device = CPU,
        team: Team = ALONE,
        config: str = "",
        show: Callable[[str, int, int], None] = lambda what, done, total: None,
    ):
        self.settings, self.data, self.source = settings, data, source
        self.device, self.team, self.config, self.show = device, team, config, show
        self.metrics = settings.chosen_metrics(data)
        self.raw = not all(isinstance(metric, FeatureMetric) for metric in self.metrics.values())
        self.real = Real(
            data,
            source,
            lambda: self.references,
            {"reference": settings.reference, "other": settings.count},
            settings.seed,
            settings.rounding,
            device,
            team,
            self.raw,
        )
        self._opened: dict[Extractor, Space] = {}
        self._floor: dict[str, dict[str, float]] = {}
        self._looked = False

    @cached_property
    def references(self) -> Sequence[Reference]:
        """The reference files, without their images. ValueError if one cannot be read."""
        return [read(Path(file), self.settings.assume) for file in self.settings.reference_files]

    def check(self) -> None:
        """ValueError now rather than after hours if an extractor, a reference or enough samples are not at hand."""
        for name, metric in self.metrics.items():
            if not isinstance(metric, FeatureMetric):
                self.real.check(name)
                continue
            space, real = self._space(metric), None
            if metric.compares:
                file = self.real.file(metric, space)
                real = self.settings.reference if file is None else self._rows(file)
            if problem := metric.too_few(self.settings.count, real):
                raise ValueError(f"metric {name!r}: {problem}")

    @staticmethod
    def _rows(file: Reference) -> int | None:
        """Real images whose features a file gives: those it kept, else all it holds."""
        return file.n if file.seen.features is None else len(file.seen.features)

    def __call__(self, generator: Generator, weights: str) -> list[Record]:
        """A record for every nfe of the settings and every number of every metric."""
        return self.score(self.settings.samplers(generator.net.horizons).values(), generator, weights)

    def score(
        self, samplers: Iterable[Sampler], generator: Generator, weights: str, export: Mapping[int, Path] | None = None
    ) -> list[Record]:
        """Records of every sampler; `weights` names the weights in them.

        export: files for the images by the sampler's place in the list. An empty list but on the first process.
        """
        records = []
        self._look()
        for place, sampler in enumerate(samplers):
            made = self._generated(sampler, generator, (export or {}).get(place))
            if made is not None:
                about = {
                    "nfe": made.nfe,
                    "sampler": SAMPLERS.name_of(type(sampler)),
                    "head": sampler.follows(generator.net.horizons),
                    "settings": sampler.model_dump(mode="json", exclude_defaults=True),
                    "weights": weights,
                    "n": made.count,
                }
                records += [record for name in self.metrics for record in self._records(name, made, about)]
        return records

    def _generated(self, sampler: Sampler, generator: Generator, file: Path | None) -> Generated | None:
        """Samples made and looked at by all processes; None but on the first."""
        count, size = self.settings.count, generator.batch
        observers = {space: Observer(space, needs, self.settings.rounding) for space, needs in self._needs().items()}
        raw, nfe, label = list[Batch](), 0, f"{SAMPLERS.name_of(type(sampler))}, {sampler.steps} steps"
        with SampleFile(file, count, self.team) if file else nullcontext() as out:
            for rows in self.team.chunks(count, size):
                batch = Batch(torch.zeros(0), torch.zeros(0).long() if generator.settings.classes else None)
                if len(rows):
                    batch, nfe = generator(sampler, rows, self.settings.seed)
                    batch = Batch(pixels(generator.settings, batch.x, self.device), batch.y)
                    for observer in observers.values():
                        observer.add(batch)
                    raw += [batch] if self.raw else []
                if out is not None:
                    out.add(to_uint8(batch.x, self.settings.rounding), batch.y)
                self.show(label, min(rows.start + size * self.team.world, count), count)
        seen = {space: observer.seen(self.team, size) for space, observer in observers.items()}
        kept = self._kept(raw, size)
        if not self.team.first:
            return None
        return Generated(nfe, count, {space: one for space, one in seen.items() if one is not None}, kept)

    def _kept(self, raw: list[Batch], size: int) -> Batch | None:
        if not self.raw:
            return None
        x = self.team.whole(torch.cat([batch.x for batch in raw]) if raw else torch.zeros(0), size)
        return None if x is None else Batch(x, None)

    def _needs(self) -> dict[Space, set[Need]]:
        """What every space has to keep of generated samples."""
        needs: dict[Space, set[Need]] = {}
        for metric in self.metrics.values():
            if isinstance(metric, FeatureMetric):
                needs.setdefault(self._space(metric), set()).update(metric.needs)
        return needs

    def _space(self, metric: FeatureMetric) -> Space:
        extractor = self.settings.extractor_of(metric, self.data)
        if extractor not in self._opened:
            self._opened[extractor] = extractor.open(self.device)
        return self._opened[extractor]

    def _records(self, name: str, made: Generated, about: dict[str, Any]) -> list[Record]:
        """The records of one metric."""
        metric = self.metrics[name]
        if isinstance(metric, FeatureMetric):
            space, compares = self._space(metric), metric.compares
            file = self.real.file(metric, space) if compares else None
            values = metric.values(made.seen[space], self.real.seen(metric, space), self.settings.seed)
        else:
            assert made.raw is not None
            values = {"": metric(made.raw, self.real.samples("reference"), self.settings.seed)}
            space, compares = None, True
            file = None if self.source else next(f for f in self.references if f.images is not None)
        against = file.n if file else self.real.n("reference") if compares else None
        floors = self._floors(name)
        return [
            Record(
                metric=f"{name}.{part}" if part else name,
                kind=METRICS.name_of(type(metric)),
                value=value,
                floor=floors.get(part),
                floor_n=self.real.n("other") if floors else 0,
                reference=against,
                seed=self.settings.seed,
                higher_is_better=metric.higher_is_better,
                title=metric.parts[part] if part else metric.title,
                factor=metric.factor,
                protocol=self._protocol(metric, space, made.count, file, compares),
                config=self.config,
                genobj=__version__,
                **about,
            )
            for part, value in values.items()
        ]

    def _floors(self, name: str) -> dict[str, float]:
        """A metric between held-out data and the reference; nothing where references are files, and nothing where what
        is held out was trained on."""
        if not self.real.floored:
            return {}
        if name not in self._floor:
            self._floor[name] = self._floor_of(self.metrics[name])
        return self._floor[name]

    def _floor_of(self, metric: Metric) -> dict[str, float]:
        if isinstance(metric, FeatureMetric):
            space = self._space(metric)
            others = self.real.others(metric, space)
            return {} if others is None else metric.values(others, self.real.seen(metric, space), self.settings.seed)
        others = self.real.samples("other")
        return {} if len(others.x) < 2 else {"": metric(others, self.real.samples("reference"), self.settings.seed)}

    def _look(self) -> None:
        """Look at the real samples once, with all processes."""
        if not self._looked:
            looks = list[tuple[FeatureMetric, Space]]()
            for name, metric in self.metrics.items():
                if isinstance(metric, FeatureMetric):
                    looks.append((metric, self._space(metric)))
                else:
                    self.real.check(name)
            self.real.look(looks)
            self._looked = True

    def _protocol(
        self, metric: Metric, space: Space | None, count: int, file: Reference | None, compares: bool
    ) -> dict[str, Any]:
        """What has to be equal for two values to be compared."""
        reference: dict[str, Any] | None = None
        if file is not None:
            reference = file.identity()
        elif compares:
            reference = {"data": self._data, "n": self.real.n("reference"), "seed": self.settings.seed}
        settings = metric.model_dump(mode="json", exclude={"extractor"})
        return {
            "metric": {"kind": METRICS.name_of(type(metric)), **settings},
            "extractor": None if space is None else space.identity(),
            "rounding": self.settings.rounding if space is not None and space.rounded else None,
            "shape": list(shown(self.data)),
            "samples": count,
            "reference": reference,
        }

    @cached_property
    def _data(self) -> dict[str, Any]:
        return self.real.identity()
