"""From a run folder to a model that samples."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from genobj.config.base import problems
from genobj.model import Model, ModelSettings
from genobj.training import weights as files
from genobj.training.folder import SETTINGS, newest
from genobj.training.ranks import ALONE, Ranks
from genobj.training.state import State


class Loaded(NamedTuple):
    """A network in evaluation mode and the settings it was built from."""

    model: Model
    settings: ModelSettings
    weights: str
    """Which weights these are: live, or ema_<decay>."""


def description(settings: ModelSettings, decays: tuple[float, ...]) -> str:
    """Text of config.json: what rebuilds the network."""
    tree = {"genobj": 1, "averages": list(decays), "model": settings.model_dump(mode="json", exclude_none=True)}
    return json.dumps(tree, indent=1) + "\n"


def export(folder: Path, state: State, ranks: Ranks = ALONE) -> None:
    """Write model.safetensors and one file per average into a finished run's folder."""
    for name, tensors in state.weights().items():
        ranks.once(partial(_replace, folder / f"{name}.safetensors", files.whole(tensors, keep=ranks.first)))


def _replace(file: Path, tensors: dict[str, Tensor]) -> None:
    temporary = file.with_name(f".{file.name}")
    files.write(temporary, tensors)
    temporary.replace(file)


def load(folder: Path, weights: str = "ema", device: torch.device | str = "cpu") -> Loaded:
    """The model of a run folder: of the finished run, else of its newest checkpoint.

    weights: "ema" (the first average), "live", a decay ("0.999") or a width ("width_0.08"). Raises
    ValueError that names what is missing, damaged or does not fit.
    """
    settings, decays = _settings(folder)
    names = {"live": "model", "ema": f"ema_{decays[0]:g}"} | {f"{d:g}": f"ema_{d:g}" for d in decays}
    for place in filter(None, (newest(folder), folder)):  # averages by width come and go with their files
        names |= {path.stem.removeprefix("ema_"): path.stem for path in sorted(place.glob("ema_width_*.safetensors"))}
    if weights not in names:
        raise ValueError(f"{folder} has no weights {weights!r}; choose from {', '.join(names)}")
    file = f"{names[weights]}.safetensors"
    where = folder if (folder / file).exists() else newest(folder)
    if where is None:
        raise ValueError(f"{folder} has no weights yet: no checkpoint was written before the run stopped")
    try:
        model = settings.build()
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS} does not describe a model: {error}") from None
    files.fill(where / file, model.state_dict())
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
