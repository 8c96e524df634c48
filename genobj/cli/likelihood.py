"""genobj likelihood: log-likelihood of held-out data by the probability-flow ODE."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobj.cli.sample import DeviceName, RunFolder, WeightsName, plugins_of, refuse_home, run_and_settings, writable
from genobj.config.load import Layers, parse_override
from genobj.parts import DATA
from genobj.plugins import load_plugins

if TYPE_CHECKING:
    from torch import Tensor

    from genobj.hub import Loaded
    from genobj.samplers.likelihood import Divergence

FILE = "likelihood.json"
"""What is written beside a run."""


def command(
    run: RunFolder = Path("runs/latest"),
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the integration, as in probes=4 or rtol=1e-6."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "--samples", min=2, help="Held-out samples.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once; they share the solver's steps.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples, and of noise within levels.")] = 0,
    bits: Annotated[
        bool,
        typer.Option("--bits", help="Bits per dimension, of images: noise within a level is added."),
    ] = False,
    weights: WeightsName = "ema",
    device: DeviceName = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help=f"JSON file; unset: {FILE} in the run's folder.")] = None,
) -> None:
    """Mean log-likelihood of a run's held-out data, in nats, with its standard error and what it cost."""
    run, overrides = run_and_settings(run, overrides)
    writable(out)

    from genobj import hub
    from genobj.cli.sampling import experiment_of
    from genobj.samplers.likelihood import Divergence, refusal
    from genobj.samplers.ode import Ode
    from genobj.training.distributed import device_of, set_threads

    layers = Layers()
    for text in overrides:
        path, value = parse_override(text)
        layers.put(path, value, text)
    how, folder = Divergence.model_validate(layers.tree), hub.find(run)
    refuse_home(folder)
    load_plugins(plugins_of(run))
    loaded = hub.load(folder, weights, device_of(device))
    if problem := refusal(loaded.settings.horizons, how.head):
        raise ValueError(problem)
    experiment = experiment_of(folder)
    if experiment is None:
        raise ValueError(f"{run} has no recipe, so its data are not known; type the folder of the run that made it")
    level = experiment.data.level if bits else None
    if bits and level is None:
        name = DATA.name_of(type(experiment.data))
        raise ValueError(f"--bits is about data with levels, as uint8 images have, and {name} has none; leave it out")
    set_threads(0, loaded.model)
    held_out = experiment.data.open().held_out(count, seed)
    told = _measured(loaded, held_out.x, held_out.y, how, batch, seed, device_of(device), level=level, quiet=as_json)
    head = Ode(head=how.head).follows(loaded.settings.horizons)
    settings = how.model_dump(mode="json", exclude_none=True)
    tree = {**told, "head": head, "weights": loaded.weights, "seed": seed, "settings": settings}
    text = json.dumps(tree, indent=1)
    out = out or (folder / FILE if folder == run else Path(f"{'_'.join(run.parts)}_{FILE}"))
    out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        return typer.echo(text)
    typer.echo(f"log-likelihood  {told['mean']:.4f} +- {told['standard_error']:.4f} nats per sample")
    if level is not None:
        typer.echo(
            f"bits per dim    {told['bits_per_dim']:.4f} (levels 1/{1 / level:g} apart, with uniform noise within them)"
        )
    cost = f"{told['n']} held-out samples, {told['nfe']:g} NFE"
    typer.echo(f"head {head}, {cost}, weights {loaded.weights}: {out}")


def _measured(
    loaded: "Loaded",
    x: "Tensor",
    y: "Tensor | None",
    how: "Divergence",
    batch: int,
    seed: int,
    device: Any,
    *,
    level: float | None,
    quiet: bool,
) -> dict[str, Any]:
    """Mean, standard error and evaluations (the mean over samples) of log p(x), or of log p(x | y) with labels.

    level: of the samples, for bits per dimension; None: without them.
    """
    import torch

    from genobj.cli.scores import Counter
    from genobj.samplers.likelihood import bits_per_dim, dequantised, log_likelihood

    x = x if level is None else dequantised(x, level, seed)
    given = y if loaded.settings.classes else None
    nats, evaluations = list[torch.Tensor](), 0
    with Counter(quiet=quiet) as counter:
        for start in range(0, len(x), batch):
            rows = range(start, min(start + batch, len(x)))
            some = None if given is None else given[start : rows.stop].to(device)
            found = log_likelihood(
                loaded.model, x[start : rows.stop].to(device), some, path=loaded.settings.path, how=how, rows=rows
            )
            nats.append(found.nats.cpu())
            evaluations += found.nfe * len(rows)
            counter.show("likelihood", rows.stop, len(x))
    values = torch.cat(nats)
    told = {
        "mean": values.mean().item(),
        "standard_error": (values.std() / len(values) ** 0.5).item(),
        "n": len(values),
    }
    size = x[0].numel()
    return (
        told
        | ({} if level is None else {"bits_per_dim": bits_per_dim(values, size, level).mean().item()})
        | {"nfe": evaluations / len(x)}
    )
