"""The settings of a study's variants: what differs between them, in few rows, and what they share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from genobj.config.load import leaves
from genobj.studies.axes import DASH
from genobj.studies.results import Results
from genobj.studies.summary import plain

TALL = 6
"""Variants up to which each has a column of its own; more of them have rows."""
UNTOLD = {"name", "seed", "expected"}
"""Settings that make no variant another one."""
Tree = Mapping[str, Any]
"""Settings of a variant by their dotted names."""


class Grid(NamedTuple):
    """A table of words."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def differing(results: Results, names: Sequence[str]) -> Grid:
    """Settings that are not the same in all variants, the study's axes first; names: what variants are called.

    A part that some variants lack is one row with its kind, and further ones for what differs where it is there.
    """
    trees = _trees(results)
    axes = set(_axes(results))
    keys = sorted(dict.fromkeys(key for tree in trees for key in tree), key=lambda key: (key not in axes, key))
    found = list(dict.fromkeys(row for key in keys if key not in UNTOLD for row in _rows(trees, key)))
    shown = [(row, [_told(tree, row) for tree in trees]) for row in found]
    if len(names) <= TALL:
        return Grid(names, shown)
    return Grid(found, [(name, [values[i] for _, values in shown]) for i, name in enumerate(names)] if found else [])


def common(results: Results) -> list[tuple[str, str]]:
    """Settings that all variants share, in words."""
    first, *others = _trees(results) or [{}]
    alike = {key: value for key, value in first.items() if all(repr(o.get(key)) == repr(value) for o in others)}
    return [(key, plain(value)) for key, value in alike.items() if key not in UNTOLD]


def _trees(results: Results) -> list[Tree]:
    return [dict(leaves(variant.settings)) for variant in results.variants]


def _rows(trees: Sequence[Tree], key: str) -> Iterator[str]:
    """Names of the rows that a setting asks for: of parts around it that are not everywhere, then its own."""
    having, words, outer = trees, key.split("."), ""
    for i in range(1, len(words) + 1):
        part = ".".join(words[:i])
        fewer = [tree for tree in having if part in tree or any(name.startswith(f"{part}.") for name in tree)]
        if len(fewer) < len(having):
            having, outer = fewer, part
            yield part
    differs = len({repr(tree.get(key)) for tree in having}) > 1
    if differs and outer != key and key != f"{outer}.kind":
        yield key


def _told(tree: Tree, row: str) -> str:
    """A setting, or the kind of a part; a dash where there is none."""
    value = tree.get(row, tree.get(f"{row}.kind"))
    there = value is not None or any(name.startswith(f"{row}.") for name in tree)
    return DASH if not there else "there" if value is None else plain(value)


def _axes(results: Results) -> Iterator[str]:
    """Settings that the study's axes change."""
    for change in results.study.get("variants", {}).values():
        for axis in change.get("axes", {}).values():
            yield from (*axis.get("settings", ()), *axis.get("complement", ()))
    points = {axis for variant in results.variants for axis in variant.point}
    for tree in _trees(results):
        yield from (key for key in tree if any(key == axis or key.endswith(f".{axis}") for axis in points))
