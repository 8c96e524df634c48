"""From a run folder to a model that samples."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from genobj.config.base import problems
from genobj.model import Model, ModelSettings
from genobj.training import checkpoint
from genobj.training.folder import write
from genobj.training.state import State

SETTINGS = "model.json"


class Loaded(NamedTuple):
    """A network in evaluation mode and the settings it was built from."""

    model: Model
    settings: ModelSettings
    weights: str
    """Which weights these are: live, or ema_<decay>."""


def describe(folder: Path, settings: ModelSettings, decays: tuple[float, ...]) -> None:
    """Write model.json: what rebuilds the network."""
    tree = {"genobj": 1, "averages": list(decays), "model": settings.model_dump(mode="json", exclude_none=True)}
    write(folder / SETTINGS, json.dumps(tree, indent=1) + "\n")


def export(folder: Path, state: State) -> None:
    """Write model.safetensors and one file per average into a finished run's folder."""
    for name, tensors in state.weights().items():
        temporary = folder / f".{name}.safetensors"
        checkpoint.write(temporary, tensors)
        temporary.replace(folder / f"{name}.safetensors")


def load(folder: Path, weights: str = "ema", device: torch.device | str = "cpu") -> Loaded:
    """The model of a run folder: of the finished run, else of its newest checkpoint.

    weights: "ema" (the first average), "live", or a decay such as "0.999". Raises ValueError that names what is
    missing, damaged or does not fit.
    """
    settings, decays = _settings(folder)
    names = {"live": "model", "ema": f"ema_{decays[0]:g}"} | {f"{d:g}": f"ema_{d:g}" for d in decays}
    if weights not in names:
        raise ValueError(f"{folder} has no weights {weights!r}; choose from {', '.join(names)}")
    file = f"{names[weights]}.safetensors"
    where = folder if (folder / file).exists() else checkpoint.newest(folder)
    if where is None:
        raise ValueError(f"{folder} has no weights yet: no checkpoint was written before the run stopped")
    try:
        model = settings.build()
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS} does not describe a model: {error}") from None
    checkpoint.fill(where / file, model.state_dict())
    return Loaded(model.to(device).eval().requires_grad_(False), settings, names[weights].replace("model", "live"))


def _settings(folder: Path) -> tuple[ModelSettings, list[float]]:
    try:
        tree: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        settings, decays = ModelSettings.model_validate(tree["model"]), [float(decay) for decay in tree["averages"]]
        if not decays:
            raise ValueError("it names no average")
        return settings, decays
    except FileNotFoundError:
        if not folder.exists():
            raise ValueError(f"there is no {folder} here; type a run's folder (`genobj train` makes runs)") from None
        raise ValueError(f"{folder} is not a run folder: it has no {SETTINGS}") from None
    except ValidationError as error:
        where, message = next(problems(error))
        raise ValueError(f"{folder / SETTINGS} does not describe a model: {where}: {message}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder / SETTINGS} is damaged: {error}") from None
