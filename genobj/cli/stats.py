"""genobj stats: the statistics of a data set as a reference file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobj.cli.evaluate import Inception, RoundingName, extractor_of
from genobj.cli.resolve import Overrides, Plugins
from genobj.cli.sample import DeviceName
from genobj.config.load import Layers, find_recipe, parse_override, read_toml
from genobj.plugins import load_plugins

if TYPE_CHECKING:
    import torch

    from genobj.data.base import Data
    from genobj.metrics.features import Extractor

DataOf = Annotated[str, typer.Argument(help="Kind of data, as in digits; a recipe, or a run's folder: take its data.")]


def command(
    data: DataOf,
    overrides: Overrides = None,
    to: Annotated[Path, typer.Option(help="The file (.npz).")] = Path("ref.npz"),
    extractor: Annotated[
        str | None,
        typer.Option(
            help="Feature network: digits, inception, or a folder of genobj extractor train [dim](digits for those, "
            "else inception)[/dim]."
        ),
    ] = None,
    inception: Inception = None,
    split: Annotated[str, typer.Option(help="train or held_out.")] = "train",
    features: Annotated[
        int, typer.Option(min=0, help="Images whose features are kept too, for kid and prdc; 0 for none.")
    ] = 10_000,
    rounding: RoundingName = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of --features.")] = 0,
    device: DeviceName = "auto",
    plugin: Plugins = None,
) -> None:
    """Make a reference file for genobj evaluate --ref out of all images of a data set, as they are in the files.

    genobj stats zip data.path=cifar10-32x32-train.zip --to cifar.npz. Several devices share the images: torchrun
    --standalone --nproc-per-node 8 -m genobj stats ...
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"--split {split}: type train or held_out")
    if to.suffix != ".npz" or not to.parent.is_dir():
        raise ValueError(f"--to {to}: type a file that ends in .npz, in a folder that exists")
    load_plugins(plugin or [])
    settings = data_of(data, overrides or [])

    import genobj
    from genobj.autoencoders import pixels
    from genobj.cli.scores import Counter
    from genobj.evaluation import Evaluation, shown
    from genobj.metrics.extractor import DigitsExtractor
    from genobj.metrics.inception import Inception as Port
    from genobj.metrics.references import write
    from genobj.metrics.statistics import statistics
    from genobj.metrics.team import Team
    from genobj.parts import DATA
    from genobj.training.distributed import Distributed, join, leave

    usual = "inception" if DigitsExtractor().refusal(shown(settings)) else "digits"
    changes = {"extractor": extractor_of(extractor or usual), "rounding": rounding}
    chosen = Evaluation.model_validate({key: value for key, value in changes.items() if value is not None})
    network = Port(weights=inception) if isinstance(chosen.extractor, Port) else chosen.extractor
    assert network is not None
    if problem := network.refusal(shown(settings)):
        raise ValueError(problem)
    ranks, where = join(Distributed(), device)
    if ranks.world > 1:  # the first one fetches what has to be fetched
        ranks.once(lambda: _opens(network, where))
    source, space = settings.open(), network.open(where)
    with Counter(quiet=not ranks.first) as counter:
        seen = statistics(
            source,
            "train" if split == "train" else "held_out",
            space,
            rounding=chosen.rounding,
            features=features,
            seed=seed,
            team=Team.joined(ranks.rank, ranks.world),
            decode=lambda x: pixels(settings, x, where),
            show=lambda done: counter.show("images", done, None),
        )
    leave()
    for complaint in source.complaints():
        typer.echo(complaint, err=True)
    if seen is None:
        return
    about: dict[str, Any] = {
        "genobj": genobj.__version__,
        "data": {"kind": DATA.name_of(type(settings)), **settings.model_dump(mode="json", exclude_none=True)},
        "split": split,
        "shape": list(shown(settings)),
        "rounding": chosen.rounding if space.rounded else None,
        "features_seed": seed,
    }
    write(to, seen, space, about)
    kept = 0 if seen.features is None else len(seen.features)
    typer.echo(
        f"{to}: {seen.n} images ({split}), {space.width} features of {space.name} {space.sha256[:8]}, {kept} kept"
    )


def data_of(name: str, overrides: Sequence[str]) -> "Data":
    """The data that the command line names: a kind, or those of a recipe or a run, with data.KEY=VALUE changes."""
    from genobj.parts import DATA

    layers = Layers()
    if (Path(name) / "config.toml").is_file():
        layers.add({"data": read_toml(Path(name) / "config.toml").get("data", "moons")}, name)
    elif name in DATA.names() or not (name.endswith(".toml") or "-" in name):
        layers.put(["data"], name, name)
    else:
        layers.add({"data": read_toml(find_recipe(name)).get("data", "moons")}, name)
    return changed_data(layers, overrides)


def changed_data(layers: Layers, overrides: Sequence[str]) -> "Data":
    """The settings in the table `data` of the layers, with data.KEY=VALUE changes. ValueError for other keys."""
    from genobj.config.base import Config, Pick
    from genobj.data.base import Data
    from genobj.parts import DATA

    class Chosen(Config):
        data: Annotated[Data, Pick(DATA)]
        """Under the name that overrides give them."""

    for text in overrides:
        path, value = parse_override(text)
        if path[0] != "data":
            raise ValueError(f"{text!r} is no setting of data; type data.KEY=VALUE, as in data.resolution=256")
        layers.put(path, value, text)
    if "data" not in layers.tree:
        raise ValueError("say which images: --data imagenet data.path=DIR data.resolution=256, or -r RECIPE")
    return Chosen.model_validate({"data": layers.tree["data"]}).data


def _opens(network: "Extractor", device: "torch.device") -> None:
    """Nothing that would have to be sent to the others."""
    network.open(device)
