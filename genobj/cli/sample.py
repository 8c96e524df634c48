"""genobj sample: draw samples from a run, an exported folder or a model of the Hub."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.config.load import read_toml
from genobj.plugins import load_plugins

if TYPE_CHECKING:
    from torch import Tensor

    from genobj.samplers.base import Sampler
    from genobj.sharing.pretrained import Drawn, Pretrained
    from genobj.training.ranks import Ranks

LARGEST = 10_000
"""Evaluations per sample that are still meant seriously."""
RISING = "1,2,4,8,32"
"""Evaluations in the columns of --trajectory."""
PANEL, ROWS = 10_000, 100
"""Samples in a panel of a picture, and rows of a trajectory, at most."""
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]
Source = Annotated[Path, typer.Argument(help="A run's folder, an exported one, or user/model of the Hub.")]
Nfe = Annotated[str | None, typer.Option(help="Network evaluations per sample, as in 1,2,4.")]
SamplerName = Annotated[str | None, typer.Option(help="A name of genobj list samplers, as in heun, restart or ect-2.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
WeightsName = Annotated[str, typer.Option(help="ema, live, or the decay of an average.")]
Guidance = Annotated[float | None, typer.Option(min=0, help="Guidance scale; 1 is off.")]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="Python file that registers more parts.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the Hub.")]


def command(
    run: Source = Path("runs/latest"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the sampler, as in kappa=0.5.")
    ] = None,
    nfe: Annotated[
        str | None, typer.Option(help="Network evaluations per sample, as in 1,2,4; unset: 1, or --sampler's own.")
    ] = None,
    sampler: SamplerName = None,
    guidance: Guidance = None,
    count: Annotated[int | None, typer.Option(min=1, help="Samples: 64, in a trajectory 8 or 1000 points.")] = None,
    first: Annotated[int, typer.Option(min=0, help="Number of the first sample.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed; sample i is the same for every count.")] = 0,
    label: Annotated[
        int | None, typer.Option(min=0, help="One label for all samples; all labels in turn if not given.")
    ] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Picture with a column per nfe and the same noise along a row.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Floats as the model gives them, in an .npz file.")] = False,
    weights: WeightsName = "ema",
    device: DeviceName = "auto",
    revision: Revision = None,
    plugin: Plugins = None,
    out: Annotated[
        Path | None, typer.Option(help="A .png picture, an .npz file (arr_0, arr_1) or a folder of PNG files.")
    ] = None,
) -> None:
    """Draw samples from a run, as a picture, as numbers or as a folder of images.

    Under torchrun every process writes its share of a folder: torchrun ... -m genobj sample RUN --out DIR.
    """
    run, overrides = run_and_settings(run, overrides)
    _fits(out, trajectory, raw)
    counts = numbers(nfe or (RISING if trajectory else None))
    if guidance is not None:
        overrides = [*overrides, f"guidance={guidance}"]

    from genobj import hub
    from genobj.cli.sampling import build, own_nfe
    from genobj.sharing.pretrained import opened
    from genobj.training.distributed import device_of, set_threads
    from genobj.training.ranks import Ranks

    ranks = Ranks.launched()
    if ranks.world > 1 and (out is None or out.suffix):
        raise ValueError(f"{ranks.world} processes can fill a folder only; type --out DIR, or start one")
    folder = hub.find(run, revision)
    refuse_home(folder)
    load_plugins([*plugins_of(run), *(plugin or [])])
    if sampler and not (nfe or trajectory):
        counts = [own_nfe(sampler, overrides)]
    model = opened(folder, weights, device_of(device, ranks.local))
    set_threads(0, model.model)
    if label is not None and label >= model.settings.classes:
        have = f"labels 0 to {model.settings.classes - 1}" if model.settings.classes else "no labels"
        raise ValueError(f"--label {label}: this model has {have}")
    own = type(model.evaluation).model_validate(dict(model.evaluation) | {"nfe": tuple(counts)})
    samplers = build(own, model.settings.horizons, sampler, overrides)
    is_images = len(model.settings.shape) == 3
    rows = range(first, first + (count or ((8 if is_images else 1000) if trajectory else 64)))
    asked = Asked(model, samplers, rows, seed, label)
    if out is None or out.suffix == ".png":
        told = [] if any(one.adaptive for one in samplers) else counts
        out = out or _usual(run, folder, told, ([sampler] if sampler else []) + overrides, trajectory)
        made = _picture(asked, out, trajectory)
    else:
        made = _numbers(asked, out, raw or not is_images, ranks)
    if ranks.first:
        by = f" by {sampler}" if sampler else ""
        typer.echo(f"{len(rows)} samples ({made}{by}, weights {model.weights}): {out}")


@dataclass(frozen=True)
class Asked:
    """Which samples are wanted, from which model."""

    model: "Pretrained"
    samplers: "Sequence[Sampler]"
    rows: range
    seed: int
    label: int | None

    def labels(self, rows: range) -> "Tensor | None":
        """Labels of these rows, or None for a model without any."""
        return self.model.labels_of(rows) if self.label is None else self.model.labels(len(rows), self.label)

    def drawn(self, sampler: "Sampler", rows: range, *, raw: bool = False) -> "Iterator[Drawn]":
        """These rows, a batch at a time; raw: latents are not decoded."""
        return self.model.batches(sampler, rows, self.seed, self.labels(rows), decoded=not raw)


def _fits(out: Path | None, trajectory: bool, raw: bool) -> None:
    """ValueError, before anything is loaded, for an --out that cannot be or does not go with the other flags."""
    if out is not None and out.suffix:
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out {out}: type a file that ends in .png or .npz, or a folder without a dot")
        writable(out)
    elif out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: this is a file, not a folder")
    if raw and (out is None or out.suffix != ".npz"):
        raise ValueError("--raw writes floats, which no picture holds; type --out FILE.npz")
    if trajectory and out is not None and out.suffix != ".png":
        raise ValueError(f"--trajectory makes a picture, which {out} is not; type --out FILE.png")


def _usual(run: Path, folder: Path, counts: Sequence[int], settings: Sequence[str], trajectory: bool) -> Path:
    """Where a picture goes if nobody says: into the run's folder, or here for a model of the Hub."""
    safe = re.sub(r"[^\w.,=-]+", "", "".join(f"_{text}" for text in settings))  # another setting is another file
    kind = "trajectory" if trajectory else "nfe" if counts else "samples"
    name = f"{'_'.join([kind, *map(str, counts)])}{safe}.png"
    if folder != run:
        return Path(f"{'_'.join(run.parts)}_{name}")
    return folder / "samples" / name


def _picture(asked: Asked, out: Path, trajectory: bool) -> str:
    """A panel, or a column, per nfe; what they cost."""
    import torch

    from genobj.pictures import columns, compare, trajectories

    if len(asked.rows) > (ROWS if trajectory and len(asked.model.settings.shape) == 3 else PANEL):
        raise ValueError(f"{len(asked.rows)} samples are too many for a picture; type --out DIR or --out FILE.npz")
    panels: dict[str, Tensor] = {}
    heads = [sampler.follows(asked.model.settings.horizons) for sampler in asked.samplers]
    for sampler, head in zip(asked.samplers, heads, strict=True):
        drawn = [*_progress(asked.drawn(sampler, asked.rows), len(asked.rows))]
        heading = f"{drawn[0].nfe} NFE" + (f", {head}" if len({*heads}) > 1 else "")
        panels[heading] = torch.cat([batch.x for batch in drawn])
    y, shape = asked.labels(asked.rows), asked.model.settings.shape
    if trajectory and len(shape) == 3:
        figure = trajectories(panels, [""] * len(asked.rows) if y is None else [str(label) for label in y.tolist()])
    else:
        figure = compare(panels, columns(asked.model.settings.classes) if asked.label is None else None)
    out.parent.mkdir(exist_ok=True)
    figure.savefig(out)
    return ", ".join(panels)


def _numbers(asked: Asked, out: Path, raw: bool, ranks: "Ranks") -> str:
    """The samples of a single nfe in an npz file or, shared out over the processes, in a folder; what they cost."""
    from genobj.sharing import files

    if len(asked.samplers) > 1:
        raise ValueError(f"--out {out} holds samples of one --nfe; type one number, or a .png file")
    if not out.suffix and len(asked.model.settings.shape) != 3:
        raise ValueError(f"--out {out}: these samples are points, which no PNG files hold; type --out FILE.npz")
    rows, few = asked.rows[ranks.rank :: ranks.world], asked.rows.stop <= files.FOLDER
    drawn = _progress(asked.drawn(asked.samplers[0], rows, raw=raw), len(rows), shown=ranks.first)
    if out.suffix:
        return f"{files.write_raw(out, drawn) if raw else files.write_npz(out, len(rows), drawn)} NFE"
    nfe = files.write_folder(out, rows, drawn, flat=few)
    y = asked.labels(asked.rows)
    if y is not None and ranks.first:
        files.write_labels(out, asked.rows, y, flat=few)
    return f"{nfe} NFE"


def _progress(batches: "Iterator[Drawn]", total: int, *, shown: bool = True) -> "Iterator[Drawn]":
    """The batches, with a bar on a terminal while more than one is to come."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    parts = TextColumn("sample"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*parts, console=console, disable=not shown or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("sample", total=total)
        for batch in batches:
            bar.advance(task, len(batch.x))
            yield batch


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


def refuse_home(folder: Path) -> None:
    """ValueError, with a run to type, for a folder that is no run and holds some, as runs does."""
    from genobj.hub import SETTINGS

    inside = [] if (folder / SETTINGS).exists() else list(folder.glob(f"*/{SETTINGS}"))
    if inside:
        newest = max(inside, key=lambda file: file.stat().st_mtime).parent
        raise ValueError(f"{folder} is not a run folder: it has no {SETTINGS}; type {newest}")


def plugins_of(run: Path) -> list[str]:
    """Plugin files that a run was made with; where one has moved, the copy in the run's folder.

    run: as the user named it. A name of the Hub is no folder, and what others share is none of our runs (hub.is_run):
    nothing of it is imported. ValueError if the folder's config.json cannot be read.
    """
    from genobj import hub

    named = read_toml(run / hub.RUN).get("plugins", []) if hub.is_run(run) else []
    if not isinstance(named, list):
        return named
    copies = [run / "plugins" / Path(str(plugin)).name for plugin in named]
    return [
        str(copy) if copy.is_file() and not Path(str(plugin)).is_file() else plugin
        for plugin, copy in zip(named, copies, strict=True)
    ]
