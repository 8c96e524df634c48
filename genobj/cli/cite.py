"""genobj cite: BibTeX of what an experiment uses."""

import typer

from genobj.cli.resolve import Backbone, DataName, Heads, Objectives, Overrides, Plugins, Recipe, Seed, resolve


def command(
    overrides: Overrides = None,
    recipe: Recipe = None,
    heads: Heads = None,
    objectives: Objectives = None,
    backbone: Backbone = None,
    data: DataName = None,
    seed: Seed = None,
    plugin: Plugins = None,
) -> None:
    """Print BibTeX entries for every part that an experiment uses, and for genobj."""
    from genobj.citations import entries

    experiment, _ = resolve(recipe, heads, objectives, backbone, data, seed, overrides, plugin)
    typer.echo("\n\n".join(entries(experiment)))
