"""genobj compare: run a study of one's own, and show what came out."""

from typing import Annotated

import typer

from genobj.cli.studying import Asked, Devices, DryRun, Jobs, Open, Out, Overrides, Retry, Runs, start


def command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's TOML file, or the name of a shipped one.")],
    overrides: Overrides = None,
    scale: Annotated[str | None, typer.Option(help="Size, where the file has several.")] = None,
    out: Out = None,
    runs: Runs = None,
    jobs: Jobs = None,
    devices: Devices = None,
    dry_run: DryRun = False,
    retry: Retry = False,
    browse: Open = False,
) -> None:
    """Train the variants of a study on equal terms, and write table.md, results.json and report.html.

    Runs that are done are not repeated; the same command goes on after any stop. How to write one: docs/studies.md.
    """
    start("compare", study, scale, overrides, Asked(out, runs, jobs, devices, dry_run, retry, browse))
