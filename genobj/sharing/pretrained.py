"""A trained model that samples: `genobj.from_pretrained("user/name").sample(16)`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from genobj import hub
from genobj.autoencoders import pixels
from genobj.evaluation import Evaluation, Generator
from genobj.model import Model, ModelSettings
from genobj.plugins import load_plugins
from genobj.samplers.base import Sampler
from genobj.training.distributed import device_of

if TYPE_CHECKING:
    from genobj.sharing.diffusers_pipeline import GenobjPipeline


class Drawn(NamedTuple):
    """A batch of samples on the CPU, their labels if they have any, and the evaluations that each of them took."""

    x: Tensor
    y: Tensor | None
    nfe: int


@dataclass(frozen=True)
class Pretrained:
    """A network in evaluation mode with all that sampling needs; sample i is a function of (seed, i) alone."""

    model: Model
    settings: ModelSettings
    weights: str
    """Which weights these are, as in ema_0.999."""
    evaluation: Evaluation
    """How the model samples by its own settings."""
    device: torch.device

    def sample(
        self,
        count: int,
        nfe: int = 1,
        seed: int = 0,
        labels: int | Sequence[int] | Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """`count` samples on the CPU, (count, *shape): images in [-1, 1], also of a model of latents, or points.

        nfe: network evaluations per sample; labels: one for all or one each, all of them in turn if not given;
        guidance: scale of classifier-free guidance, which doubles the evaluations; the model's own if not given.
        ValueError says what this model cannot do.
        """
        if count < 1:
            raise ValueError(f"count={count}: type a number of samples above 0")
        given = self.labels(count, labels)
        return torch.cat([batch.x for batch in self.batches(self.sampler(nfe, guidance), range(count), seed, given)])

    def pipeline(self) -> "GenobjPipeline":
        """This model as a pipeline of diffusers (extra `diffusers`), for images. ValueError says what is missing."""
        try:
            from genobj.sharing.diffusers_pipeline import pipeline
        except (ImportError, RuntimeError, OSError):
            raise ValueError("a pipeline needs diffusers; type pip install 'genobj[diffusers]'") from None
        return pipeline(self)

    def sampler(self, nfe: int = 1, guidance: float | None = None) -> Sampler:
        """The model's usual sampler of `nfe` unguided evaluations. ValueError if its heads cannot answer one."""
        chosen = Evaluation.model_validate(dict(self.evaluation) | {"nfe": (nfe,)})
        sampler = chosen.samplers(self.settings.horizons)[nfe]
        return sampler if guidance is None else type(sampler).model_validate(dict(sampler) | {"guidance": guidance})

    def labels(self, count: int, labels: int | Sequence[int] | Tensor | None) -> Tensor | None:
        """(count,) labels as numbers, or None where none were given. ValueError for labels that the model lacks."""
        if labels is None:
            return None
        given = torch.as_tensor(labels, dtype=torch.long)
        given = given.expand(count) if given.ndim == 0 else given
        if not self.settings.classes:
            raise ValueError("this model has no labels: leave them out")
        if given.shape != (count,):
            raise ValueError(f"{given.numel()} labels do not fit {count} samples: give one for all, or one each")
        if not 0 <= int(given.min()) <= int(given.max()) < self.settings.classes:
            raise ValueError(f"this model has labels 0 to {self.settings.classes - 1}, not {given.tolist()[:8]}")
        return given

    def batches(
        self, sampler: Sampler, rows: range, seed: int = 0, labels: Tensor | None = None, *, decoded: bool = True
    ) -> Iterator[Drawn]:
        """These rows of the endless table of samples that `seed` gives, on the CPU, a batch at a time.

        labels: one a row; without them row i has label i modulo the number of classes. decoded: False leaves the
        latents of a model of latents as they are.
        """
        generate = Generator(self.model, self.settings, self.device, self.evaluation.batch)
        for first in range(0, len(rows), generate.batch):
            some = slice(first, first + generate.batch)
            batch, nfe = generate(sampler, rows[some], seed, None if labels is None else labels[some])
            yield Drawn(pixels(self.settings, batch.x, self.device) if decoded else batch.x, batch.y, nfe)

    def labels_of(self, rows: range) -> Tensor | None:
        """Labels that samples have if nobody gives others: row i has i modulo the number of classes."""
        classes = self.settings.classes
        return torch.tensor([row % classes for row in rows]) if classes else None


def from_pretrained(
    name: str | Path,
    revision: str | None = None,
    device: str = "auto",
    weights: str = "ema",
    *,
    trust_plugins: bool = False,
) -> Pretrained:
    """The model of a run's folder, an exported folder, or a repository user/model of the Hub; a local folder wins.

    revision: branch, tag or commit of a repository; device: auto, cpu, cuda or cuda:N; weights: ema, live, or what the
    folder calls its own; trust_plugins: run the Python files that came with the model. Raises ValueError with what is
    missing, damaged or does not fit, in a sentence, also without a network.
    """
    folder = hub.find(name, revision)
    if trust_plugins:
        load_plugins([str(file) for file in hub.plugins(folder)])
    return opened(folder, weights, device_of(device))


def opened(folder: Path, weights: str, device: torch.device) -> Pretrained:
    """The model of a folder. ValueError as `hub.load` raises."""
    loaded = hub.load(folder, weights, device)
    return Pretrained(loaded.model, loaded.settings, loaded.weights, hub.evaluation(folder), device)
