"""Settings as controls of a page: every field of a sampler becomes a slider, a choice or a line of text."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from genobj.config.base import Config, Pick
from genobj.config.load import leaves, parse_override
from genobj.parts import GRIDS, SAMPLERS
from genobj.registry import BrokenPlugin, Registry
from genobj.samplers.base import Sampler
from genobj.types import Horizon

WIDE = 8
"""A slider without an upper bound ends at so many times the default."""
NO_HEAD = "auto"
"""What a choice of heads calls the sampler's own choice."""
_BOUNDS: dict[type, tuple[str]] = {Ge: ("ge",), Gt: ("gt",), Le: ("le",), Lt: ("lt",)}
Key = tuple[str, str]
"""Group and name of a control: ("", "guidance"), ("restart", "kappa"), ("grid karras", "rho")."""


@dataclass(frozen=True)
class Knob:
    """One setting as a page shows it: a slider where there is `high`, a choice where there are `choices`, else text."""

    key: Key
    help: str
    value: Any
    """What it shows at first; lists as text."""
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float | None = None
    step: float = 1.0


def offered(horizons: Mapping[str, Horizon]) -> dict[str, Sampler]:
    """The samplers that these heads can answer, by name, with their usual settings."""
    return {name: part for name, part in _usual(SAMPLERS) if part.refusal(horizons) is None}


def grids() -> dict[str, Config]:
    """The time grids by name, with their usual settings."""
    return dict(_usual(GRIDS))


def _usual(registry: Registry[Any]) -> Iterator[tuple[str, Any]]:
    """Name and default of every part; a broken plugin, or one without defaults, is nothing to play with."""
    for name in registry.names():
        try:
            yield name, registry.get(name)()
        except (BrokenPlugin, ValueError):
            continue


def shared(own: Sampler, horizons: Mapping[str, Horizon], largest: float) -> list[Knob]:
    """Controls of what every sampler has; the number of steps is the page's nfe.

    own: whose settings they show at first; largest: the scale up to which the model is told guidance, 0 if it is not.
    """
    made = {name: knob(Sampler, name, own.model_dump(mode="json")[name]) for name in Sampler.model_fields}
    free = () if own.head else (NO_HEAD,)  # a run's own head can be changed, but not be left out
    made["head"] = replace(made["head"], value=own.head or NO_HEAD, choices=(*free, *horizons))
    if largest:
        made["guidance"] = replace(made["guidance"], low=1.0, high=largest)
    return [one for name, one in made.items() if name != "steps"]


def extra(part: Config, group: str, known: type[Config] = Config, start: Config | None = None) -> list[Knob]:
    """Controls of what a part has besides the fields of `known`; start: whose settings they show at first."""
    tree = (part if start is None else start).model_dump(mode="json")
    return [knob(type(part), name, tree[name], group) for name in tree if name not in known.model_fields]


def knob(cls: type[Config], name: str, value: Any, group: str = "") -> Knob:
    """The control of one field, which shows `value` (as JSON has it) at first."""
    field = cls.model_fields[name]
    made = Knob((group, name), " ".join((field.description or "").split()), value)
    picked = next((one for one in field.metadata if isinstance(one, Pick)), None)
    if picked is not None and isinstance(value, dict):
        return replace(made, value=value["kind"], choices=tuple(name for name, _ in _usual(picked.registry)))
    if field.annotation is bool:
        return replace(made, choices=(True, False))
    if get_origin(field.annotation) is Literal:
        return replace(made, choices=get_args(field.annotation))
    if field.annotation in (int, float):
        return _slider(made, field, float(value), whole=field.annotation is int)
    shown = "" if value is None else json.dumps(value)
    return replace(made, value=value if isinstance(value, str) else shown)


def _slider(made: Knob, field: FieldInfo, value: float, *, whole: bool) -> Knob:
    """Ends and step of a slider from a field's bounds, so that its first value lies on a step."""
    bounds = {name: float(getattr(one, name)) for one in field.metadata for name in _BOUNDS.get(type(one), ())}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    size = abs(float(field.default)) if isinstance(field.default, int | float) else abs(value)
    wide = max(WIDE * size, value) or 1.0
    step = (size or wide / 100) / 10 if low is None or high is None else (high - low) / 100
    step = 1.0 if whole else 10.0 ** math.floor(math.log10(step))
    while not whole and not math.isclose(value / step, round(value / step), abs_tol=1e-6):
        step /= 10
    step = float(f"{step:.1g}")
    low = min(0.0, WIDE * value) if low is None else low + step * ("gt" in bounds)
    high = wide if high is None else high - step * ("lt" in bounds)
    return replace(made, low=low, high=high, step=step, value=round(value) if whole else value)


def read(values: Mapping[Key, Any], base: Sampler, sampler: str | None) -> dict[str, Any]:
    """What controls change in a sampler's settings, as a table of JSON; empty if they say what `base` says.

    sampler: the name of `base`, whose own controls count; None for the model's usual one, which has none.
    """
    tree, table = base.model_dump(mode="json"), dict[str, Any]()
    for (group, name), shown in values.items():
        if group in ("", sampler):
            usual = tree[name]["kind"] if isinstance(tree[name], dict) else tree[name]  # of a part of its own
            value = None if name == "head" and shown == NO_HEAD else _value(shown, usual)
            if name != "grid" and value != usual:
                table[name] = value
    kind = values.get(("", "grid"), tree["grid"]["kind"])
    usual = GRIDS.get(kind)().model_dump(mode="json")
    inner = {name: _value(shown, usual[name]) for (group, name), shown in values.items() if group == f"grid {kind}"}
    if {"kind": kind, **usual, **inner} != tree["grid"]:
        table["grid"] = {"kind": kind} | {name: value for name, value in inner.items() if value != usual[name]}
    return {name: value for name, value in table.items() if value is not None}


def _value(shown: Any, usual: Any) -> Any:
    """What a control says: digits that a slider's arithmetic left behind are dropped, text is read as TOML."""
    if isinstance(shown, str) and not isinstance(usual, str):
        return parse_override(f"value={shown}")[1] if shown.strip() else None
    return float(f"{shown:.9g}") if isinstance(shown, float) else shown


def words(table: Mapping[str, Any]) -> list[str]:
    """Settings as words of the command line: kappa=0.5, grid=karras, grid.rho=5."""
    return [f"{path.removesuffix('.kind')}={literal(value)}" for path, value in leaves(table)]


def literal(value: Any) -> str:
    """A value as the command line reads it; text stays bare where it is read back as the same text."""
    bare = isinstance(value, str) and parse_override(f"value={value}")[1] == value
    return value if bare else json.dumps(value)
