"""Training-time guidance changes the target velocity before any objective sees it (DuMo Alg. 1, line 9).

Every kind here is one formula: with the conditional and unconditional velocities v_c and v_u of some network,

    v_g = omega v_t + kappa v_c + (1 - omega - kappa) v_u

whose fixed point is classifier-free guidance of scale omega / (1 - kappa). DuMo: omega = 1, kappa = zeta. iMF:
omega = 1, kappa = 1 - 1/w. SoFlow with scale w and mix m: omega = m w, kappa = 1 - m.
"""

import abc
from typing import Annotated, Literal

import torch
from jaxtyping import Bool
from pydantic import Field, field_validator
from torch import Tensor

from genobj.config.base import Config
from genobj.types import Draw, Guide, Passes, Point, Samples, TimeTensor, Weights, over

Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]
TINY = 1e-12
"""Factors below this are zero but for rounding."""


class Guidance(Config, abc.ABC):
    """Subclasses say what the guided velocity is; where it holds is the same for all."""

    interval: Interval = (0.0, 1.0)
    """Times within which samples are guided."""
    ends: Literal["closed", "open"] = "closed"
    """Whether the ends of the interval belong to it (AlphaFlow: open)."""
    null_within: Interval = (0.0, 1.0)
    """Times within which the unconditional velocity has the null label; outside it has the sample's (FACM)."""
    dropped: Literal["plain", "guided"] = "plain"
    """Target of rows whose label was dropped: the plain velocity, or the formula with the null label (AlphaFlow)."""

    @field_validator("interval", "null_within")
    @classmethod
    def _ordered(cls, interval: tuple[float, float], info: object) -> tuple[float, float]:
        if interval[0] > interval[1]:
            name = getattr(info, "field_name", "interval")
            raise ValueError(f"{name} runs from low to high, got {list(interval)}; type [{interval[1]}, {interval[0]}]")
        return interval

    @property
    @abc.abstractmethod
    def active(self) -> bool:
        """Whether this changes anything; an inactive guidance costs no pass."""

    @property
    def networks(self) -> frozenset[Weights]:
        """Networks that this uses besides the live one."""
        return frozenset()

    @property
    def needs_labels(self) -> bool:
        """Whether the guided velocity contains the unconditional one; if not, it exists for data without labels too."""
        return True

    @property
    def distils(self) -> bool:
        """Whether the guided velocity has nothing of the data's."""
        return False

    @property
    def feeds(self) -> float:
        """Largest scale that the network is told, with an interval, as draws of `inputs`; 0: it is told nothing."""
        return 0.0

    def refusal(self, *, label_drop: float) -> str | None:
        """Why this cannot guide a run that drops this share of labels (with what to type instead), or None."""
        if label_drop:
            return None
        return "guidance needs the null label, which label_drop=0 never trains; type label_drop=0.1"

    @abc.abstractmethod
    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """Guided velocity of every sample; draw.null are the labels of no condition."""

    def inputs(self, t: TimeTensor, r: TimeTensor, generator: torch.Generator) -> tuple[Guide, Guide | None]:
        """What the network is fed in the main forward, and when it is asked for its velocity."""
        raise NotImplementedError("this guidance feeds nothing")

    def covers(self, t: TimeTensor) -> Bool[Tensor, " batch"]:
        """Rows whose time lies in the interval."""
        low, high = self.interval
        return (t > low) & (t < high) if self.ends == "open" else (t >= low) & (t <= high)

    def unconditional(self, draw: Draw, passes: Passes, weights: Weights) -> Samples:
        """v_u: the velocity with the null label (within `null_within`)."""
        return passes.velocity(_point(draw, weights)._replace(y=self._no_label(draw, passes)), weights)

    def conditional(self, draw: Draw, passes: Passes, weights: Weights) -> Samples:
        """v_c: the velocity with the labels that are fed."""
        return passes.velocity(_point(draw, weights), weights, answered=0 if draw.gap else draw.equal)

    def mixed(
        self,
        draw: Draw,
        passes: Passes,
        omega: float | TimeTensor,
        kappa: float,
        conditional: Weights = "online",
        unconditional: Weights = "online",
    ) -> Samples:
        """The formula above; a velocity whose factor is zero costs no pass."""
        rest = 1 - omega - kappa
        v = _times(omega, draw.v_path)
        if kappa:
            v = v + kappa * self.conditional(draw, passes, conditional)
        if isinstance(rest, Tensor) or abs(rest) > TINY:
            v = v + _times(rest, self.unconditional(draw, passes, unconditional))
        return v

    def _no_label(self, draw: Draw, passes: Passes) -> Tensor:
        null, y = draw.null, draw.y
        assert null is not None, "guidance runs on labelled draws"
        low, high = self.null_within
        if (low, high) == (0.0, 1.0) or y is None:
            return null
        return passes.remember(
            ("no label", low, high), lambda: torch.where((draw.t >= low) & (draw.t <= high), null, y), null, y
        )


def _point(draw: Draw, weights: Weights) -> Point:
    """Where a network is asked for its velocity; a teacher is told no guidance."""
    return draw.velocity_point._replace(g=None) if weights == "frozen" else draw.velocity_point


def _times(factor: float | TimeTensor, v: Samples) -> Samples:
    return (over(factor, v) if isinstance(factor, Tensor) else factor) * v
