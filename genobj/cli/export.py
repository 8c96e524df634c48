"""genobj export: a model in a folder of its own, or as one file for other runtimes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from genobj.cli.sample import Guidance, Plugins, SamplerName, Source, WeightsName, numbers, plugins_of, writable
from genobj.plugins import load_plugins

DtypeName = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="Precision of the stored weights.")
]
License = Annotated[str | None, typer.Option(help="License for the card, as the Hub spells it: apache-2.0, mit, ...")]


def command(
    run: Source = Path("runs/latest"),
    to: Annotated[Path | None, typer.Option(help="New folder in the Hub's layout.")] = None,
    weights: WeightsName = "ema",
    dtype: DtypeName = "float32",
    license: License = None,
    onnx: Annotated[Path | None, typer.Option(help="Write the generator to this .onnx file.")] = None,
    torch_export: Annotated[Path | None, typer.Option(help="Write the generator to this .pt2 file.")] = None,
    nfe: Annotated[int, typer.Option(min=1, max=64, help="Evaluations that the generator unrolls.")] = 1,
    sampler: SamplerName = None,
    guidance: Guidance = None,
    plugin: Plugins = None,
) -> None:
    """Write a model into a folder that can be shared, or its generator as one file that needs no genobj."""
    for file, suffix in ((onnx, ".onnx"), (torch_export, ".pt2")):
        if file is not None and file.suffix != suffix:
            raise ValueError(f"{file}: type a file that ends in {suffix}")
        writable(file)
    if to is None and onnx is None and torch_export is None:
        raise ValueError("say what to write: --to DIR, --onnx FILE.onnx or --torch-export FILE.pt2")

    from genobj import hub

    folder = hub.find(run)
    load_plugins([*plugins_of(run), *(plugin or [])])
    if to is not None:
        from genobj.sharing.folder import contents, export

        export(folder, to, weights, dtype, license=license)
        typer.echo(f"{to}: {told(contents(to))}")
        typer.echo(f"next  genobj sample {to}    genobj push {to} user/name")
    for file in filter(None, (onnx, torch_export)):
        _generator(folder, weights, file, nfe, sampler, guidance)


def _generator(folder: Path, weights: str, file: Path, nfe: int, sampler: str | None, guidance: float | None) -> None:
    import torch

    from genobj.cli.sampling import build
    from genobj.sharing.generator import Unrolled, write_onnx, write_torch
    from genobj.sharing.pretrained import opened

    model = opened(folder, weights, torch.device("cpu"))
    own = type(model.evaluation).model_validate(dict(model.evaluation) | {"nfe": tuple(numbers(str(nfe)))})
    given = [] if guidance is None else [f"guidance={guidance}"]
    (chosen,) = build(own, model.settings.horizons, sampler, given)
    unrolled = Unrolled(model.model, model.settings, chosen)
    error = (write_onnx if file.suffix == ".onnx" else write_torch)(unrolled, file)
    inputs = ", ".join(f"{name} {shape}" for name, shape in unrolled.shapes().items())
    latents = "" if model.settings.autoencoder is None else "; samples are latents"
    typer.echo(f"{file}: ({inputs}) -> samples, {unrolled.nfe} NFE, weights {model.weights}{latents}")
    typer.echo(f"differs from genobj by {error:.1e} at most on random inputs")


def told(files: dict[str, int]) -> str:
    """'config.json 2 kB, ...'."""
    return ", ".join(f"{name} {-(-size // 1000):,} kB" for name, size in files.items())
