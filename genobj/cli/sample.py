"""genobj sample: draw samples from a run."""

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
    out: Annotated[Path | None, typer.Option(help="A .png picture or an .npz file (arr_0, labels).")] = None,
) -> None:
    """Draw samples from a run, as a picture or as numbers."""
    if out is not None and out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out {out}: type a file that ends in .png or .npz")
    writable(out)
    load_plugins(plugins_of(run))

    import torch

    from genobj.cli.sampling import build
    from genobj.evaluation import Generator
    from genobj.hub import load

    loaded = load(run, weights)
    if label is not None and label >= loaded.settings.classes:
        have = f"labels 0 to {loaded.settings.classes - 1}" if loaded.settings.classes else "no labels"
        raise ValueError(f"--label {label}: this model has {have}")
    y = None if label is None else torch.full((count,), label)
    samplers = build(loaded.settings.horizons, sampler, numbers(nfe), overrides or [])
    generate = Generator(loaded.model, loaded.settings, torch.device("cpu"))
    drawn = {f"{cost} NFE": batch for batch, cost in (generate(one, count, seed, y) for one in samplers)}
    name = "_".join(heading.removesuffix(" NFE") for heading in drawn)
    out = out or run / "samples" / f"nfe_{name}.png"
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
    """Plugin files that a run was made with."""
    file = run / "config.toml"
    return read_toml(file).get("plugins", []) if file.is_file() else []
