"""Samplers from the command line: a name, numbers of evaluations, settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from genobj.config.load import Layers, parse_override, read_toml
from genobj.evaluation import Evaluation
from genobj.samplers.base import Sampler
from genobj.types import Horizon


def build(
    evaluation: Evaluation, horizons: Mapping[str, Horizon], name: str | None, overrides: Sequence[str]
) -> list[Sampler]:
    """The evaluation's samplers (one per nfe) with a name and settings of the command line in place of its own.

    Without a name the settings change the samplers that the run would take. ValueError says what is wrong.
    """
    layers = Layers()
    for text in overrides:
        layers.put(["sampler", *parse_override(text)[0]], parse_override(text)[1], text)
    settings = layers.tree.get("sampler", {})
    if name is not None:
        changed = {"sampler": {"kind": name, **settings}}
        return list(Evaluation.model_validate(dict(evaluation) | changed).samplers(horizons).values())
    usual = evaluation.samplers(horizons).values()
    return [type(s).model_validate(s.model_dump(mode="json") | settings) for s in usual] if settings else list(usual)


def of_run(run: Path, nfe: Sequence[int]) -> Evaluation:
    """How a run is evaluated by its own settings, at these numbers of evaluations."""
    from genobj.experiment import Experiment

    file = run / "config.toml"
    own = Experiment.model_validate(read_toml(file)).evaluation if file.is_file() else Evaluation()
    return Evaluation.model_validate(dict(own) | {"nfe": tuple(nfe)})
