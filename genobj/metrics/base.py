"""Metrics compare generated samples with held-out ones."""

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from genobj.config.base import Config
from genobj.data.base import Batch


class Metric(Config, abc.ABC):
    """Subclasses write one number; smaller is better unless `higher_is_better`."""

    title: ClassVar[str]
    """Heading in tables, with the unit or factor if there is one."""
    parts: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Headings of further numbers, by the names under which a metric of several numbers gives them."""
    higher_is_better: ClassVar[bool] = False
    """Direction, for tables and verdicts."""
    factor: ClassVar[float] = 1.0
    """What tables multiply the value with (1000 for MMD^2)."""

    def refusal(self, shape: tuple[int, ...], classes: int) -> str | None:
        """Why this metric cannot judge such data, or None."""
        return None

    @abc.abstractmethod
    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """The distance of `samples` from `reference`; `seed` drives what is random in the metric itself."""
