"""Generative objectives, composed: one backbone, N named heads, objectives that share one forward."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genobj.experiment import Experiment
    from genobj.hub import load
    from genobj.objectives.base import Objective, Regression
    from genobj.run import Run
    from genobj.sharing.pretrained import Pretrained, from_pretrained
    from genobj.types import Draw, Passes, Point, over

__version__ = "0.1.0"
__all__ = [
    "Draw",
    "Experiment",
    "Objective",
    "Passes",
    "Point",
    "Pretrained",
    "Regression",
    "Run",
    "from_pretrained",
    "load",
    "over",
]

_HOMES = {
    "Experiment": "experiment",
    "load": "hub",
    "Objective": "objectives.base",
    "Regression": "objectives.base",
    "Run": "run",
    "Pretrained": "sharing.pretrained",
    "from_pretrained": "sharing.pretrained",
    "Draw": "types",
    "Passes": "types",
    "Point": "types",
    "over": "types",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: `import genobj` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'genobj' has no attribute {name!r}")
    return getattr(importlib.import_module(f"genobj.{_HOMES[name]}"), name)
