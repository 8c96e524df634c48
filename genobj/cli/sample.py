"""genobj sample: draw samples from a run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.cli.resolve import load_plugins
from genobj.config.load import read_toml

if TYPE_CHECKING:
    from genobj.data.base import Batch

LARGEST = 10_000
"""Evaluations per sample that are still meant seriously."""
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]
Nfe = Annotated[str | None, typer.Option(help="Network evaluations per sample, as in 1,2,4.")]
SamplerName = Annotated[str | None, typer.Option(help="euler, heun, midpoint, flow_map, restart, or a plugin's.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
WeightsName = Annotated[str, typer.Option(help="ema, live, or the decay of an average.")]


def command(
    run: RunFolder = Path("runs/latest"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the sampler, as in kappa=0.5.")
    ] = None,
    nfe: Nfe = None,
    sampler: SamplerName = None,
    count: Annotated[int, typer.Option(min=1, help="Samples.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed; sample i is the same for every count.")] = 0,
    label: Annotated[
        int | None, typer.Option(min=0, help="One label for all samples; all labels in turn if not given.")
    ] = None,
    weights: WeightsName = "ema",
    device: DeviceName = "auto",
    out: Annotated[Path | None, typer.Option(help="A .png picture or an .npz file (arr_0, labels).")] = None,
) -> None:
    """Draw samples from a run, as a picture or as numbers."""
    run, overrides = run_and_settings(run, overrides)
    if out is not None and out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out {out}: type a file that ends in .png or .npz")
    writable(out)
    load_plugins(plugins_of(run))

    import torch

    from genobj.cli.sampling import build, of_run
    from genobj.evaluation import Generator
    from genobj.hub import load
    from genobj.training.distributed import device_of, set_threads

    where = device_of(device)
    loaded = load(run, weights, where)
    set_threads(0, loaded.model)
    if label is not None and label >= loaded.settings.classes:
        have = f"labels 0 to {loaded.settings.classes - 1}" if loaded.settings.classes else "no labels"
        raise ValueError(f"--label {label}: this model has {have}")
    y = None if label is None else torch.full((count,), label)
    evaluation = of_run(run, numbers(nfe))
    samplers = build(evaluation, loaded.settings.horizons, sampler, overrides)
    generate = Generator(loaded.model, loaded.settings, where, evaluation.batch)
    drawn = {f"{cost} NFE": batch for batch, cost in (generate(one, count, seed, y) for one in samplers)}
    name = "_".join(heading.removesuffix(" NFE") for heading in drawn)
    settings = "".join(f"_{text}" for text in ([sampler] if sampler else []) + overrides)
    safe = re.sub(r"[^\w.,=-]+", "", settings)  # another setting is another file
    out = out or run / "samples" / f"nfe_{name}{safe}.png"
    out.parent.mkdir(exist_ok=True)
    _write(out, drawn, loaded.settings.classes if label is None else 0)
    typer.echo(f"{count} samples ({', '.join(drawn)}, weights {loaded.weights}): {out}")


def _write(out: Path, drawn: "dict[str, Batch]", classes: int) -> None:
    """A picture with a panel per nfe, or the numbers of a single nfe."""
    if out.suffix == ".png":
        from genobj.pictures import columns, compare

        return compare({heading: batch.x for heading, batch in drawn.items()}, columns(classes)).savefig(out)
    if len(drawn) > 1:
        raise ValueError(f"--out {out} holds samples of one --nfe; type one number, or a .png file")
    import numpy as np

    (batch,) = drawn.values()
    with out.open("wb") as file:
        if batch.y is None:
            np.savez(file, arr_0=batch.x.numpy())
        else:
            np.savez(file, arr_0=batch.x.numpy(), labels=batch.y.numpy())


def writable(out: Path | None) -> None:
    """ValueError now rather than after the work if there is no such folder."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ValueError(f"--out {out}: {'this is a folder' if out.is_dir() else f'there is no folder {out.parent}'}")


def run_and_settings(run: Path, overrides: list[str] | None) -> tuple[Path, list[str]]:
    """The run's folder may be left out before settings: 'genobj sample kappa=0.5' is about runs/latest."""
    if "=" in str(run) and not run.exists():
        return Path("runs/latest"), [str(run), *(overrides or [])]
    return run, overrides or []


def numbers(text: str | None) -> list[int]:
    """'1,2,4' as numbers; ValueError if it is something else."""
    try:
        values = [int(part) for part in (text or "1").split(",")]
    except ValueError:
        values = [0]
    if not 1 <= min(values) <= max(values) <= LARGEST:
        raise ValueError(f"--nfe {text!r}: type numbers from 1 to {LARGEST} separated by commas, as in --nfe 1,2,4")
    return values


def plugins_of(run: Path) -> list[str]:
    """Plugin files that a run was made with; where one has moved, the copy in the run's folder."""
    file = run / "config.toml"
    named = read_toml(file).get("plugins", []) if file.is_file() else []
    if not isinstance(named, list):
        return named
    copies = [run / "plugins" / Path(str(plugin)).name for plugin in named]
    return [
        str(copy) if copy.is_file() and not Path(str(plugin)).is_file() else plugin
        for plugin, copy in zip(named, copies, strict=True)
    ]
