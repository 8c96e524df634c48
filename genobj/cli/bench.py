"""genobj bench: how fast a recipe trains on this machine, and where a step's time goes."""

import json
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.cli.resolve import Backbone, DataName, Heads, Objectives, Overrides, Plugins, Recipe, Seed, resolve

if TYPE_CHECKING:
    from genobj.bench import Report, Spread


def command(
    overrides: Overrides = None,
    recipe: Recipe = None,
    heads: Heads = None,
    objectives: Objectives = None,
    backbone: Backbone = None,
    data: DataName = None,
    seed: Seed = None,
    plugin: Plugins = None,
    other: Annotated[
        str | None,
        typer.Option("--vs", metavar="RECIPE", help="Time this recipe in turn; all settings are for both."),
    ] = None,
    other_settings: Annotated[
        list[str] | None,
        typer.Option("--vs-set", metavar="KEY=VALUE", help="A setting of the second alone; may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each of some steps.")] = 9,
    steps: Annotated[int, typer.Option(min=0, help="Steps of a round; 0: about a second of them.")] = 0,
    limit: Annotated[float, typer.Option(min=0, help="Minutes that it may take by the least estimate.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time the training steps of a recipe on this machine; writes nothing.

    Steps a second, passes, share of the device's matrix-product rate, memory, and where a step's time goes. With --vs,
    two recipes on equal terms: [bold]genobj bench -r dumo-digits --vs meanflow-digits[/bold]
    """
    experiment, _ = resolve(recipe, heads, objectives, backbone, data, seed, overrides, plugin)
    experiments = {experiment.name: experiment}
    if other is not None or other_settings:
        settings = [*(overrides or []), *(other_settings or [])]
        second, _ = resolve(other or recipe, None, None, backbone, data, seed, settings, plugin)
        experiments[second.name if second.name != experiment.name else f"{second.name} (2)"] = second

    from rich.console import Console

    from genobj.bench import measure, ratio
    from genobj.training.distributed import leave
    from genobj.training.ranks import Ranks

    console = Console(stderr=True, highlight=False)
    with console.status("bench") as status:
        reports = measure(experiments, rounds=rounds, steps=steps, limit=60 * limit, show=status.update)
    leave()
    compared = ratio(reports[1], reports[0]) if len(reports) == 2 else None
    if not Ranks.launched().first:
        return None
    if as_json:
        told = {"runs": [report.as_dict() for report in reports]}
        return typer.echo(json.dumps(told | ({"ratio": compared.as_dict()} if compared else {}), indent=1))
    _table(reports, compared)


def _table(reports: "list[Report]", compared: "Spread | None") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    first = reports[0].machine
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for report in reports:
        table.add_column(report.name, justify="right")
    columns = [_cells(report) for report in reports]
    for row in columns[0]:
        table.add_row(row, *(cells[row] for cells in columns))
    console.print(table)
    if compared:
        times = f"{compared.median:.3f} (quartiles {compared.low:.3f} to {compared.high:.3f})"
        console.print(f"a step of {reports[1].name} takes {times} times one of {reports[0].name}")
    told = [f"{len(r.wall)} rounds of {r.steps} steps" for r in reports]
    rounds = told[0] if len(set(told)) == 1 else " and ".join(told)
    machine = f"{first['device']}, torch {first['torch']}, {first['threads']} CPU thread{'s' * (first['threads'] > 1)}"
    console.print(
        f"[dim]{machine}; {rounds} after warm-up, quartiles in brackets; the split has rounds of its own[/dim]"
    )


def _cells(report: "Report") -> dict[str, str]:
    """A column of the table, by its rows' names."""
    step, passes, machine = report.step, report.passes, report.machine
    tangent = f" + {passes.tangent:g} tangent" if passes.tangent else ""
    total, busy = sum(report.parts.values()), median(report.busy)
    cells = {
        "steps/s": f"{1 / step.median:.4g} ({1 / step.high:.4g} to {1 / step.low:.4g})",
        "samples/s": f"{report.batch / step.median:.4g}",
        "ms/step": f"{1000 * step.median:.4g}"
        + (f", CPU time {1000 * busy:.4g}" if report.busy != report.wall else ""),
        "batch, precision": f"{report.batch}, {machine['precision']}, compile {machine['compile']}",
        "data": str(machine["data"]),
        "parameters": f"{report.parameters:,}",
        "passes": f"{passes.with_gradient:g} with + {passes.without_gradient:g} without gradients{tangent}",
        "FLOPs/step": f"{report.flops:.3e}",
        "utilisation": f"{100 * report.utilisation:.1f} % of {report.rate:.3g} FLOP/s (matrix product)",
        "peak memory": "not told here" if report.memory is None else f"{report.memory / 2**20:,.0f} MiB",
    }
    split = {f"  {name}": f"{1000 * s:.4g} ms  {100 * s / total:.1f} %" for name, s in report.parts.items()}
    return cells | {"split": ""} | split
