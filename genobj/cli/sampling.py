"""Samplers from the command line: a name, numbers of evaluations, settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genobj import hub
from genobj.config.load import Layers, parse_override, read_toml
from genobj.evaluation import Evaluation
from genobj.experiment import Experiment
from genobj.samplers.base import Sampler
from genobj.types import Horizon


def build(
    evaluation: Evaluation, horizons: Mapping[str, Horizon], name: str | None, overrides: Sequence[str]
) -> list[Sampler]:
    """The evaluation's samplers (one per nfe) with a name and settings of the command line in place of its own.

    Without a name the settings change the samplers that the run would take. ValueError says what is wrong.
    """
    settings = _settings(overrides)
    if name is not None:
        changed = {"sampler": {"kind": name, **settings}}
        return list(Evaluation.model_validate(dict(evaluation) | changed).samplers(horizons).values())
    usual = evaluation.samplers(horizons).values()
    return [type(s).model_validate(s.model_dump(mode="json") | settings) for s in usual] if settings else list(usual)


def own_nfe(name: str, overrides: Sequence[str]) -> int:
    """Evaluations that a sampler of this name takes by its own settings: euler 50, edm 35, ect-2 2."""
    chosen = Evaluation.model_validate({"sampler": {"kind": name, **_settings(overrides)}}).sampler
    assert chosen is not None
    return chosen.cost(chosen.steps)


def _settings(overrides: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE of the command line as a sampler's settings."""
    layers = Layers()
    for text in overrides:
        path, value = parse_override(text)
        layers.put(["sampler", *path], value, text)
    return layers.tree.get("sampler", {})


def experiment_of(run: Path) -> Experiment | None:
    """The settings of a run or of an exported folder; None for one that holds a model only."""
    file = hub.recipe(run)
    return Experiment.model_validate(read_toml(file)) if file else None
