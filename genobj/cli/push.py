"""genobj push: upload a model to the Hub."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from genobj.cli.export import DtypeName, License, told
from genobj.cli.sample import Plugins, WeightsName, plugins_of
from genobj.plugins import load_plugins


def command(
    run: Annotated[Path, typer.Argument(help="A run's folder, or an exported one.")],
    name: Annotated[str, typer.Argument(help="Repository of the Hub, as in user/model.")],
    private: Annotated[bool, typer.Option("--private", help="Let nobody else see it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be uploaded, and upload nothing.")] = False,
    weights: WeightsName = "ema",
    dtype: DtypeName = "float32",
    license: License = None,
    plugin: Plugins = None,
) -> None:
    """Upload a run's model, or an exported folder as it is, to the Hub."""
    if not re.fullmatch(r"[\w\-][\w.\-]*/[\w\-][\w.\-]*", name):
        raise ValueError(f"{name!r} names no repository; type user/model")
    load_plugins([*plugins_of(run), *(plugin or [])])

    from genobj.sharing import folder as shared

    with tempfile.TemporaryDirectory() as place:
        folder = run
        if not shared.is_exported(run):
            folder = Path(place) / "model"
            shared.export(run, folder, weights, dtype, name, license)
        elif dtype != "float32" or license:
            raise ValueError(f"{run} was exported already and goes as it is; type --dtype and --license at its export")
        files = told(shared.contents(folder))
        if dry_run:
            return typer.echo(f"would upload to {name}{' (private)' if private else ''}: {files}")
        address = shared.push(folder, name, private=private)
    typer.echo(f"{address}: {files}")
