"""Measured numbers with everything needed to read them, and whether they may be compared."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from genobj.config.base import problems

T = TypeVar("T")
NAMES = frozenset({"reference.file", "reference.seed", "reference.assumed"})
"""Entries of a protocol that may differ: the same file under another name, another draw of the same law."""


@dataclass(frozen=True)
class Record:
    """One measured number and everything needed to read it."""

    metric: str
    """Name of the metric in the settings; with .precision and the like where it has several numbers."""
    kind: str
    """Its registered name."""
    value: float
    floor: float | None
    """The same metric between other real data (`floor_n` of them) and the reference, for scale; None with files."""
    floor_n: int
    nfe: int
    sampler: str
    head: str
    """Head that the sampler followed."""
    settings: dict[str, Any]
    """Settings of the sampler that are not its defaults."""
    weights: str
    n: int
    reference: int | None
    """Real samples compared with; None where a file does not say, or nothing is compared."""
    seed: int
    higher_is_better: bool
    title: str = ""
    """Heading in tables."""
    factor: float = 1.0
    """What tables multiply the value with."""
    protocol: dict[str, Any] | None = None
    """What two values must have in common to be compared: metric, extractor with its hash, rounding, shape, number of
    samples, reference with its hash."""
    config: str = ""
    """Hash of the settings that the run learnt with, as in its folder's name."""
    genobj: str = ""
    """Version of genobj."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def read_records(file: Path) -> list[Record]:
    """The records of a results.json or of `genobj evaluate --out`. ValueError says what is wrong."""
    advice = f"write one: genobj evaluate RUN --out {file}"
    return parsed(file, TypeAdapter(list[Record]).validate_python, "records of genobj evaluate", advice)


def parsed(file: Path, validate: Callable[[Any], T], what: str, advice: str) -> T:
    """A JSON file, validated. ValueError says that it does not hold `what`, or is not there with `advice`."""
    try:
        return validate(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"there is no {file}; {advice}") from None
    except ValidationError as error:
        where, message = next(problems(error))
        raise ValueError(f"{file} holds no {what}: {where}: {message}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{file} holds no {what}: {error}") from None


def comparable(records: Iterable[Record]) -> None:
    """ValueError, naming the difference, if values of one metric were measured in ways that do not compare."""
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(record.metric, record)
        if difference := _difference(other, record):
            raise ValueError(f"{record.metric}: these values do not compare, {difference}")


def _difference(one: Record, other: Record) -> str:
    if one.protocol is None or other.protocol is None:
        return "since one of them does not say how it was measured; measure it anew with genobj evaluate"
    mine, theirs = (dict(_leaves(record.protocol or {})) for record in (one, other))
    for key in sorted(mine.keys() | theirs.keys()):
        if key not in NAMES and mine.get(key) != theirs.get(key):
            return f"since {key} is {mine.get(key)!r} in one and {theirs.get(key)!r} in the other"
    return ""


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
