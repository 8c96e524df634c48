"""Samples of every variant at every number of evaluations, from the same noise: points as paths, images as WebP.

Pictures are kept in the study's folder under names that change with the weights, so that a report that is written again
loads no model. Points stay points (an SVG path, sharp at any size, in the page's own colours); pixels become WebP.
"""

import base64
import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from genobj import hub
from genobj.autoencoders import pixels
from genobj.config.load import read_toml
from genobj.evaluation import Evaluation, Generator
from genobj.experiment import Experiment
from genobj.pictures import columns, grid
from genobj.studies.results import Results
from genobj.training.folder import write

SIDE = 220
"""Side of a picture of points, in its own units."""
POINTS = 1000
"""Points in a picture at most; fewer where there are many pictures, see TOTAL."""
TOTAL = 36_000
"""Points in all pictures of variants together: about 300 kB."""
BYTES = 400_000
"""Of all WebP pictures together, written in base64."""
LARGEST = 40_000
"""Of one picture."""
WIDEST = 330
"""Pixels across a grid of images at most."""
SMALL = 16
"""Side of images up to which they are kept pixel by pixel and enlarged by the browser."""
SEED = 0
"""Of the noise, the same for all variants."""
STEPS = 9
"""Pictures during training that are shown of a run."""
NEXT = 0.85
"""What a picture that is too large is shrunk by, again and again."""


@dataclass(frozen=True)
class Picture:
    """One picture: either the path of its points, or WebP as a data address. Empty: there is none, and why."""

    path: str = ""
    data: str = ""
    wide: int = SIDE
    tall: int = SIDE
    small: bool = False
    """To be enlarged pixel by pixel."""
    why: str = ""


@dataclass(frozen=True)
class Shown:
    """The pictures of a variant."""

    variant: str
    pictures: Mapping[int, Picture]
    """By number of evaluations."""
    seed: int = 0
    """Of the run."""
    why: str = ""
    """Why there is none."""
    steps: Mapping[int, Picture] | None = None
    """By step of training, where the study asked for them."""
    gone: bool = False
    """Whether its run is finished, but its folder is not here."""


@dataclass(frozen=True)
class Gallery:
    """All that is shown of a study's samples."""

    variants: Sequence[Shown]
    nfe: Sequence[int]
    data: Picture
    """Real samples."""

    def __bool__(self) -> bool:
        return any(shown.pictures or shown.why for shown in self.variants)

    @property
    def seeds(self) -> Sequence[int]:
        """Of the runs that are shown."""
        return sorted({shown.seed for shown in self.variants if shown.pictures})

    @property
    def note(self) -> str:
        """A sentence about variants without pictures; nothing if all have some."""
        gone = sum(shown.gone for shown in self.variants)
        runs = "run is" if len(self.variants) == 1 else "runs are"
        return f"Of {gone} of {len(self.variants)} variants the {runs} not at hand: no samples." if gone else ""


def gallery(results: Results, folder: Path | None, tell: Callable[[str, int, int], None] = lambda *_: None) -> Gallery:
    """Pictures of the first finished seed of every variant; what cannot be loaded leaves its reason.

    folder: where pictures are kept; None: nowhere. tell: told what is drawn, how many are done and of how many.
    """
    nfe = tuple(results.study.get("nfe") or sorted({n for _, n in results.measures() if n > 0}))
    kept = None if folder is None else folder / "pictures"
    firsts = {name: _first(results, name) for name in (variant.name for variant in results.variants)}
    count = min(POINTS, TOTAL // max(len(firsts) * len(nfe), 1))
    share = min(LARGEST, BYTES * 3 // 4 // max(len(firsts) * (len(nfe) + 1), 1))
    shown, data = list[Shown](), Picture()
    for done, (name, found) in enumerate(firsts.items()):
        tell("pictures", done, len(firsts))
        if found is None:
            shown.append(Shown(name, {}, why="no run of this variant is finished"))
            continue
        if not found[0] or not Path(found[0]).is_dir():
            why = " ".join(filter(None, ("its run", found[0], "is not at hand")))
            shown.append(Shown(name, {}, found[1], why=why, gone=True))
            continue
        try:
            run = Drawer(Path(found[0]), count, share, kept)
            shown.append(Shown(name, {n: run.picture(n) for n in nfe}, found[1], steps=_training(results, run)))
            data = data if data.path or data.data else run.data()
        except (ValueError, OSError, RuntimeError) as error:
            shown.append(Shown(name, {}, found[1], why=str(error).partition("\n")[0]))
    return Gallery(shown, nfe, data)


def _first(results: Results, variant: str) -> tuple[str, int] | None:
    """Folder and seed of the first finished cell of a variant, the smallest seed first."""
    cells = [cell for cell in results.cells if (cell.variant, cell.state) == (variant, "done")]
    first = min(cells, key=lambda cell: cell.seed, default=None)
    return None if first is None else (first.folder, first.seed)


def _training(results: Results, run: "Drawer") -> Mapping[int, Picture] | None:
    return run.training() if results.study.get("pictures") else None


class Drawer:
    """Draws one run's samples; the model and the data are opened when a picture is not kept yet.

    count: points in a picture; share: bytes of a WebP picture; kept: folder of finished pictures, or None.
    Raises OSError for weights that cannot be read; its methods raise ValueError for a folder that holds no model.
    """

    def __init__(self, folder: Path, count: int, share: int, kept: Path | None):
        self.folder, self.count, self.share, self.kept = folder, count, share, kept
        files = [folder / hub.RUN, *sorted(folder.glob("*.safetensors"))]
        there = [(f.name, _digest(f)) for f in files if f.is_file()]
        self.key = f"{there} {count} {share}"  # not where it lies: a study that moves keeps its pictures

    def picture(self, nfe: int) -> Picture:
        """Samples of so many evaluations; the reason where the run's samplers cannot do with them."""
        return self._kept(f"{nfe}", lambda: self._drawn(nfe))

    def data(self) -> Picture:
        """Real samples of the run's data; an empty picture with the reason where they are not at hand."""
        try:
            return self._kept("data", lambda: self._made(*self._real))
        except (ValueError, OSError, RuntimeError) as error:
            return Picture(why=str(error).partition("\n")[0])

    def training(self) -> Mapping[int, Picture]:
        """The run's own pictures during training by step, evenly thinned to STEPS."""
        found = {int(f.stem.removeprefix("step_")): f for f in sorted((self.folder / "samples").glob("step_*.png"))}
        every = sorted(found)
        some = sorted({every[round(i * (len(every) - 1) / (STEPS - 1))] for i in range(STEPS)}) if every else []
        return {step: self._kept(f"step {step}", lambda step=step: self._copied(found[step])) for step in some}

    def _copied(self, file: Path) -> Picture:
        with Image.open(file) as image:
            size = min(1.0, 800 / image.width)
            smaller = image.convert("RGB").resize((round(image.width * size), round(image.height * size)))
        return _webp(smaller, self.share)

    @cached_property
    def _loaded(self) -> hub.Loaded:
        return hub.load(self.folder)

    @cached_property
    def _experiment(self) -> Experiment:
        file = hub.recipe(self.folder)
        if file is None:
            raise ValueError(f"{self.folder} has no recipe, so its data are not known")
        return Experiment.model_validate(read_toml(file))

    @cached_property
    def _real(self) -> tuple[Tensor, Tensor | None]:
        x, y, _ = self._experiment.data.open().held_out(max(self.count, 1000), SEED)
        if y is None or x.ndim != 4:
            return x[: self._many(x.shape[1:])], None
        before = (y[:, None] == y).tril(-1).sum(1)  # how many of its label came before each
        order = (before * (y.max() + 1) + y).argsort()  # labels in turn, as those of samples
        return x[order][: self._many(x.shape[1:])], y

    @cached_property
    def _limit(self) -> float:
        """Half the side of a square around nearly all real points, or samples where data are not at hand."""
        try:
            x = self._real[0]
        except (ValueError, OSError, RuntimeError):
            x = torch.full((1, 2), 3.0)
        return 1.15 * x.flatten(1)[:, :2].abs().quantile(0.999).item() or 1.0

    def _many(self, shape: Sequence[int]) -> int:
        """How many samples make a picture: few rows of images."""
        if len(shape) != 3:
            return self.count
        wide = columns(self._loaded.settings.classes) or 10
        return 6 * wide if shape[-1] <= SMALL else 4 * wide if shape[-1] <= 32 else 8

    def _drawn(self, nfe: int) -> Picture:
        settings, own = self._loaded.settings, hub.evaluation(self.folder)
        try:
            sampler = Evaluation.model_validate(dict(own) | {"nfe": (nfe,)}).samplers(settings.horizons)[nfe]
        except ValueError as error:
            return Picture(why=str(error).partition("\n")[0])
        device = torch.device("cpu")
        batch = Generator(self._loaded.model, settings, device, own.batch)(sampler, self._many(settings.shape), SEED)[0]
        return self._made(batch.x, batch.y)

    def _made(self, x: Tensor, y: Tensor | None) -> Picture:
        if x.ndim != 4:
            return Picture(path=_path(x, self._limit))
        x = pixels(self._loaded.settings, x, torch.device("cpu"))
        wide = columns(self._loaded.settings.classes) if x.shape[-1] <= 32 else 4
        array = (grid(x, wide or 10) * 255).round().byte().numpy()
        return _webp(Image.fromarray(array), self.share, small=x.shape[-1] <= SMALL)

    def _kept(self, what: str, make: Callable[[], Picture]) -> Picture:
        """The picture, from its file where there is one."""
        if self.kept is None:
            return make()
        name = self.kept / hashlib.sha256(f"{self.key} {what}".encode()).hexdigest()[:20]
        path, webp = name.with_suffix(".path"), name.with_suffix(".webp")
        if path.is_file():
            return Picture(path=path.read_text(encoding="utf-8"))
        if webp.is_file():
            return _address(webp.read_bytes())
        made = make()
        self.kept.mkdir(parents=True, exist_ok=True)
        if made.path:
            write(path, made.path)
        elif made.data:
            webp.write_bytes(base64.b64decode(made.data.partition(",")[2]))
        return made


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _path(x: Tensor, limit: float) -> str:
    """Points as an SVG path of dots, each relative to the one before; those outside the square are left out.

    Sorted along rows they are near each other, and near ones take fewer letters.
    """
    plane = torch.nn.functional.pad(x.flatten(1), (0, max(2 - x[0].numel(), 0)))[:, :2]
    plane = plane[plane.isfinite().all(1) & (plane.abs() <= limit).all(1)]
    places = ((plane / limit * torch.tensor([1.0, -1.0]) + 1) * (SIDE / 2)).round().int().unique(dim=0).tolist()
    return "".join(_moves(sorted(places)))


def _moves(places: Sequence[Sequence[int]]) -> Iterator[str]:
    a, b = 0, 0
    for i, (c, d) in enumerate(places):
        yield f"{'m' if i else 'M'}{c - a}{d - b:+d}h0" if i else f"M{c} {d}h0"
        a, b = c, d


def _webp(image: Image.Image, share: int, *, small: bool = False) -> Picture:
    """The image in at most `share` bytes: exact if it fits, then with less quality, then smaller."""
    if not small and image.width > 2.5 * WIDEST:
        image = image.resize((WIDEST, max(1, round(image.height * WIDEST / image.width))))
    tries: list[dict[str, int | bool]] = [{"lossless": True}] if small or image.width <= WIDEST else []
    tries += [{"quality": quality, "method": 6} for quality in (85, 70, 55, 40)]
    while True:
        for options in tries:
            file = io.BytesIO()
            image.save(file, "WEBP", **options)
            if file.tell() <= share or (min(image.size) < 32 and options is tries[-1]):
                return _address(file.getvalue())
        image = image.resize((math.ceil(image.width * NEXT), math.ceil(image.height * NEXT)))


def _address(webp: bytes) -> Picture:
    with Image.open(io.BytesIO(webp)) as image:
        wide, tall = image.size
    data = f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
    return Picture(data=data, wide=wide, tall=tall, small=wide < SIDE)
