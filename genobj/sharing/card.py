"""The page of a model on the Hub: README.md with what it is, how to load it, what it scored and how it was made."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genobj.citations import entries
from genobj.config.load import write_toml
from genobj.experiment import Experiment
from genobj.model import ModelSettings
from genobj.parts import BACKBONES, METRICS, OBJECTIVES
from genobj.registry import UnknownName

SAME = ("sampler", "weights", "n", "reference", "seed")
"""What, besides nfe and metric, tells how a number was made."""
PUBLISHED = {
    "cifar10": "uoft-cs/cifar10",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
}
"""Our data sets that the Hub knows, by its ids: the page links to them."""


@dataclass(frozen=True)
class Card:
    """Everything that stands on the page."""

    name: str
    settings: ModelSettings
    weights: str
    dtype: str
    parameters: int
    experiment: Experiment | None
    """The recipe; None for a model whose training is not known."""
    records: Sequence[Mapping[str, Any]]
    """Results of these weights, as results.json has them."""
    license: str | None = None
    picture: str | None = "samples.png"

    def text(self) -> str:
        """The whole README.md."""
        parts = [self.front(), f"# {self.name}\n", self.about()]
        parts += [f"![samples]({self.picture})\n"] if self.picture else []
        parts += [self.use()]
        parts += [f"## Results\n\n{results(self.records)}\n"] if self.records else []
        if self.experiment is not None:
            recipe = write_toml(self.experiment.tree() | {"plugins": plugins(self.experiment)})
            parts += [f"## Recipe\n\n`recipe.toml`, for `genobj train -r recipe.toml`:\n\n```toml\n{recipe}```\n"]
            cited = "\n\n".join(entries(self.experiment))
            parts += [f"## Citations\n\n```bibtex\n{cited}\n```\n"]
        return "\n".join(parts)

    def front(self) -> str:
        """The front matter, in YAML; JSON's strings are YAML's, whatever is in them."""
        images = len(self.settings.shape) == 3
        tags = ["genobj", *(self._objectives() if self.experiment else ())]
        lines = ["---", "library_name: genobj"]
        lines += [f"license: {json.dumps(self.license)}"] if self.license else []
        lines += ["pipeline_tag: unconditional-image-generation"] if images else []
        lines += [f"tags: {json.dumps(tags)}"]
        kind = self.experiment.tree()["data"]["kind"] if self.experiment is not None else None
        lines += [f"datasets: {json.dumps([PUBLISHED[kind]])}"] if kind in PUBLISHED else []
        return "\n".join([*lines, "---\n"])

    def about(self) -> str:
        """What the model is, in a paragraph."""
        s, kind = self.settings, BACKBONES.name_of(type(self.settings.backbone))
        heads = ", ".join(f"`{head}` ({horizon})" for head, horizon in s.horizons.items())
        what = "x".join(map(str, s.shape)) + (f" samples of {s.classes} classes" if s.classes else " samples")
        stored = f"weights `{self.weights}`" + (f", stored in {self.dtype}" if self.dtype != "float32" else "")
        lines = [f"A `{kind}` with {self.parameters:,} parameters for {what}; heads {heads}; {stored}."]
        if self.experiment is not None:
            e, data = self.experiment, self.experiment.tree()["data"]["kind"]
            seen = f"{e.train.steps:,} steps of {e.train.batch} samples"
            lines += [f"Trained on `{data}` with {', '.join(self._objectives())} for {seen}."]
        if s.autoencoder is not None:
            lines += [f"Samples are latents of `{s.autoencoder.source}`, which decodes them."]
        return " ".join(lines) + "\n"

    def use(self) -> str:
        """How to load it."""
        return (
            "## Use\n\n```python\nimport genobj\n\n"
            f'model = genobj.from_pretrained("{self.name}")\n'
            f"x = model.sample(16, nfe=1, seed=0)  # (16, {', '.join(map(str, self.settings.shape))})\n```\n\n"
            f"```sh\ngenobj sample {self.name} --nfe 1 --count 64\n```\n"
        )

    def _objectives(self) -> list[str]:
        assert self.experiment is not None
        return [OBJECTIVES.name_of(type(objective)) for objective in self.experiment.objectives.values()]


def plugins(experiment: Experiment) -> list[str]:
    """Plugin files as they lie beside the card."""
    return [f"plugins/{Path(file).name}" for file in experiment.plugins]


def results(records: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table of measured numbers, each with how it was measured."""
    head = ["NFE", "metric", "value", "real data", *SAME]
    rows = [[_cell(r.get("nfe")), _title(r), _value(r, "value"), _value(r, "floor")] for r in records]
    same = [[_cell(record.get(key)) for key in SAME] for record in records]
    lines = [head, ["---"] * len(head), *(row + more for row, more in zip(rows, same, strict=True))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(record: Mapping[str, Any]) -> str:
    try:
        return METRICS.get(str(record.get("kind"))).title
    except UnknownName:
        return _cell(record.get("metric"))


def _value(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, int | float):
        return ""
    try:
        return f"{value * METRICS.get(str(record.get('kind'))).factor:.4g}"
    except UnknownName:
        return f"{value:.4g}"


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")
