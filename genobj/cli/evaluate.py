"""genobj evaluate: score a run's samples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobj.cli.sample import (
    DeviceName,
    Nfe,
    RunFolder,
    SamplerName,
    WeightsName,
    numbers,
    plugins_of,
    refuse_home,
    run_and_settings,
    writable,
)
from genobj.plugins import load_plugins
from genobj.samplers.presets import nfe_of

if TYPE_CHECKING:
    from genobj.evaluation import Evaluation
    from genobj.samplers.base import Sampler

ExtractorName = Annotated[
    str | None,
    typer.Option("--extractor", help="Feature network: digits, inception, or a folder of genobj extractor train."),
]
Inception = Annotated[str | None, typer.Option(help="Weights file of Inception, if not in its usual place.")]
RoundingName = Annotated[str | None, typer.Option(help="How images become eight bits: truncate, round or floor.")]


def command(
    run: RunFolder = Path("runs/latest"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the sampler, as in kappa=0.5.")
    ] = None,
    nfe: Nfe = None,
    sampler: SamplerName = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, as in fid,is,kid,prdc,fd,mmd; those of the recipe if not given.")
    ] = None,
    ref: Annotated[
        list[Path] | None, typer.Option(help="Reference file (.npz) in place of the data; may be given again.")
    ] = None,
    assume: Annotated[str | None, typer.Option(help="Extractor of a --ref that does not say its own.")] = None,
    extractor: ExtractorName = None,
    inception: Inception = None,
    rounding: RoundingName = None,
    count: Annotated[int | None, typer.Option("--count", "--samples", min=2, help="Generated samples.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples at once.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of noise and labels.")] = None,
    weights: WeightsName = "ema",
    device: DeviceName = "auto",
    export: Annotated[Path | None, typer.Option(help="Write the images to this .npz for ADM's evaluator.")] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="Records of another run, shown beside these if they compare.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the records to this JSON file.")] = None,
) -> None:
    """Score samples of a run; every record says how it was made.

    They are compared with the run's data, or with reference files (genobj stats makes them, and those of ADM, JAX
    MeanFlow and pytorch-fid are read). On several devices: torchrun --standalone --nproc-per-node 8 -m genobj evaluate
    """
    run, overrides = run_and_settings(run, overrides)
    writable(out)
    _exportable(export)

    from genobj import hub
    from genobj.cli.sampling import build, experiment_of
    from genobj.cli.scores import Counter, scores
    from genobj.config.load import fingerprint
    from genobj.evaluation import Generator, Scorer
    from genobj.metrics.features import FeatureMetric
    from genobj.metrics.records import comparable, read_records
    from genobj.metrics.team import Team
    from genobj.training.distributed import Distributed, device_of, join, leave, set_threads
    from genobj.training.ranks import Ranks

    others = {str(file): read_records(file) for file in against or []}
    folder = hub.find(run)
    refuse_home(folder)
    load_plugins(plugins_of(run))
    loaded = hub.load(folder, weights, device_of(device if Ranks.launched().world == 1 else "cpu"))
    experiment = experiment_of(folder)
    if experiment is None and not ref:
        raise ValueError(f"{run} has no recipe, so its data are not known; give a reference file: --ref FILE.npz")
    changes = {
        "count": count,
        "batch": batch,
        "seed": seed,
        "nfe": numbers(nfe) if nfe else nfe_of(sampler),
        "metrics": metrics and {name: {"kind": name} for name in metrics.split(",")},
        "reference_files": ref and [str(file) for file in ref],
        "assume": assume,
        "extractor": extractor and extractor_of(extractor),
        "inception": inception,
        "rounding": rounding,
    }
    settings = _changed(experiment.evaluation if experiment else hub.evaluation(folder), changes)
    samplers = build(settings, loaded.settings.horizons, sampler, overrides)
    exports = _exports(export, samplers)
    data = experiment.data if experiment else loaded.settings
    raw = any(not isinstance(metric, FeatureMetric) for metric in settings.chosen_metrics(data).values())
    source = experiment.data.open() if experiment and (raw or not settings.reference_files) else None
    ranks, where = join(Distributed(), device)
    set_threads(0, loaded.model)
    generator = Generator(loaded.model.to(where), loaded.settings, where, settings.batch)
    config = fingerprint(experiment.learns(besides=frozenset())) if experiment else ""
    with Counter(quiet=not ranks.first or as_json) as counter:
        team = Team.joined(ranks.rank, ranks.world)
        scorer = Scorer(settings, data, source, device=where, team=team, config=config, show=counter.show)
        ranks.once(scorer.check)  # the first one fetches what has to be fetched
        records = scorer.score(samplers, generator, loaded.weights, exports)
    leave()
    if not ranks.first:
        return
    for complaint in source.complaints() if source is not None else []:
        typer.echo(complaint, err=True)
    text = json.dumps([record.as_dict() for record in records], indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    comparable([*records, *(record for theirs in others.values() for record in theirs)])
    if as_json:
        return typer.echo(text)
    scores(records)
    for name, theirs in others.items():
        typer.echo(f"\n{name}")
        scores(theirs)


def extractor_of(name: str) -> dict[str, Any]:
    """Settings of the extractor that --extractor names."""
    from genobj.parts import EXTRACTORS

    if name in EXTRACTORS.names() and name != "trained":
        return {"kind": name}
    if not Path(name).is_dir():
        EXTRACTORS.get(name)
        raise ValueError("--extractor trained: name the folder of the extractor instead, as in --extractor extractor")
    return {"kind": "trained", "path": name}


def _changed(settings: "Evaluation", changes: dict[str, Any]) -> "Evaluation":
    tree = settings.model_dump(mode="json", exclude_none=True)
    return type(settings).model_validate(tree | {key: value for key, value in changes.items() if value is not None})


def _exportable(export: Path | None) -> None:
    if export is not None and export.suffix != ".npz":
        raise ValueError(f"--export {export}: type a file that ends in .npz")
    if export is not None and not export.parent.is_dir():
        raise ValueError(f"--export {export}: there is no folder {export.parent}")


def _exports(export: Path | None, samplers: "Sequence[Sampler]") -> dict[int, Path]:
    """A file for every sampler; where there are several, their steps stand in the name."""
    if export is None:
        return {}
    if len(samplers) == 1:
        return {0: export}
    named = [f"{export.stem}_{one.cost(one.steps)}nfe{export.suffix}" for one in samplers]
    return {place: export.with_name(name) for place, name in enumerate(named)}
