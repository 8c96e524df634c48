"""An objective scores heads on one shared draw."""

import abc
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from genobj.config.base import Config, Pick
from genobj.distances.base import Distance
from genobj.distances.mse import MSE
from genobj.parts import DISTANCES
from genobj.schedules import Constant, Number, within
from genobj.types import Draw, Horizon, Losses, Passes, Point, Samples, Weights


class Objective(Config, abc.ABC):
    """Override this only for an objective that is not a regression of one head."""

    anchored: ClassVar[bool] = True
    """Whether the targets contain v_t on every row; if not, those with t - r <= draw.gap have to tie the head to it."""
    is_error: ClassVar[bool] = True
    """Whether the loss is an error, never negative, which a learned log-variance can weigh."""
    straight: ClassVar[bool] = False
    """Whether the mathematics holds on the linear path only."""
    draws_chance: ClassVar[bool] = False
    """Whether this wants a uniform random number per row, `draw.chance`."""
    draws_noise: ClassVar[int] = 0
    """How many further samples of noise this wants, `draw.noise`."""
    shares_times: ClassVar[bool] = False
    """Whether this compares rows that share their times, `draw.together` of them."""
    negative: ClassVar[bool] = False
    """Whether rows at negative times, which hold the model's own samples, mean something to this."""
    backward: ClassVar[bool] = False
    """Whether this asks the network at negative times, whatever the law of (t, r) draws."""
    notes: ClassVar[tuple[str, ...]] = ()
    """Parts of the loss that the log shows beside their sum, as NAME.part; `loss` hands them to `passes.note`."""

    weight: Annotated[Number, within(0.0)] = Constant()
    """Factor on this term (beta and 1 - beta in DuMo Eq. 9): a number or a schedule."""
    uncertainty: bool = False
    """Learn the term's log-variance s(t, r) with a head of its own: the term becomes exp(-s) loss + s."""
    rows: Literal["all", "equal", "rest"] | None = None
    """Rows of the batch that this scores: all, those with r = t, or the rest. Unset: all, unless its head serves
    objectives of several horizons; then each scores the rows that are of its kind (a mixture, DuMo Eq. 5)."""

    @property
    @abc.abstractmethod
    def trains(self) -> Mapping[str, Horizon]:
        """The heads this objective trains and the horizon that it gives them."""

    @property
    def groups(self) -> frozenset[str]:
        """Groups of rows, `draw.groups`, that this asks the law of (t, r) for; parts of a batch have equal shares."""
        return frozenset()

    @property
    def scores_all(self) -> bool:
        """Whether this has to score every row of the batch: rows have their places, or some stand for all."""
        return bool(self.groups)

    @property
    def scalars(self) -> Mapping[str, str]:
        """Kinds of the scalar heads that this trains besides, by name; Passes.judge asks them.

        A judgement needs the whole network on every device, and no recomputation.
        """
        return {}

    @property
    def networks(self) -> frozenset[Weights]:
        """Networks that the gradient-free passes use besides the live one."""
        return frozenset()

    @property
    def asks_teacher(self) -> Mapping[str, Horizon]:
        """Heads that a frozen network is asked for, and their horizons; empty where it is asked for its velocity."""
        return self.trains if "frozen" in self.networks else {}

    @property
    def without_data(self) -> bool:
        """Whether the model's own samples stand in the place of all data: only a teacher then tells of the data."""
        return False

    @property
    def guides(self) -> bool:
        """Whether this guides jumps on the finest step itself: needs such rows (draw.gap) and the null label."""
        return False

    @property
    def beside(self) -> frozenset[str]:
        """Heads whose exact derivative is taken beside the forward with gradients, which is then recorded."""
        return frozenset()

    @property
    def precise(self) -> bool:
        """Whether some passes have to run in float32."""
        return False

    @property
    def low_refusal(self) -> str | None:
        """Why this cannot run where the forward with gradients is in low precision (what to type instead), or None."""
        return None

    @property
    def asks_velocity(self) -> bool:
        """Whether the targets need the model's own velocity, hence a head that gives it."""
        return False

    def refusal(self, *, guided: bool) -> str | None:
        """Why these settings make no sense in this run (with what to type instead), or None."""
        return None

    def prepare(self, draw: Draw, passes: Passes) -> Draw:
        """The draw before the forward with gradients, itself without: rows may get the model's own samples as data."""
        return draw

    @abc.abstractmethod
    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Loss of every sample, shape (batch,), from the one forward `out` at (x_t, t, r, y) of the draw."""


class Regression(Objective, abc.ABC):
    """Regress one head onto a target that carries no gradient: nearly every objective of flow maps."""

    horizon: ClassVar[Horizon] = "instant"
    """Where the trained average velocity ends: instant (r = t), data (r = 0) or interval (r given)."""
    at_draw: ClassVar[bool] = True
    """Whether `target` is about the draw's own point."""

    head: str
    """Head that this objective trains."""
    distance: Annotated[Distance, Pick(DISTANCES, "mse")] = MSE()
    """Distance between prediction and target."""

    @property
    def trains(self) -> Mapping[str, Horizon]:
        """One head, with the class's horizon."""
        return {self.head: self.horizon}

    def ask(
        self, passes: Passes, point: Point, *, weights: Weights = "online", precise: bool = False, skip: int = 0
    ) -> Samples:
        """The head at a point, without gradients, shaped like x_t; the first `skip` rows are zero, and cost nothing."""
        if skip >= len(point.t):
            return torch.zeros_like(point.x_t)
        found = passes(point, weights=weights, precise=precise, skip=skip)[0][self.head]
        return torch.cat([torch.zeros_like(point.x_t[:skip]), found]) if skip else found

    @abc.abstractmethod
    def target(self, draw: Draw, passes: Passes) -> Samples:
        """What the head should say at (x_t, t, r), shaped like x_t; called without gradients."""

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """distance(prediction, target), sample by sample."""
        with torch.no_grad():
            target = self.target(draw, passes)
        prediction = out[self.head]
        if target.shape != prediction.shape or not target.is_floating_point():
            got, wanted = f"{tuple(target.shape)} {target.dtype}", f"{tuple(prediction.shape)} {prediction.dtype}"
            raise ValueError(f"{type(self).__name__}.target gave {got}, head {self.head!r} is {wanted}")
        return self.distance(prediction, target)
