"""genobj evaluate: score a run's samples."""

import json
from pathlib import Path
from typing import Annotated

import typer

from genobj.cli.resolve import load_plugins
from genobj.cli.sample import (
    DeviceName,
    Nfe,
    RunFolder,
    SamplerName,
    WeightsName,
    numbers,
    plugins_of,
    run_and_settings,
    writable,
)


def command(
    run: RunFolder = Path("runs/latest"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the sampler, as in kappa=0.5.")
    ] = None,
    nfe: Nfe = None,
    sampler: SamplerName = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, as in mmd,w2; those of the recipe if not given.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=2, help="Generated samples.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of noise and labels.")] = None,
    weights: WeightsName = "ema",
    device: DeviceName = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the records to this JSON file.")] = None,
) -> None:
    """Score samples of a run against held-out data; every record says how it was made."""
    run, overrides = run_and_settings(run, overrides)
    writable(out)
    load_plugins(plugins_of(run))

    from genobj.cli.progress import scores
    from genobj.cli.sampling import build, experiment_of
    from genobj.evaluation import Generator, Scorer
    from genobj.hub import load
    from genobj.training.distributed import device_of, set_threads

    where = device_of(device)
    loaded = load(run, weights, where)
    set_threads(0, loaded.model)
    experiment = experiment_of(run)
    if experiment is None:
        raise ValueError(f"{run} has no config.toml, so its data are not known")
    changes = {
        "count": count,
        "seed": seed,
        "nfe": nfe and numbers(nfe),
        "metrics": metrics and {name: {"kind": name} for name in metrics.split(",")},
    }
    tree = experiment.evaluation.model_dump(mode="json") | {k: v for k, v in changes.items() if v is not None}
    settings = type(experiment.evaluation).model_validate(tree)
    samplers = build(settings, loaded.settings.horizons, sampler, overrides)
    scorer = Scorer(settings, experiment.data, experiment.data.open())
    generator = Generator(loaded.model, loaded.settings, where, settings.batch)
    records = scorer.score(samplers, generator, loaded.weights)
    text = json.dumps([record.as_dict() for record in records], indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    typer.echo(text) if as_json else scores(records)
