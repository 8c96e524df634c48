"""From a run's folder, an exported one or a repository of the Hub to a model that samples.

A folder has config.json, which rebuilds the network, beside safetensors files. A run's folder has its averages and
checkpoints; an exported folder has one set of weights in model.safetensors, and its config.json says which.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

import genobj
from genobj.config.base import problems
from genobj.config.load import read_toml
from genobj.evaluation import Evaluation
from genobj.model import Model, ModelSettings
from genobj.training import weights as files
from genobj.training.folder import SETTINGS, newest, write
from genobj.training.ranks import ALONE, Ranks
from genobj.training.state import State

WEIGHTS = "model.safetensors"
AUTOENCODER = "autoencoder"
"""Folder of an autoencoder that came with a model of latents."""
PLUGINS = "plugins"
"""Folder of plugin files beside a model."""
RUN, RECIPE, RESULTS = "config.toml", "recipe.toml", "results.json"
"""All settings of a run, of the run behind an exported folder, and what its weights scored."""
_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")


class Loaded(NamedTuple):
    """A network in evaluation mode and the settings it was built from."""

    model: Model
    settings: ModelSettings
    weights: str
    """Which weights these are: live, ema_<decay>, or what an imported or exported folder calls its own."""


class Told(NamedTuple):
    """What config.json tells."""

    model: ModelSettings
    averages: list[float]
    weights: str | None
    """Name of the only weights in the folder; None for a run's folder."""


def description(settings: ModelSettings, decays: tuple[float, ...]) -> str:
    """Text of a run's config.json: what rebuilds the network."""
    tree = {"genobj": 1, "averages": list(decays), "model": settings.model_dump(mode="json", exclude_none=True)}
    return json.dumps(tree, indent=1) + "\n"


def save(folder: Path, tensors: Mapping[str, Tensor], settings: ModelSettings, weights: str, **more: Any) -> None:
    """Write a model without a run: config.json and model.safetensors, each whole or not at all.

    weights: what these are, as in ema_0.999; more: further entries of config.json.
    """
    tree = {"library_name": "genobj", "genobj": 1, "version": genobj.__version__, "weights": weights, **more}
    _replace(folder / WEIGHTS, dict(tensors))
    write(
        folder / SETTINGS,
        json.dumps(tree | {"model": settings.model_dump(mode="json", exclude_none=True)}, indent=1) + "\n",
    )


def export(folder: Path, state: State, ranks: Ranks = ALONE) -> None:
    """Write model.safetensors and one file per average into a finished run's folder."""
    for name, tensors in state.weights().items():
        ranks.once(partial(_replace, folder / f"{name}.safetensors", files.whole(tensors, keep=ranks.first)))


def _replace(file: Path, tensors: dict[str, Tensor]) -> None:
    temporary = file.with_name(f".{file.name}")
    files.write(temporary, tensors)
    temporary.replace(file)


def find(name: str | Path, revision: str | None = None) -> Path:
    """The folder called `name`; where there is none, the Hub's repository user/model is fetched and its folder given.

    revision: a branch, tag or commit of the repository. ValueError if the Hub cannot be asked or has no such thing. A
    name that is neither is given back as it is: `load` says what is wrong with it.
    """
    folder = Path(name)
    if folder.exists():
        if revision is not None:
            raise ValueError(f"{folder} is a folder here, which has no revision {revision!r}; leave it out")
        return folder
    known_place = folder.parts[:1] == ("runs",) or Path(*folder.parts[:1]).is_dir()
    return folder if known_place or not _NAME.fullmatch(str(name)) else _fetched(str(name), revision)


def _fetched(name: str, revision: str | None) -> Path:
    missing = f"there is no folder {name} here, and the Hub"
    try:
        from huggingface_hub import errors, snapshot_download
    except (ImportError, RuntimeError, OSError):
        raise ValueError(f"{missing} cannot be asked without its client; type pip install 'genobj[hub]'") from None
    which = f"{name} at {revision}" if revision else name
    try:
        kept = [SETTINGS, WEIGHTS, RECIPE, RESULTS, f"{PLUGINS}/*.py", f"{AUTOENCODER}/*"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=kept))
    except errors.RevisionNotFoundError:
        raise ValueError(f"{missing} knows no revision {revision!r} of it; type one that its page lists") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(f"{missing} shows none to you; check the name, or type hf auth login") from None
    except errors.LocalEntryNotFoundError:
        raise ValueError(
            f"{missing} cannot be reached (or HF_HUB_OFFLINE is set) and {which} was not fetched before; "
            f"where there is a network, type hf download {name}"
        ) from None
    except Exception as error:  # the client's transports have no common class
        raise ValueError(f"{missing} did not give it: {_first_line(error)}") from None


def load(folder: Path, weights: str = "ema", device: torch.device | str = "cpu") -> Loaded:
    """The model of a run's folder (of the finished run, else of its newest checkpoint) or of an exported one.

    weights: "ema" (the first average; an exported folder's only weights, whichever they are), "live", a decay ("0.999")
    or a width ("width_0.08"). Raises ValueError that names what is missing, damaged or does not fit; plugins that came
    with an exported folder are not run.
    """
    told = _told(folder)
    names = _names(folder, told)
    if weights not in names:
        raise ValueError(f"{folder} has no weights {weights!r}; choose from {', '.join(names)}")
    file = f"{names[weights]}.safetensors"
    where = folder if (folder / file).exists() or told.weights else newest(folder)
    if where is None:
        raise ValueError(f"{folder} has no weights yet: no checkpoint was written before the run stopped")
    try:
        model = told.model.build()
    except (ValueError, RuntimeError, OverflowError) as error:  # torch refuses impossible sizes with RuntimeError
        raise ValueError(f"{folder / SETTINGS} does not describe a model: {_first_line(error)}") from None
    files.fill(where / file, model.state_dict())
    name = told.weights or names[weights].replace("model", "live")
    return Loaded(model.to(device).eval().requires_grad_(False), _with_autoencoder(folder, told.model), name)


def evaluation(folder: Path) -> Evaluation:
    """How a run or an exported model samples by its own settings: numbers of evaluations, sampler, batch."""
    tree = read_toml(folder / RUN) if is_run(folder) else read(folder)
    own = tree.get("evaluation", {})
    try:
        if not isinstance(own, dict):
            raise TypeError("they are no table")
        return Evaluation.model_validate({key: own[key] for key in ("nfe", "sampler", "batch") if key in own})
    except (ValidationError, TypeError) as error:
        why = "{}: {}".format(*next(problems(error))) if isinstance(error, ValidationError) else error
        raise ValueError(f"{folder}: its evaluation settings cannot be read: {why}{_untrusted(folder)}") from None


def read(folder: Path) -> dict[str, Any]:
    """The entries of config.json; ValueError names what is missing or damaged."""
    try:
        tree = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise TypeError("it holds no table")
        return tree
    except FileNotFoundError:
        if not folder.exists():
            raise ValueError(f"there is no {folder} here; type a run's folder (`genobj train` makes runs)") from None
        raise ValueError(f"{folder} is not a run folder: it has no {SETTINGS}") from None
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise ValueError(f"{folder / SETTINGS} is damaged: {error}") from None


def is_run(folder: Path) -> bool:
    """Whether what config.toml says counts, above all the plugins it names: those are run.

    Not in a folder that the Hub's client fetched, and not beside one set of weights to be shared (config.json names
    them): there nothing of ours wrote a config.toml. ValueError if config.json cannot be read.
    """
    if not (folder / RUN).is_file():
        return False
    place = folder.resolve().parent
    fetched = place.name == "snapshots" and place.parent.name.startswith("models--")
    return not fetched and "weights" not in read(folder)


def recipe(folder: Path) -> Path | None:
    """The file with all settings of a run, or of the run behind an exported folder; None where they are not known."""
    file = folder / (RUN if is_run(folder) else RECIPE)
    return file if file.is_file() else None


def plugins(folder: Path) -> list[Path]:
    """Plugin files that came with a model; importing one runs it."""
    return sorted((folder / PLUGINS).glob("*.py"))


def _untrusted(folder: Path) -> str:
    """What to do about parts that nobody knows, where plugin files lie beside the model; else nothing."""
    found = plugins(folder)
    if not found:
        return ""
    flags = " ".join(f"--plugin {file}" for file in found)
    return (
        ". Its plugin files are code that is not run unless you trust it: read it, then type "
        f"{flags} (in Python trust_plugins=True)"
    )


def _told(folder: Path) -> Told:
    tree = read(folder)
    try:
        weights = tree.get("weights")
        decays = [float(decay) for decay in (tree["averages"] if weights is None else ())]
        settings = ModelSettings.model_validate(tree["model"])
        if weights is None and not decays:
            raise ValueError("it names no average")
        if not isinstance(weights, str | None):
            raise TypeError("its weights have no name")
        return Told(settings, decays, weights)
    except ValidationError as error:
        where, message = next(problems(error))
        advice = _untrusted(folder) if "unknown" in message or "imported" in message else ""
        raise ValueError(f"{folder / SETTINGS} does not describe a model: {where}: {message}{advice}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / SETTINGS} is damaged: {error}") from None


def _with_autoencoder(folder: Path, settings: ModelSettings) -> ModelSettings:
    """The settings, with the autoencoder in the model's own folder where it has one; its hash is checked as always."""
    if settings.autoencoder is None or settings.autoencoder.source != AUTOENCODER:
        return settings
    own = settings.autoencoder.model_copy(update={"source": str(folder / AUTOENCODER)})
    return settings.model_copy(update={"autoencoder": own})


def _names(folder: Path, told: Told) -> dict[str, str]:
    """What weights may be called -> the file that holds them."""
    if told.weights is not None:
        return dict.fromkeys(("ema", told.weights, told.weights.removeprefix("ema_")), "model")
    names = {"live": "model", "ema": f"ema_{told.averages[0]:g}"} | {f"{d:g}": f"ema_{d:g}" for d in told.averages}
    for place in filter(None, (newest(folder), folder)):  # averages by width come and go with their files
        names |= {path.stem.removeprefix("ema_"): path.stem for path in sorted(place.glob("ema_width_*.safetensors"))}
    return names


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
