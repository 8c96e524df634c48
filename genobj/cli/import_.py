"""genobj import: a file of official weights becomes a folder to sample from and to start runs with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genobj.foreign.convert import Report


def command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="dit, sit, meanflow-torch (MeanFlow's SiT or U-Net) or edm-unet.")
    ],
    file: Annotated[Path, typer.Argument(help="A .safetensors, .pt or .pth file; no pickled code is ever run.")],
    to: Annotated[Path, typer.Option(help="The new folder.", show_default=False)] = ...,  # type: ignore[assignment]
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads of a transformer [dim](known for published sizes)[/dim].")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Which of the file's sets: ema, model, or its own name for one, as in net_ema1 "
            "[dim](an average if there is one)[/dim]."
        ),
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(
            help="What decodes latents: a folder of diffusers, sd-vae-ft-ema, ... [dim](not in weights)[/dim]."
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Factor of the latents that it learned [dim](as the autoencoder's config says)[/dim]."),
    ] = None,
) -> None:
    """Import official weights (DiT, SiT, MeanFlow, EDM) as a folder of genobj."""
    from genobj.autoencoders import Autoencoder
    from genobj.foreign.convert import convert
    from genobj.init import typed

    if scale is not None and (autoencoder is None or scale <= 0):
        raise ValueError(f"--scale {scale} is a factor of latents; type one above 0, beside --autoencoder")
    decodes = Autoencoder(source=autoencoder, scale=scale) if autoencoder else None
    report = convert(kind, file, to, heads=heads, weights=weights, autoencoder=decodes)
    _print(report, file)
    horizon = next(iter(report.settings.horizons.values()))
    latents = report.settings.shape[0] not in (1, 3) and decodes is None
    out = f" --raw --out {to}/samples.npz" if latents else ""
    typer.echo(f"next  genobj sample {to} --nfe {1 if horizon == 'interval' else 50}{out}")
    typer.echo(f"or    genobj train init.from={to} {' '.join(typed(report.settings))} ...")


def _print(report: "Report", file: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    settings = report.settings
    head, horizon = next(iter(settings.horizons.items()))
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "file": f"{file}, weights {report.weights}",
        "folder": str(report.folder),
        "tensors": f"{report.tensors}, all of them used",
        "parameters": f"{report.parameters:,}",
        "samples": f"{tuple(settings.shape)}, {settings.classes} classes",
        "head": f"{head}, horizon {horizon}",
        "converted": "\n".join(report.converted) or "nothing: names and values are ours",
        "left out": "\n".join(report.left_out) or "nothing",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    Console(highlight=False, markup=False).print(table)
