"""genobj encode: images to latents on disk, by one process or by several, and on after any kill."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobj.cli.resolve import DataName, Overrides, Plugins
from genobj.cli.stats import changed_data
from genobj.config.load import Layers, find_recipe, read_toml
from genobj.plugins import load_plugins

if TYPE_CHECKING:
    from rich.progress import Progress

    from genobj.data.base import Data


def command(
    overrides: Overrides = None,
    data: DataName = None,
    recipe: Annotated[str | None, typer.Option("-r", "--recipe", help="Take the recipe's data.")] = None,
    autoencoder: Annotated[
        str, typer.Option(help="sd-vae-ft-ema, sd-vae-ft-mse, dc-ae-f32c32, a folder of diffusers or an id of the Hub.")
    ] = "sd-vae-ft-ema",
    to: Annotated[Path | None, typer.Option(help="Folder of the latents.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor of the latents [dim](the autoencoder's own)[/dim].")
    ] = None,
    shift: Annotated[float | None, typer.Option(help="Subtracted before [dim](the autoencoder's own)[/dim].")] = None,
    split: Annotated[str, typer.Option(help="train or held_out.")] = "train",
    unmirrored: Annotated[bool, typer.Option("--unmirrored", help="Leave the mirrored images out.")] = False,
    dtype: Annotated[str, typer.Option(help="Numbers on disk: float16, bfloat16 or float32.")] = "float16",
    precision: Annotated[str, typer.Option(help="Numbers in which the autoencoder works.")] = "float32",
    shard: Annotated[int, typer.Option(min=1, help="Images per file: what a kill can cost.")] = 5000,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images at once [dim](1 on a CPU, 8 on a GPU)[/dim].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    plugin: Plugins = None,
    verify: Annotated[Path | None, typer.Option(help="Read this folder whole and compare all checksums.")] = None,
) -> None:
    """Encode images with an autoencoder, for training on latents.

    genobj encode --data imagenet data.path=DIR data.resolution=256 --to latents. Give the same command again after a
    kill. On several devices: torchrun --standalone --nproc-per-node 8 -m genobj encode ...
    """
    if verify is not None:
        return _verify(verify)
    if to is None:
        raise ValueError("say where the latents go: --to DIR")
    tree = {"source": autoencoder, "scale": scale, "shift": shift}
    table: dict[str, Any] = {"dtype": dtype, "precision": precision, "shard": shard, "batch": batch, "split": split}
    images = _data(recipe, data, overrides or [], plugin or [])

    from genobj.encoding import Encoder, Encoding
    from genobj.training.distributed import device_of
    from genobj.training.ranks import Ranks

    chosen = {key: value for key, value in tree.items() if value is not None}
    settings = Encoding.model_validate({"autoencoder": chosen, "mirrored": not unmirrored, **table})
    ranks = Ranks.launched()
    encoder = Encoder(images, settings, to, ranks, device_of(device, ranks.local))
    if ranks.first:
        name, rows = encoder.codec.settings.source, encoder.inventory.rows
        typer.echo(f"{rows:,} images by {name} into {encoder.count} files of {to}, {ranks.world} process(es)")
    with _bar("encode", "images", ranks.first) as bar:
        outcome = encoder(_teller(bar))
    for complaint in outcome.complaints:
        typer.echo(complaint, err=True)
    if not outcome.missing:
        typer.echo(f"{outcome.rows:,} latents in {outcome.shards} files")
        typer.echo(f"next      genobj train --data latents data.path={to} --backbone dit-b/2")
    elif ranks.first:
        typer.echo(f"{outcome.missing} of {outcome.shards} files are not there yet: other processes make them")


def _data(recipe: str | None, name: str | None, overrides: list[str], plugins: list[str]) -> "Data":
    """The images that the flags describe, as in `genobj train`."""
    load_plugins(plugins)
    layers = Layers()
    if recipe is not None:
        layers.add({"data": read_toml(find_recipe(recipe)).get("data", "moons")}, recipe)
    if name is not None:
        layers.put(["data"], name, "--data")
    return changed_data(layers, overrides)


def _verify(folder: Path) -> None:
    from genobj.encoding import verify

    with _bar("verify", "files", True) as bar:
        wrong = verify(folder, _teller(bar))
    if wrong:
        listed = "\n".join(wrong)
        raise ValueError(
            f"{listed}\n{len(wrong)} file(s) of {folder} are not as they were encoded; remove and encode them"
        )
    typer.echo(f"{folder}: every file is as it was encoded")


def _bar(what: str, unit: str, shown: bool) -> "Progress":
    """A bar with the time that is left, on a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from genobj.cli.progress import console

    return Progress(
        TextColumn(what),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        disable=not (shown and console.is_terminal),
    )


def _teller(bar: "Progress") -> Any:
    task = bar.add_task("rows", total=None)

    def told(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return told
