"""Names for the tensors every part passes around. House notation: t = 0 is data, t = 1 is noise."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

T = TypeVar("T")

Samples = Float[Tensor, "batch *shape"]
TimeTensor = Float[Tensor, " batch"]
Labels = Int[Tensor, " batch"]
Losses = Float[Tensor, " batch"]
Guide = Float[Tensor, "batch 3"]
"""Guidance as an input of the network: scale w >= 1 and the interval [low, high] of t where it holds (iMF)."""

Augment = Float[Tensor, "batch augmentation"]
"""Augmentation labels: how each sample was changed, zeros for an unchanged one (EDM, arXiv 2206.00364, App. F.2)."""

Horizon = Literal["instant", "data", "interval", "ends", "fake"]
"""Where a head's average velocity ends: r = t (instant, the velocity), r = 0 (data, the jump there), any r given
(interval) or either of the two ends (ends). fake: r = t, on the model's own samples; no sampler follows it."""

Weights = Literal["online", "ema", "frozen"]
"""Which network a gradient-free pass runs: the live one, its average, or a frozen teacher."""


@runtime_checkable
class Interpolant(Protocol):
    """What objectives may ask of a path: see genobj.paths.base.Path."""

    @property
    def goes_on(self) -> bool:
        """Whether times a little below 0 or above 1 have a place on it too."""
        ...

    def point(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """x_t of data x and noise z."""
        ...

    def velocity(self, x: Samples, z: Samples, t: TimeTensor) -> Samples:
        """dx_t/dt for this pair (x, z)."""
        ...

    def ends(self, x_t: Samples, v: Samples, t: TimeTensor) -> tuple[Samples, Samples]:
        """The pair (x, z) whose path is at x_t and has the velocity v."""
        ...

    def landed(self, x_t: Samples, u: Samples, t: TimeTensor) -> Samples:
        """Where the jump x_t - t u to data ends, at the size of data."""
        ...

    def noise_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of z."""
        ...

    def data_scale(self, t: TimeTensor) -> TimeTensor:
        """Factor of x."""
        ...

    def noise_target(self, t: TimeTensor) -> TimeTensor:
        """Factor of z in what UCGM's networks predict."""
        ...

    def data_target(self, t: TimeTensor) -> TimeTensor:
        """Factor of x in what UCGM's networks predict."""
        ...


class Draw(NamedTuple):
    """One training draw, the same for all objectives.

    x, z, x_t: (batch, *shape) data, noise and state on the path; t, r: (batch,) with 0 <= r <= t <= 1, or, on rows that
    hold the model's own samples in the place of data, r = t with -1 <= t <= 0 (their place on the path is -t);
    v_t: the target velocity, guided where guidance is on; v_path: dx_t/dt of this pair (x, z), never guided;
    y: (batch,) labels fed to the network (null where dropped) or None; dropped: (batch,) mask or None;
    null: (batch,) null labels or None; equal: how many rows at the front need no more than the velocity, since r = t
    there by plan (for an objective: and it is about r); gap: t - r up to which a row is about the velocity itself;
    progress: share of the run that is over; chance: (batch,) uniform numbers for objectives that want them; g:
    guidance fed to the network; g_v: what a question for the velocity is fed in its place; a: augmentation labels; all
    passes of the step are fed them without being asked to; noise: further standard normal samples, as many as
    objectives want; groups: rows of the batch by the name of what the law of (t, r) made them for; together: how many
    rows share their times (rows i, i + batch / together, ... do); path: the path.
    """

    x: Samples
    z: Samples
    t: TimeTensor
    r: TimeTensor
    x_t: Samples
    v_t: Samples
    v_path: Samples
    y: Labels | None = None
    dropped: Bool[Tensor, " batch"] | None = None
    null: Labels | None = None
    equal: int = 0
    gap: float = 0.0
    progress: float = 0.0
    chance: TimeTensor | None = None
    g: Guide | None = None
    g_v: Guide | None = None
    a: Augment | None = None
    noise: tuple[Samples, ...] = ()
    groups: Mapping[str, slice] | None = None
    together: int = 1
    path: Interpolant | None = None

    @property
    def point(self) -> "Point":
        """Where the forward with gradients is taken."""
        return Point(self.x_t, self.t, self.r, self.y, self.g, self.a)

    @property
    def interpolant(self) -> Interpolant:
        """The path; every draw of a step has one."""
        assert self.path is not None, "the composer tells the path"
        return self.path

    @property
    def velocity_point(self) -> "Point":
        """Where the model's own velocity is asked for."""
        return Point(self.x_t, self.t, self.r, self.y, self.g_v, self.a)

    def part(self, rows: slice) -> "Draw":
        """These rows of the batch, as a draw of their own without groups."""

        def cut(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(one[rows] for one in value)
            return value[rows] if isinstance(value, Tensor) else value

        return Draw(*map(cut, self))._replace(equal=0, groups=None, together=1)


class Point(NamedTuple):
    """Where a network is evaluated: state, time, target time, label and guidance (None: not fed).

    a: augmentation labels; points of the whole batch get those of the batch, and networks without them never see them.
    """

    x_t: Samples
    t: TimeTensor
    r: TimeTensor | None = None
    y: Labels | None = None
    g: Guide | None = None
    a: Augment | None = None

    def part(self, rows: slice) -> "Point":
        """These rows of the batch."""
        return Point(*(None if value is None else value[rows] for value in self))  # type: ignore[arg-type]


@runtime_checkable
class Network(Protocol):
    """Anything that maps (x_t, t, r, y) to one tensor per head and says where its heads end.

    A network that is fed guidance takes `g: Guide | None = None` as well, one that is told augmentations `a: Augment |
    None = None`; others are never given them.
    """

    @property
    def horizons(self) -> Mapping[str, Horizon]:
        """Horizon of every velocity head, by name."""
        ...

    def __call__(
        self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None
    ) -> dict[str, Tensor]:
        """One prediction per head, each shaped like x_t."""
        ...


@runtime_checkable
class FedNetwork(Network, Protocol):
    """A network that can be told the guidance it shall follow."""

    @property
    def fed(self) -> float:
        """Largest guidance scale that it was trained with, where calls take `g`; 0: they do not."""
        ...


@runtime_checkable
class AugmentedNetwork(Network, Protocol):
    """A network that can be told how its input was augmented."""

    @property
    def augmentation(self) -> int:
        """Numbers in an augmentation label, where calls take `a`; 0: they do not."""
        ...


@runtime_checkable
class Passes(Protocol):
    """Gradient-free evaluations during one training step: memoised, batched, counted."""

    def __call__(
        self, *points: Point, weights: Weights = "online", precise: bool = False, skip: int = 0
    ) -> list[dict[str, Tensor]]:
        """Outputs at the points, one batch for all that are not known yet, without their first `skip` rows.

        precise: forbid low precision.
        """
        ...

    def velocity(self, point: Point, weights: Weights = "online", answered: int = 0) -> Samples:
        """Instantaneous velocity at a point: the instant head, or an interval head at r = t.

        answered: how many rows at the front have r = t, so that a forward at this very point has answered already.
        """
        ...

    def tangent(
        self,
        point: Point,
        direction: Samples,
        head: str,
        weights: Weights = "online",
        skip: int = 0,
        beside: bool = False,
    ) -> Tensor:
        """Exact d/dt of one head along (direction, dt = 1, dr = 0), without the first `skip` rows.

        By forward mode, in float32; beside: from the record of the forward with gradients, where that has one.
        """
        ...

    def learn(self, point: Point) -> dict[str, Tensor]:
        """Outputs of the live network at a further point, with gradients (one more forward that is differentiated)."""
        ...

    def judge(self, point: Point, head: str, precise: bool = False) -> tuple[Tensor, Tensor]:
        """What a scalar head says of a point, (batch,), twice: for the head and for the point.

        Gradients of the first reach the weights of the head alone, those of the second the tensors of the point alone;
        the trunk, on whose features the head stands, learns from neither. precise: forbid low precision.
        """
        ...

    def note(self, **parts: Losses) -> None:
        """Have the log show parts of the objective's loss, each (batch,), beside the whole; see Objective.notes."""
        ...

    def remember(self, key: Hashable, make: Callable[[], T], *of: object) -> T:
        """The value made in this step for `key` and these very objects; tensors kept so are equal for all who ask."""
        ...


def resting(g: Guide | None, t: TimeTensor) -> Guide | None:
    """What a question for the velocity at t is fed: the scale that holds there, on the whole interval."""
    if g is None:
        return None
    _, low, high = g.unbind(1)
    return whole(torch.where(((t >= low) & (t <= high))[:, None], g, 1.0))


def whole(g: Guide | None) -> Guide | None:
    """The scale on the whole interval: what rows with r = t are fed in training."""
    return None if g is None else torch.stack([g[:, 0], torch.zeros_like(g[:, 0]), torch.ones_like(g[:, 0])], 1)


def over(t: Shaped[Tensor, " batch"], x: Shaped[Tensor, "batch ..."]) -> Tensor:
    """View t (batch,) so that it broadcasts over x (batch, ...)."""
    return t.view(-1, *[1] * (x.ndim - 1))
