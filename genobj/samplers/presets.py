"""Published settings of samplers under names of their own: one table, which imports no torch.

`ect-2` stands for the sampler restart with the settings below; `restart-ect-2` is its name in full. Other settings may
be changed as ever. Noise levels sigma of the papers stand here as such: the path says at which time it has them. A walk
starts at noise_scale(t) z there, which is the papers' sigma z at the size of the state.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from genobj.registry import UnknownName

LEVELS = 7
"""The finest steps of Shortcut models are 2^-7."""


class Preset(NamedTuple):
    """A sampler with settings.

    part: registered name of the sampler; nfe: unguided evaluations of a walk with these settings; title: a line for
    `genobj list`; settings: what differs from the sampler's defaults, as in a recipe.
    """

    part: str
    nfe: int
    title: str
    settings: Mapping[str, Any]


def _levels(*sigmas: float) -> dict[str, Any]:
    """Steps that start at these noise levels."""
    return {"steps": len(sigmas), "grid": {"kind": "listed", "sigmas": list(sigmas)}}


def _warped(first: float, last: float, a: float = 1.0, b: float = 1.0, c: float = 1.0) -> dict[str, Any]:
    """UCGM's grid with these gaps and exponents."""
    return {"kind": "kumaraswamy", "gaps": [first, last], "a": a, "b": b, "c": c}


def _shortcut(level: int) -> Preset:
    grid = {"steps": 2**level, "grid": {"kind": "levels"}}
    return Preset("flow_map", 2**level, f"Shortcut models: jumps of 2^-{level} (arXiv 2410.12557)", grid)


TABLE: Mapping[str, Preset] = {
    "ect-1": Preset("restart", 1, "ECT: one jump from sigma = 80 (arXiv 2406.14548)", _levels(80.0)),
    "ect-2": Preset("restart", 2, "ECT: two jumps, from sigma = 80 and 0.821 (arXiv 2406.14548)", _levels(80.0, 0.821)),
    "ict-1": Preset("restart", 1, "iCT: one jump from sigma = 80 (arXiv 2310.14189)", _levels(80.0)),
    "ict-2": Preset(
        "restart",
        2,
        "iCT: two jumps, from sigma = 80 and 0.821, with sigma_min = 0.002 (arXiv 2310.14189)",
        _levels(80.0, 0.821) | {"sigma_min": 0.002},
    ),
    **{f"shortcut-{level}": _shortcut(level) for level in range(LEVELS + 1)},
    "ucgm-few": Preset(
        "unified",
        2,
        "UCGM's few-step models: two jumps with fresh noise (arXiv 2505.07447)",
        {"style": "few", "steps": 2, "kappa": 1.0, "grid": _warped(0.001, 0.3)},
    ),
    "ucgm-multi": Preset(
        "unified",
        60,
        "UCGM's multi-step models: 60 extrapolated steps (arXiv 2505.07447)",
        {
            "style": "mul",
            "steps": 60,
            "kappa": 0.0,
            "extrapolation": 0.21,
            "grid": _warped(0.001, 0.001, 1.17, 0.8, 1.1),
        },
    ),
    "twinflow-few": Preset(
        "unified",
        2,
        "TwinFlow: two jumps to data with fresh noise (arXiv 2512.05150)",
        {"style": "few", "steps": 2, "kappa": 1.0, "grid": _warped(0.001, 0.7)},
    ),
    "twinflow-mul": Preset(
        "unified",
        30,
        "TwinFlow: 30 steps along the velocity (arXiv 2512.05150)",
        {"style": "mul", "steps": 30, "kappa": 0.0, "grid": _warped(0.001, 0.0, 1.17, 0.8, 1.1)},
    ),
    "twinflow-any": Preset(
        "unified",
        4,
        "TwinFlow: four jumps from time to time (arXiv 2512.05150)",
        {"style": "any", "steps": 4, "kappa": 0.0, "grid": _warped(0.001, 0.5)},
    ),
}


def settings_of(part: str, name: str) -> dict[str, Any]:
    """Settings of this sampler's preset; UnknownName with those it has."""
    preset = TABLE.get(name)
    if preset is None or preset.part != part:
        known = ", ".join(f"{part}-{other}" for other in TABLE if TABLE[other].part == part)
        raise UnknownName(f"unknown preset {name!r} of sampler {part}; {f'type {known}' if known else 'it has none'}.")
    return dict(preset.settings)


def nfe_of(name: str | None) -> int | None:
    """Evaluations that a preset takes, as in ect-2 or restart-ect-2; None for other names, which settle none."""
    found = next((preset for short, preset in TABLE.items() if name in (short, f"{preset.part}-{short}")), None)
    return None if found is None else found.nfe
