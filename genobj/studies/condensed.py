"""What differs between many variants, in few columns: parts by their names in one, settings that few have left out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genobj.config.load import leaves
from genobj.studies.axes import DASH
from genobj.studies.contrast import Grid
from genobj.studies.results import Results

WIDE = 8
"""Columns up to which all are shown."""
RARE = 0.1
"""Share of the variants up to which a setting that no others have is left out; that of a single variant always is."""
PARTS = ("objectives", "heads")
"""Tables of the settings that hold parts by name."""


class Condensed(NamedTuple):
    """A table with a row for every variant."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    left_out: int = 0
    """Settings that are not told."""


def condensed(results: Results, whole: Grid) -> Condensed:
    """The table of what differs. whole: rows are variants, in the order of the results; others stay as they are."""
    if len(whole.columns) <= WIDE or len(whole.rows) != len(results.variants):
        return Condensed(*whole)
    columns = {name: [values[i] for _, values in whole.rows] for i, name in enumerate(whole.columns)}
    parts = _parts(results)
    told = {name for name, values in columns.items() if _is_told(name, values, parts)}
    most = max(1, int(RARE * len(whole.rows)))
    often = {
        name: values
        for name, values in columns.items()
        if name not in told and sum(value != DASH for value in values) > most
    }
    kept = parts | often
    rows = [(label, [values[i] for values in kept.values()]) for i, (label, _) in enumerate(whole.rows)]
    return Condensed([*kept], rows, len(columns) - len(told) - len(often))


def _parts(results: Results) -> dict[str, list[str]]:
    """The names of every variant's objectives and heads: 'fm + cm'; those that are not the same in all."""
    found = {table: [_names(variant.settings, table) for variant in results.variants] for table in PARTS}
    return {table: names for table, names in found.items() if len(set(names)) > 1}


def _names(settings: Mapping[str, Any], table: str) -> str:
    """Names of the parts in a table of settings, in its order."""
    known = dict.fromkeys(key.split(".")[1] for key, _ in leaves(settings) if key.startswith(f"{table}."))
    return " + ".join(known) or DASH


def _is_told(name: str, values: Sequence[str], parts: Mapping[str, Sequence[str]]) -> bool:
    """Whether a column says no more than that a part is there."""
    table, _, part = name.partition(".")
    return table in parts and "." not in part and len({*values} - {DASH}) == 1
