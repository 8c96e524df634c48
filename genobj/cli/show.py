"""genobj show: every setting of an experiment with its source."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.cli.resolve import Backbone, DataName, Heads, Objectives, Overrides, Plugins, Recipe, Seed, Teacher, resolve
from genobj.config.load import Layers, leaves

if TYPE_CHECKING:
    from genobj.experiment import Experiment


def command(
    overrides: Overrides = None,
    recipe: Recipe = None,
    heads: Heads = None,
    objectives: Objectives = None,
    backbone: Backbone = None,
    data: DataName = None,
    seed: Seed = None,
    plugin: Plugins = None,
    teacher: Teacher = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print the settings as a recipe.")] = False,
) -> None:
    """Print every setting and where it came from: default, recipe, flag or override."""
    experiment, layers = resolve(recipe, heads, objectives, backbone, data, seed, overrides, plugin, teacher)
    if as_json:
        typer.echo(json.dumps(experiment.tree(), indent=1))
    elif as_toml:
        from genobj.config.load import write_toml

        typer.echo(write_toml(experiment.tree()), nl=False)
    else:
        leaves_table(experiment, layers)


_MEANING = {
    "instant": "r = t, the velocity",
    "data": "r = 0, the jump to data",
    "interval": "any r <= t",
    "ends": "r = t or r = 0",
    "fake": "r = t, the velocity of the model's own samples",
}


def leaves_table(experiment: "Experiment", layers: Layers) -> None:
    """One line per leaf: key, value, source; then the horizon of every head, and the published numbers."""
    tree = experiment.model_dump(mode="json", exclude={"expected"})
    rows = [(path, "unset" if value is None else json.dumps(value)) for path, value in leaves(tree)]
    keys, values = (max(len(row[i]) for row in rows) for i in (0, 1))
    for path, value in rows:
        idle = ", changes nothing here" if _is_idle(experiment, path) else ""
        typer.echo(f"{path:<{keys}}  {value:<{min(values, 30)}}  # {_source(layers, path)}{idle}")
    typer.echo("")
    for head, horizon in experiment.horizons.items():
        typer.echo(f"head {head}: horizon {horizon} ({_MEANING[horizon]})")
    for head in experiment.heads.keys() - experiment.horizons.keys():
        typer.echo(f"head {head}: one number a sample")
    for name, share in experiment.composer().shares.items():
        rows = {"equal": "the rows with r = t", "rest": "the rows with r < t"}.get(share.rows)
        end = {"instant": "at r = t", "data": "at r = 0"}.get(share.end or "")
        if rows or end:
            where = f"{rows or 'all rows'}{f', {end} in a forward of its own' if end else ''}"
            typer.echo(f"objective {name}: scores {where}")
    for number in experiment.expected:
        typer.echo(f"expected: {number.sentence()}")


def _is_idle(experiment: "Experiment", path: str) -> bool:
    table, _, leaf = path.partition(".")
    return table in experiment.idle or leaf.partition(".")[0] in getattr(getattr(experiment, table), "idle", ())


def _source(layers: Layers, path: str) -> str:
    """The layer that set a leaf, or the nearest table above it that was named as a whole (backbone=dit-b/2)."""
    if path in layers.sources:
        return layers.sources[path]
    parent = path.rpartition(".")[0]
    above = layers.sources.get(parent) or layers.sources.get(f"{parent}.kind")
    is_kind = path.rpartition(".")[2] in ("kind", "method") and parent in layers.sources
    preset = above and "-" in str(layers.tree.get(parent.partition(".")[0]))
    return str(above) if is_kind or (preset and above) else "default"
