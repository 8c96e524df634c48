"""genobj check: does a part keep its contract?"""

import traceback
from pathlib import Path
from typing import Annotated

import typer

from genobj.cli.resolve import Plugins, load_plugins
from genobj.parts import FAMILIES
from genobj.registry import UnknownName, did_you_mean, reason


def command(
    name: Annotated[str, typer.Argument(help="A part, as in fm; or family:name, as in grids:uniform.")],
    plugin: Plugins = None,
) -> None:
    """Run the contract of one part: what every test of genobj asks of it, and of plugins."""
    load_plugins(plugin or [])
    found = _find(name)
    from genobj.testing import check

    failed = False
    for family, part in found:
        try:
            for promise in check(family, part):
                typer.echo(f"{typer.style('ok', fg='green')}    {family}:{part}  {promise}")
        except Exception as error:
            failed = True
            story = str(error) if isinstance(error, AssertionError) else f"{reason(error)} ({_where(error)})"
            typer.echo(f"{typer.style('FAIL', fg='red')}  {family}:{part}  {story}")
    raise typer.Exit(int(failed))


def _where(error: Exception) -> str:
    """The line of the part itself, as far as it is in the story: 'my_loss.py, line 20'."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if "site-packages" not in frame.filename and "<" not in frame.filename]
    return f"{Path((theirs or frames)[-1].filename).name}, line {(theirs or frames)[-1].lineno}"


def _find(name: str) -> list[tuple[str, str]]:
    family, colon, part = name.rpartition(":")
    if colon and family not in FAMILIES:
        raise UnknownName(
            f"unknown family {family!r}.{did_you_mean(family, FAMILIES)} Families: {', '.join(FAMILIES)}."
        )
    families = {family: FAMILIES[family]} if colon else FAMILIES
    found = [(plural, part) for plural, registry in families.items() if part in registry.names()]
    if not found:
        every = [known for registry in families.values() for known in registry.names()]
        raise UnknownName(f"no part is called {part!r}.{did_you_mean(part, every)} 'genobj list' shows all parts.")
    return found
