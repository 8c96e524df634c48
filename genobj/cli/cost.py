"""genobj cost: what a step of an experiment takes, before it is run."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.cli.resolve import Backbone, DataName, Heads, Objectives, Overrides, Plugins, Recipe, Seed, Teacher, resolve

if TYPE_CHECKING:
    from genobj.experiment import Experiment


def command(
    overrides: Overrides = None,
    recipe: Recipe = None,
    heads: Heads = None,
    objectives: Objectives = None,
    backbone: Backbone = None,
    data: DataName = None,
    seed: Seed = None,
    plugin: Plugins = None,
    teacher: Teacher = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Count passes, parameters per head, FLOPs per step and memory, without running anything."""
    experiment, _ = resolve(recipe, heads, objectives, backbone, data, seed, overrides, plugin, teacher)
    report(experiment, as_json=as_json)


def report(experiment: "Experiment", *, as_json: bool = False) -> None:
    """Print the cost of one step."""
    from genobj.cost import measure
    from genobj.expected import millions

    cost = measure(experiment).as_dict()
    published = {number.parameters: number.source for number in experiment.expected if number.parameters}
    if published:
        cost["parameters"]["published"] = min(published)
    if as_json:
        return typer.echo(json.dumps(cost, indent=1))
    passes, parameters, memory = cost["passes"], cost["parameters"], cost["memory"]
    tangent = f" + {passes['tangent']} tangent" if passes["tangent"] else ""
    asked = f" ({passes['teacher']} of the teacher)" if "teacher" in cost else ""
    plain = f"{passes['with_gradient']} with gradients + {passes['without_gradient']} without{asked}"
    typer.echo(f"passes       {plain}{tangent}")
    told = "".join(f"; {millions(size)} in {source}" for size, source in published.items())
    typer.echo(f"parameters   {parameters['total']:,}  (trunk {parameters['trunk']:,}{told})")
    first, *others = sorted(parameters["heads"].items(), key=lambda head: head[0] not in experiment.horizons)
    base = parameters["trunk"] + first[1]
    typer.echo(f"  head {first[0]:<6} {first[1]:,}")
    for name, size in others:
        typer.echo(f"  head {name:<6} {size:,}  (+{size:,}, +{100 * size / base:.2f} % of the one-head model)")
    if teacher := cost.get("teacher"):
        size = f"{teacher['parameters']:,} parameters"
        told = size if teacher["is_here"] else "not here yet, counted like the network"
        typer.echo(f"teacher      {teacher['source']}: {told}")
    typer.echo(f"FLOPs/step   {cost['flops']:.3e}  at batch {experiment.train.batch}")
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in memory.items() if name != "total")
    micro = experiment.train.micro_batch
    typer.echo(f"memory       about {_bytes(memory['total'])}{f' at micro_batch {micro}' if micro else ''}  ({parts})")


def _bytes(size: float | int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
