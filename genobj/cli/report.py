"""genobj report: finished runs, or a study, as one HTML page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.cli.sample import plugins_of, refuse_home, writable
from genobj.plugins import load_plugins

if TYPE_CHECKING:
    from genobj.studies.results import Results

NAME = "report.html"


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of one study.")],
    out: Annotated[
        Path | None, typer.Option(help="The page [dim](a study's or a single run's report.html if not given)[/dim].")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    question: Annotated[str, typer.Option(help="What the runs were meant to find out.")] = "",
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Python file that registers more parts.")] = None,
) -> None:
    """Show what runs came to: table, curves, samples from the same noise, settings, in one file without links.

    Runs that differ in nothing but the seed are one variant, with mean and spread.
    """
    if out is not None and out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out {out}: type a file that ends in .html")
    writable(out)

    from dataclasses import replace

    from genobj.cli.scores import Counter
    from genobj.studies.collect import from_runs, located, study_file
    from genobj.studies.report import write

    file = study_file(runs[0]) if len(runs) == 1 else None
    for run in runs if file is None else ():
        refuse_home(run)
    results = from_runs(runs, title, question)
    if file is not None:
        words = {key: text for key, text in (("title", title), ("question", question)) if text}
        results = located(replace(results, study=results.study | words), file.parent)
    for cell in results.cells:
        if cell.folder and Path(cell.folder).is_dir():
            load_plugins(plugins_of(Path(cell.folder)))
    load_plugins(plugin or [])
    home = file.parent if file is not None else runs[0] if len(runs) == 1 else None
    page = out or (home or Path()) / NAME
    with Counter() as counter:
        write(results, page, folder=home, tell=counter.show)
    for line in _lines(results):
        typer.echo(line)
    typer.echo(f"report    {page}")
    if show:
        typer.launch(page.resolve().as_uri())


def _lines(results: "Results") -> Iterator[str]:
    """A short table: a line for every variant, its metrics at the smallest number of evaluations."""
    from genobj.studies import tables

    columns = dict[str, tuple[str, int]]()
    for metric, nfe in sorted(results.measures(), key=lambda measure: measure[1]):
        columns.setdefault(metric, (metric, nfe))
    heads = [tables.heading(results.about(metric), nfe) for metric, nfe in columns.values()]
    rows = [["", *heads]]
    for row in tables.rows(results):
        scores = [(results.about(m[0]), row.scores.get(m)) for m in columns.values()]
        rows.append([row.label, *("" if s is None else tables.plus_minus(r, s.summary) for r, s in scores)])
    yield from _aligned(rows)
    for note in results.study.get("notes", ()):
        yield f"note      {note}"
    for cell in results.cells:
        if cell.state != "done":
            yield f"{cell.state:<9} {tables.label(results, cell.variant)}, seed {cell.seed}: {cell.error}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield "  ".join(
            [first.ljust(wide[0]), *(text.rjust(size) for text, size in zip(others, wide[1:], strict=True))]
        )
