"""genobj average: an average of the weights with another width, after the run."""

from pathlib import Path
from typing import Annotated

import typer

from genobj.cli.sample import RunFolder, writable


def command(
    run: RunFolder = Path("runs/latest"),
    width: Annotated[
        float, typer.Option(help="Width of the average as a share of the run, as in 0.08.", show_default=False)
    ] = ...,  # type: ignore[assignment]
    at: Annotated[int | None, typer.Option(min=1, help="Step to average up to; the last one if not given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .safetensors file [dim](in the run's folder if not given)[/dim].")
    ] = None,
) -> None:
    """Make an average of any width from a run's snapshots (ema.widths, ema.snapshot_every)."""
    if not 0 < width < 0.2886:
        raise ValueError(f"--width {width:g}: type a number above 0 and below 0.2886, as in --width 0.08")
    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: type a file that ends in .safetensors")
    writable(out)

    from genobj.training import posthoc
    from genobj.training import weights as files

    found = posthoc.reconstruct(run, width, at)
    name = f"width_{width:g}" + (f"_at_{at}" if at else "")
    path = out or run / f"ema_{name}.safetensors"
    temporary = path.with_name(f".{path.name}")
    files.write(temporary, found.weights)
    temporary.replace(path)
    of = ", ".join(f"{stored:g}" for stored in found.widths)
    typer.echo(f"average of width {width:g} at step {found.step}, from {found.snapshots} snapshots of widths {of}")
    typer.echo(f"its profile is off by {found.error:.2%}: {path}")
    if out is None:
        typer.echo(f"next  genobj sample {run} --weights {name}")
