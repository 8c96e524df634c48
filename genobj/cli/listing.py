"""genobj list: what there is, without importing any of it."""

import json
import re
from itertools import takewhile
from typing import Annotated

import typer

from genobj.cli.resolve import Plugins, load_plugins
from genobj.config.load import find_recipe, recipe_names
from genobj.parts import FAMILIES
from genobj.registry import Entry, UnknownName, did_you_mean


def command(
    family: Annotated[str | None, typer.Argument(help="objectives, backbones, samplers, recipes, ...")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the parts of a family (or of all), built in and from plugins, with the shipped recipes."""
    load_plugins(plugin or [])
    chosen = list(tables()) if family is None else [_family(family)]
    found = {name: tables()[name]() for name in chosen}
    if as_json:
        return typer.echo(
            json.dumps({name: [e._asdict() for e in entries] for name, entries in found.items()}, indent=1)
        )
    for name, entries in found.items():
        typer.secho(name, bold=True)
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            typer.echo(f"  {entry.name:<{width}}  {_line(entry)}")


def tables():
    """Functions that list each family, by its name."""
    families = {name: lambda one=one: [*one.entries(), *one.presets()] for name, one in FAMILIES.items()}
    return {**families, "recipes": _recipes}


def _family(name: str) -> str:
    singular = {registry.family: plural for plural, registry in FAMILIES.items()} | {"recipe": "recipes"}
    name = singular.get(name, name)
    if name not in tables():
        raise UnknownName(f"unknown family {name!r}.{did_you_mean(name, tables())} Families: {', '.join(tables())}.")
    return name


def _recipes() -> list[Entry]:
    return [Entry(name, _comment(name), "genobj", "") for name in recipe_names()]


def _comment(name: str) -> str:
    """The first sentence of the comment on top."""
    lines = find_recipe(name).read_text(encoding="utf-8").splitlines()
    text = " ".join(line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.:])(?<!Tab\.)(?<!Sec\.)(?<!Fig\.)(?<!Eq\.) ", text)[0].rstrip(":.")


def _line(entry: Entry) -> str:
    if entry.problem:
        return typer.style(f"broken: {entry.problem}", fg="red")
    return entry.summary + ("" if entry.source == "genobj" else f"  [{entry.source}]")
