"""genobj compare: run a study of one's own, or recipes against each other, and show what came out."""

from typing import Annotated

import typer

from genobj.cli.resolve import Plugins
from genobj.cli.studying import Asked, Devices, DryRun, Jobs, Open, Out, Retry, Runs, start


def command(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY|RECIPE... [KEY=VALUE]...",
            help="A study's TOML file or folder, or recipes to compare as they are; then settings of the study, as in "
            "budget.amount=500 or seeds=[0].",
        ),
    ],
    scale: Annotated[str | None, typer.Option(help="Size, where the file has several.")] = None,
    out: Out = None,
    runs: Runs = None,
    jobs: Jobs = None,
    devices: Devices = None,
    plugin: Plugins = None,
    dry_run: DryRun = False,
    retry: Retry = False,
    browse: Open = False,
) -> None:
    """Train the variants of a study on equal terms, and write table.md, results.json and report.html.

    Runs that are done are not repeated; the same command goes on after any stop. How to write one: docs/studies.md.
    Without a file, recipes for equally many steps: [bold]genobj compare dumo-moons meanflow-moons fm-moons[/bold]
    """
    names = [word for word in what if "=" not in word]
    overrides = [word for word in what if "=" in word]
    asked = Asked(out, runs, jobs, devices, plugin or [], dry_run, retry, browse)
    start("compare", names, scale, overrides, asked)
