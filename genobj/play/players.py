"""Models of a page: whichever weights of a folder are asked for, and what `genobj sample` would draw from them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genobj import hub
from genobj.config.load import read_toml
from genobj.experiment import Experiment
from genobj.parts import SAMPLERS
from genobj.play.knobs import Key, read, words
from genobj.samplers.base import Sampler
from genobj.sharing.pretrained import Pretrained, opened
from genobj.types import Samples

KEPT = 2
"""Weights of a model that stay in memory."""
CLOUD = 1000
"""Data points shown behind samples."""


@dataclass(frozen=True)
class Noise:
    """What all models of a page share: evaluations, and which noise of which class."""

    nfe: int
    seed: int
    count: int
    label: int | None
    """One class for all samples; None: all in turn."""


class Answer(NamedTuple):
    """Samples (count, *shape) and how they were made."""

    x: Samples
    nfe: int
    seconds: float
    sampler: str
    head: str
    weights: str
    command: str
    """The line that makes the same samples."""


@dataclass(frozen=True)
class Player:
    """A model of a page.

    name: as the user typed it; folder: where it lies; flags: what its command line needs besides, as in --device cpu.
    Raises ValueError, as `hub.load` does, for a folder that holds no model.
    """

    name: str
    folder: Path
    device: torch.device
    flags: Sequence[str] = ()
    short: str = ""
    """What headings and labels call it; unset: its name."""
    _opened: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keep = lru_cache(maxsize=KEPT)(lambda weights: opened(self.folder, weights, self.device))
        object.__setattr__(self, "_opened", keep)
        self.open()

    @property
    def title(self) -> str:
        """What headings and labels call it."""
        return self.short or self.name

    def open(self, weights: str = "ema") -> Pretrained:
        """The model with these weights. ValueError if the folder lacks them."""
        return self._opened(weights)

    def weights(self) -> list[str]:
        """What its weights may be called, the usual ones first."""
        tree = hub.read(self.folder)
        if "weights" in tree:
            return ["ema"]
        widths = sorted(file.stem.removeprefix("ema_") for file in self.folder.glob("ema_width_*.safetensors"))
        return ["ema", *(f"{decay:g}" for decay in tree["averages"][1:]), "live", *widths]

    def base(self, name: str | None, nfe: int) -> Sampler:
        """A sampler of `nfe` evaluations before anything is changed; None: the one that the model takes itself.

        ValueError if it cannot make so many, or if the model's heads cannot answer it.
        """
        own, horizons = self.open().evaluation, self.open().settings.horizons
        chosen = own.sampler if name is None else SAMPLERS.get(name)()
        return type(own).model_validate(dict(own) | {"nfe": (nfe,), "sampler": chosen}).samplers(horizons)[nfe]

    def usual(self, nfe: int) -> str:
        """Name of the sampler that the model takes itself; '' where it has none for so many evaluations."""
        try:
            return SAMPLERS.name_of(type(self.base(None, nfe)))
        except ValueError:
            return ""

    def answer(self, noise: Noise, weights: str, name: str | None, values: Mapping[Key, Any]) -> Answer:
        """Samples by the sampler called `name`, with what the controls of the page say.

        ValueError, in a sentence, for what sampler, heads, labels or weights do not allow.
        """
        base, model = self.base(name, noise.nfe), self.open(weights)
        table = read(values, base, name)
        sampler = type(base).model_validate(base.model_dump(mode="json") | table)
        head, rows = sampler.follows(model.settings.horizons), range(noise.count)
        labels = None if noise.label is None else model.labels(noise.count, noise.label)
        start = perf_counter()
        batches = [*model.batches(sampler, rows, noise.seed, labels)]
        seconds = perf_counter() - start
        x, taken = torch.cat([batch.x for batch in batches]), SAMPLERS.name_of(type(sampler))
        command = self.command(noise, weights, name, _alone(type(base), table, base.steps) if name else table)
        return Answer(x, batches[0].nfe, seconds, taken, head, model.weights, command)

    def command(self, noise: Noise, weights: str, name: str | None, table: Mapping[str, Any]) -> str:
        """The line of `genobj sample` that makes these samples."""
        line = ["genobj", "sample", self.name, "--nfe", noise.nfe, "--count", noise.count, "--seed", noise.seed]
        line += [] if noise.label is None else ["--label", noise.label]
        line += [] if weights == "ema" else ["--weights", weights]
        line += [] if name is None else ["--sampler", name]
        return shlex.join(map(str, [*line, *self.flags, *words(table)]))


def _alone(cls: type[Sampler], table: Mapping[str, Any], steps: int) -> Mapping[str, Any]:
    """The table, with `steps` where it fits no other number: times listed one by one."""
    try:
        cls.model_validate(table)
    except ValueError:
        return {"steps": steps, **table}
    return table


def titles(names: Sequence[str]) -> list[str]:
    """The last words of paths, as many of them as tell the paths apart: digits, or a/digits and b/digits."""
    parts = [[word for word in name.split("/") if word] or [name] for name in names]
    for count in range(1, max(map(len, parts)) + 1):
        made = ["/".join(words[-count:]) for words in parts]
        if len(set(made)) == len(set(names)):
            return made
    return list(names)


def fit(players: Sequence[Player]) -> None:
    """ValueError unless all models draw from the same noise and labels."""
    first, *others = players
    told = {one.name: (one.open().settings.shape, one.open().settings.classes) for one in players}
    for other in others:
        if told[other.name] != told[first.name]:
            made = [f"{name} draws {shape} with {classes} classes" for name, (shape, classes) in told.items()]
            raise ValueError(f"{' and '.join(made)}: they share no noise; name two models of the same data")


def cloud(player: Player) -> Tensor | None:
    """Real points (n, dim) to show behind samples that are points; None for images or where data are not at hand.

    Only of runs of our own: what strangers name as their data is not opened.
    """
    if len(player.open().settings.shape) != 1 or not hub.is_run(player.folder):
        return None
    try:
        experiment = Experiment.model_validate(read_toml(player.folder / hub.RUN))
        return experiment.data.open().held_out(CLOUD, 0).x
    except (ValueError, OSError):
        return None
