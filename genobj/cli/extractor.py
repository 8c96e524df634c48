"""genobj extractor train: a small feature network of your own data."""

from pathlib import Path
from typing import Annotated

import typer

from genobj.cli.resolve import Overrides, Plugins
from genobj.cli.sample import DeviceName
from genobj.cli.stats import DataOf, data_of
from genobj.plugins import load_plugins

app = typer.Typer(no_args_is_help=True, help="Small feature networks, for data that Inception does not fit.")


@app.callback()
def about() -> None:
    """Small feature networks, for data that Inception does not fit."""


@app.command()
def train(
    data: DataOf,
    overrides: Overrides = None,
    to: Annotated[Path, typer.Option(help="Its folder, used as --extractor FOLDER.")] = Path("extractor"),
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images a step.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of its first stage.")] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images; colour images if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = 0,
    device: DeviceName = "auto",
    plugin: Plugins = None,
) -> None:
    """Train a residual classifier on labelled images and keep it as a feature space, with its accuracy and hash.

    genobj extractor train zip data.path=cifar10-32x32-train.zip data.labels=10 --to cifar-extractor. Frechet distances
    on its features compare only between users of this very folder.
    """
    load_plugins(plugin or [])
    if (to / "extractor.json").exists():
        raise ValueError(f"--to {to}: there is an extractor already; remove it, or choose another folder")
    settings = data_of(data, overrides or [])

    from genobj.cli.scores import Counter
    from genobj.metrics import learning
    from genobj.parts import DATA
    from genobj.training.distributed import device_of

    changes = {"steps": steps, "batch": batch, "width": width, "flip": flip, "seed": seed}
    how = learning.Training.model_validate({key: value for key, value in changes.items() if value is not None})
    about = {"kind": DATA.name_of(type(settings)), **settings.model_dump(mode="json", exclude_none=True)}
    with Counter() as counter:
        where = device_of(device)
        facts = learning.train(
            how,
            settings,
            to,
            where,
            about,
            lambda step, _: counter.show("train", step, how.steps),
            lambda complaint: typer.echo(complaint, err=True),
        )
    seen = "held-out images" if facts.unseen else "training images (give data.test or data.holdout)"
    typer.echo(f"{to}: accuracy {facts.accuracy:.1%} on {facts.held_out} {seen}, sha256 {facts.sha256[:8]}")
    typer.echo(f"next   genobj evaluate RUN --metrics fd,kid,prdc,accuracy --extractor {to}")
