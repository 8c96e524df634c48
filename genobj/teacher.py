"""A frozen network that a run learns from: a finished or stopped run, an exported folder or imported weights.

It is asked for velocities, which guide the data's or take their place (guidance=frozen), and, where an objective says
`weights = "frozen"`, for that objective's own head. It is no part of a checkpoint; a resumed run reads it again.
"""

import math
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, cast

import torch
from pydantic import BeforeValidator, Field, ValidationError, create_model
from torch import Tensor

from genobj.config.base import Config, problems
from genobj.config.load import read_toml
from genobj.hub import find, load, read, recipe
from genobj.model import Model, ModelSettings
from genobj.parts import PATHS
from genobj.passes import CanLower, velocity_head
from genobj.paths.base import Path
from genobj.types import Augment, AugmentedNetwork, Guide, Horizon, Labels, Network, Samples, TimeTensor, over

_From = create_model(
    "_From",
    __base__=Config,
    **cast("dict[str, Any]", {"from": (str, Field(min_length=1, description="A run's folder or an imported one."))}),
)
"""`from` is a Python keyword, so that this one setting cannot be written down in a class."""


def _name(weights: Any) -> Any:
    """0.999 as it stands in the names of files."""
    return f"{weights:g}" if isinstance(weights, float) else weights


class Teacher(_From):
    """Where the frozen network comes from."""

    weights: Annotated[str, BeforeValidator(_name)] = "ema"
    """Which of the folder's weights: ema, live, or the decay of an average."""
    shards: bool | None = None
    """Whether its weights are spread over the devices; unset: if those of the run are."""

    @classmethod
    def named(cls, source: str) -> "Teacher":
        """The average weights of a folder."""
        return cls.model_validate({"from": source})

    @property
    def source(self) -> str:
        """The folder, as it was typed."""
        return getattr(self, "from")

    @property
    def is_here(self) -> bool:
        """Whether the folder is on this machine; a model of the Hub may still have to be fetched."""
        return FilePath(self.source).exists()

    def settings(self, ours: ModelSettings) -> ModelSettings:
        """What rebuilds the teacher, for a run with these settings; weights are not read.

        ValueError, with what to type, if there is no such folder or its samples are not this run's.
        """
        theirs = self._described()
        if (theirs.shape, theirs.classes) != (ours.shape, ours.classes):
            made, wanted = (f"{s.shape} with {s.classes} classes" for s in (theirs, ours))
            raise ValueError(f"the teacher {self.source} was trained on {made}, the data is {wanted}; type another run")
        if theirs.augmentation not in (ours.augmentation, 0) and ours.augmentation:
            raise ValueError(
                f"the teacher {self.source} is told {theirs.augmentation} numbers about augmentations, this run has "
                f"{ours.augmentation}; type the same data settings"
            )
        if ours.augmentation and not theirs.augmentation:
            raise ValueError(f"the teacher {self.source} never saw augmented samples; leave data.augment out")
        if not _same_latents(theirs, ours):
            raise ValueError(
                f"the teacher {self.source} was trained on latents of another scale; type data.encoded_by as there"
            )
        if theirs.reading:  # a foreign network is read on any path
            return theirs.model_copy(update={"path": ours.path})
        if theirs.path != ours.path and not (_is_plain(theirs.path) and _is_plain(ours.path)):
            name = PATHS.name_of(type(theirs.path))
            raise ValueError(
                f"the teacher {self.source} was trained on another path, and extra noise or a damped velocity cannot "
                f"be read on one; type path={name} with its settings"
            )
        return theirs

    def check(self, theirs: ModelSettings, ours: ModelSettings, heads: Mapping[str, Horizon]) -> None:
        """ValueError unless the teacher has the heads that objectives ask it for, on the run's own path."""
        for head, horizon in heads.items():
            if theirs.horizons.get(head) != horizon or theirs.path != ours.path:
                have = ", ".join(f"{name} ({kind})" for name, kind in theirs.horizons.items())
                raise ValueError(
                    f"the teacher {self.source} is asked for head {head!r} ({horizon}) on this run's path, and has "
                    f"{have}; type another run, or weights=online"
                )

    def check_velocity(self, theirs: ModelSettings, told: float | None) -> None:
        """ValueError unless the teacher gives a velocity, at the scale that it is told, if it is."""
        try:
            velocity_head(theirs.horizons)
        except ValueError:
            have = ", ".join(f"{name} ({kind})" for name, kind in theirs.horizons.items())
            raise ValueError(
                f"the teacher {self.source} has only {have}, and distilling or guidance needs a velocity: "
                "type a run with --objectives fm,..."
            ) from None
        if told is not None and told > theirs.fed:
            can = f"scales up to {theirs.fed:g}" if theirs.fed else "no scale; leave guidance.told out"
            raise ValueError(f"guidance.told={told:g}: the teacher {self.source} was told {can}")

    def other_data(self, data: str) -> str | None:
        """A line to tell if the folder says that its network learnt data of another kind than `data`, or None.

        That is no mistake: the same images may lie elsewhere, and what was learnt on others can be carried over.
        """
        try:
            file = recipe(find(self.source))
            theirs = read_toml(file).get("data") if file else None
        except ValueError:  # nothing else of a recipe is needed here
            return None
        kind = theirs.get("kind", data) if isinstance(theirs, Mapping) else theirs or data
        same = kind == data
        return None if same else f"the teacher {self.source} learnt {kind}, the data is {data}"

    def fill(self, model: Model) -> None:
        """Put the folder's weights into a network, whole and on the CPU. ValueError if they cannot be read."""
        try:
            loaded = load(find(self.source), self.weights)
        except ValueError as error:
            raise ValueError(f"the teacher cannot be read: {error}") from None
        model.load_state_dict(loaded.model.state_dict())

    def _described(self) -> ModelSettings:
        folder = find(self.source)
        if not folder.exists():
            raise ValueError(
                f"there is no {folder} here; type a run's folder as the teacher, or train a velocity on the same data "
                f"first: genobj train --data NAME --objectives fm --out {folder}, with this run's data settings"
            )
        tree = read(folder)
        try:
            return ModelSettings.model_validate(tree.get("model"))
        except ValidationError as error:
            where, message = next(problems(error))
            raise ValueError(f"the teacher {folder} describes no model known here: {where}: {message}") from None


class OnPath:
    """A network's velocities, read on another path than the one that it was trained on.

    Both paths pass through the same mixtures of data and noise, at other sizes and times. There the answer tells data
    and noise (Path.ends), and those the velocity on our path. Holds for the instantaneous velocity alone.
    """

    def __init__(self, net: Network, theirs: Path, ours: Path):
        self.net, self.theirs, self.ours = net, theirs, ours
        self.head = velocity_head(net.horizons)
        self.horizons: dict[str, Horizon] = {self.head: "instant"}
        self.sees_r = frozenset[str]()
        self.augmentation = net.augmentation if isinstance(net, AugmentedNetwork) else 0

    def lowered(self) -> "OnPath":
        """This in bf16."""
        return OnPath(self.net.lowered() if isinstance(self.net, CanLower) else self.net, self.theirs, self.ours)

    def __call__(
        self,
        x_t: Samples,
        t: TimeTensor,
        *,
        r: TimeTensor | None = None,
        y: Labels | None = None,
        g: Guide | None = None,
        a: Augment | None = None,
    ) -> dict[str, Tensor]:
        """See types.Network; r is not looked at."""
        angle = _angle(self.ours, t)
        time = _time(self.theirs, angle)
        x_there = over(_size(self.theirs, time) / _size(self.ours, t), x_t) * x_t
        told = {name: value for name, value in (("g", g), ("a", a)) if value is not None}
        v = self.net(x_there, time, r=time, y=y, **told)[self.head]
        x, z = self.theirs.ends(x_there, v.to(x_there.dtype), time)
        return {self.head: over(self.ours.noise_rate(t), z) * z + over(self.ours.data_rate(t), x) * x}


def on_path(net: Model, theirs: Path, ours: Path) -> Model | OnPath:
    """The network, read on our path."""
    return net if theirs == ours else OnPath(net, theirs, ours)


def _angle(path: Path, t: TimeTensor) -> TimeTensor:
    """Which mixture lies at t: 0 for data, pi / 2 for noise."""
    return torch.atan2(path.noise_scale(t), path.data_scale(t))


def _size(path: Path, t: TimeTensor) -> TimeTensor:
    return torch.hypot(path.noise_scale(t), path.data_scale(t))


def _time(path: Path, angle: TimeTensor) -> TimeTensor:
    """When a path passes through a mixture, by halving; the nearer end where it never does."""
    low, high = torch.zeros_like(angle), torch.ones_like(angle)
    for _ in range(26 if angle.dtype == torch.float32 else 54):  # the digits of the number
        middle = (low + high) / 2
        later = _angle(path, middle) < angle
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2


def _is_plain(path: Path) -> bool:
    """Whether point and velocity of a pair tell the pair: no extra noise, no damped velocity."""
    t = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    x, z = (torch.full((33, 1), value, dtype=torch.float64) for value in (1.0, -0.5))
    back = path.ends(path.point(x, z, t), path.velocity(x, z, t), t)
    return not path.bridge and all(torch.allclose(one, other) for one, other in zip(back, (x, z), strict=True))


def _same_latents(theirs: ModelSettings, ours: ModelSettings) -> bool:
    """Whether both say the same about the scale of their latents, or one of them nothing."""
    made, given = theirs.autoencoder, ours.autoencoder
    if made is None or given is None or made.scale is None or given.scale is None:
        return True

    def close(there: Any, here: Any) -> bool:
        each = (value if isinstance(value, tuple) else (value,) * ours.shape[0] for value in (there, here))
        return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(*each, strict=True))

    return close(made.scale, given.scale) and close(made.shift or 0.0, given.shift or 0.0)
