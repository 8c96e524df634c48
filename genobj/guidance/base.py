"""Training-time guidance changes the target velocity before any objective sees it (DuMo Alg. 1, line 9)."""

import abc
from typing import Annotated

from pydantic import Field, field_validator

from genobj.config.base import Config
from genobj.types import Draw, Passes, Samples, Weights

Share = Annotated[float, Field(ge=0, le=1)]


class Guidance(Config, abc.ABC):
    """Subclasses say what the guided velocity is; where it holds is the same for all."""

    interval: tuple[Share, Share] = (0.0, 1.0)
    """Times (closed) within which samples are guided."""

    @field_validator("interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError(
                f"interval runs from low to high, got {list(interval)}; type [{interval[1]}, {interval[0]}]"
            )
        return interval

    @property
    @abc.abstractmethod
    def active(self) -> bool:
        """Whether this changes anything; an inactive guidance costs no pass."""

    @property
    def networks(self) -> frozenset[Weights]:
        """Networks that this uses besides the live one."""
        return frozenset()

    def refusal(self, *, label_drop: float) -> str | None:
        """Why this cannot guide a run that drops this share of labels (with what to type instead), or None."""
        return None

    @abc.abstractmethod
    def velocity(self, draw: Draw, passes: Passes, null: int) -> Samples:
        """Guided velocity of every sample; `null` is the label of no condition."""
