"""genobj schema: the JSON schema of a recipe, for editors."""

import json

import typer


def command() -> None:
    """Print the JSON schema of a recipe (editors complete and check recipes with it)."""
    from genobj.experiment import Experiment

    typer.echo(json.dumps(Experiment.model_json_schema(), indent=1))
