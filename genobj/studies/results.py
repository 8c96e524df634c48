"""What came out of a study: variants, cells (one variant with one seed), and their scores. results.json, as types."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from genobj.metrics.records import Record, parsed
from genobj.training.folder import write

Value = bool | int | float | str
Point = dict[str, Value]
"""Place of a variant on its group's axes: {"beta": 0.5}; empty where it has none."""
CellState = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class Variant:
    """One row of the comparison."""

    name: str
    """Unique, as in dumo[beta=0.5]."""
    group: str
    """Key of the variant in the study's file: all points of its axes share it."""
    title: str
    point: Point = field(default_factory=dict)
    command: str = ""
    """What trains it again, with seed 0."""
    settings: dict[str, Any] = field(default_factory=dict)
    """All settings, resolved, of the first seed."""
    passes: float = 0.0
    """Network evaluations a training sample and step: with gradients and without, one each."""
    parameters: int = 0


@dataclass(frozen=True)
class Look:
    """Scores during training."""

    step: int
    seen: int
    seconds: float
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Cell:
    """One variant with one seed (of a study of speed: one variant in one round)."""

    variant: str
    seed: int
    state: CellState
    folder: str = ""
    """The run's folder."""
    error: str = ""
    """What went wrong, in a sentence."""
    steps: int = 0
    seen: int = 0
    """Training samples."""
    passes: float = 0.0
    """Network evaluations of training samples in all."""
    seconds: float = 0.0
    """Time of training alone."""
    records: tuple[Record, ...] = ()
    curve: tuple[Look, ...] = ()
    diverged: bool = False
    """Whether training itself failed: that is a result, too."""


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured."""

    says: str
    source: str
    verdict: Literal["agrees", "disagrees", "inconclusive"]
    measured: str
    """Sentence with the numbers."""


@dataclass(frozen=True)
class Results:
    """A study and all that was measured of it."""

    study: dict[str, Any]
    """The resolved study: name, title, question, seeds, budget, nfe, baseline, ... see study.Study."""
    scale: str
    variants: tuple[Variant, ...]
    cells: tuple[Cell, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    genobj: str = ""
    """Version of genobj."""

    def variant(self, name: str) -> Variant:
        """The variant of this name."""
        return next(variant for variant in self.variants if variant.name == name)

    def group(self, name: str) -> list[Variant]:
        """The variants of a group, in their order."""
        return [variant for variant in self.variants if variant.group == name]

    def values(self, variant: str, metric: str, nfe: int) -> dict[int, float]:
        """Value by seed of the finished cells, in the metric's own unit; a value may be nan or infinite."""
        return {
            cell.seed: record.value
            for cell in self.cells
            if cell.variant == variant and cell.state == "done"
            for record in cell.records
            if (record.metric, record.nfe) == (metric, nfe)
        }

    def measures(self) -> list[tuple[str, int]]:
        """Every (metric, nfe) that some cell has, in the order of their first appearance."""
        return list(dict.fromkeys((r.metric, r.nfe) for cell in self.cells for r in cell.records))

    def about(self, metric: str) -> Record:
        """A record of this metric, for its title, factor, direction and floor."""
        return next(record for cell in self.cells for record in cell.records if record.metric == metric)

    def failed(self) -> list[Cell]:
        """Cells that came to nothing."""
        return [cell for cell in self.cells if cell.state == "failed"]

    def save(self, file: Path) -> None:
        """Write results.json, whole or not at all; what is not finite is null."""
        write(file, json.dumps(_plain(asdict(self)), indent=1) + "\n")


_RESULTS = TypeAdapter(Results)


def read(file: Path) -> Results:
    """The results in a file. ValueError says what is wrong."""
    advice = "`genobj compare` and `genobj reproduce` write one"
    return parsed(file, lambda tree: _RESULTS.validate_python(_numbers(tree)), "results of a study", advice)


def _plain(value: Any) -> Any:
    """JSON has no word for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _numbers(tree: Any) -> Any:
    """Null values of records are nan again."""
    if isinstance(tree, Mapping):
        return {k: math.nan if (k, v) == ("value", None) else _numbers(v) for k, v in tree.items()}
    return [_numbers(inner) for inner in tree] if isinstance(tree, list) else tree
