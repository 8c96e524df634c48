"""genobj reproduce: the comparisons of the papers at the size of the machine at hand."""

from typing import Annotated

import typer

from genobj.cli.studying import Asked, Devices, DryRun, Jobs, Open, Out, Overrides, Retry, Runs, start


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="fig3, trihead, ...; unset: list them.")] = None,
    overrides: Overrides = None,
    scale: Annotated[str | None, typer.Option(help="toy and digits for CPUs, cifar for a GPU, paper: costs.")] = None,
    out: Out = None,
    runs: Runs = None,
    jobs: Jobs = None,
    devices: Devices = None,
    dry_run: DryRun = False,
    retry: Retry = False,
    browse: Open = False,
) -> None:
    """Repeat a comparison of the papers: their claim beside what is measured here, agrees, disagrees or inconclusive.

    For example: [bold]genobj reproduce fig3 --scale toy[/bold]
    """
    if name is None:
        return _listed()
    from genobj.registry import did_you_mean
    from genobj.studies.study import UnknownStudy, shipped

    if name not in shipped():
        hint = f"{did_you_mean(name, shipped())} Shipped studies: {', '.join(shipped())}."
        raise UnknownStudy(f"unknown study {name!r}.{hint} A file of your own: genobj compare FILE")
    start("reproduce", [name], scale, overrides or [], Asked(out, runs, jobs, devices, [], dry_run, retry, browse))


def _listed() -> None:
    """Names, scales and titles."""
    from genobj.config.load import read_toml
    from genobj.studies.study import find, scales, shipped

    width = max(len(name) for name in shipped())
    for name in shipped():
        path = find(name)
        typer.echo(f"{name:<{width}}  {read_toml(path).get('title', '')}")
        typer.echo(f"{'':<{width}}  scales: {', '.join(scales(path))}")
