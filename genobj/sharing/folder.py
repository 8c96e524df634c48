"""Write a model and all that it takes to use it into a folder in the Hub's layout, and upload it."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genobj import hub
from genobj.autoencoders import Autoencoder
from genobj.config.load import read_toml, write_toml
from genobj.experiment import Experiment
from genobj.pictures import columns, compare
from genobj.sharing.card import Card, plugins
from genobj.sharing.pretrained import Pretrained, opened

Dtype = Literal["float32", "bfloat16", "float16"]
CARD, PICTURE = "README.md", "samples.png"
SHOWN, POINTS, FEW = 64, 1000, 4
"""Images or points in a panel of the picture, and the most evaluations that a panel takes."""
SHARED = (hub.SETTINGS, hub.WEIGHTS, CARD, PICTURE, hub.RECIPE, hub.RESULTS)
"""Files of an exported folder, besides those of its plugins and its autoencoder."""


def export(
    run: Path, to: Path, weights: str = "ema", dtype: Dtype = "float32", name: str = "", license: str | None = None
) -> Pretrained:
    """Write the model of a run, or of another exported folder, into the new folder `to`; gives the model.

    weights: which ones; dtype: of the parameters in the file (they are float32 again when they are loaded; buffers stay
    as they are); name: title of the card, by default that of the folder; license: as the Hub spells it. Nothing of a
    run's plugins is run here. ValueError if `to` holds anything, or for what cannot be read.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is not empty; choose another --to")
    model = opened(run, weights, torch.device("cpu"))
    experiment, files = recipe(run), plugin_files(run)
    records = [record for record in results(run) if record.get("weights") == model.weights]
    temporary = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        store(temporary, model, dtype, **_about(run, experiment, files))
        for file in files:
            (temporary / hub.PLUGINS).mkdir(exist_ok=True)
            shutil.copy(file, temporary / hub.PLUGINS)
        if experiment is not None:
            tree = experiment.tree() | ({"plugins": plugins(experiment)} if experiment.plugins else {})
            (temporary / hub.RECIPE).write_text(write_toml(tree), encoding="utf-8")
        if records:
            (temporary / hub.RESULTS).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        _picture(temporary / PICTURE, model)
        size = sum(value.numel() for value in model.model.parameters())
        card = Card(name or to.name, model.settings, model.weights, dtype, size, experiment, records, license)
        (temporary / CARD).write_text(card.text(), encoding="utf-8")
        if to.exists():
            to.rmdir()
        temporary.replace(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def _about(run: Path, experiment: Experiment | None, files: Sequence[Path]) -> dict[str, Any]:
    """What config.json tells besides the model: where it was imported from, its data, its plugins."""
    more = {key: value for key, value in hub.read(run).items() if key == "imported"}
    more |= {"data": experiment.tree()["data"]} if experiment is not None else {}
    return more | ({"plugins": [f"{hub.PLUGINS}/{file.name}" for file in files]} if files else {})


def store(folder: Path, model: Pretrained, dtype: Dtype, **more: Any) -> None:
    """Write config.json and model.safetensors; an autoencoder that is a folder of this machine comes along.

    more: further entries of config.json.
    """
    settings = model.settings
    if settings.autoencoder is not None and Path(settings.autoencoder.source).is_dir():
        settings = settings.model_copy(update={"autoencoder": _autoencoder(folder, settings.autoencoder)})
    usual = model.evaluation.model_dump(mode="json", exclude_none=True)
    own = {key: usual[key] for key in ("nfe", "sampler") if key in usual}
    hub.save(folder, _lowered(model, dtype), settings, model.weights, dtype=dtype, evaluation=own, **more)


def _autoencoder(folder: Path, settings: Autoencoder) -> Autoencoder:
    """Copy the files of an autoencoder; the settings that find them there."""
    complete = settings.open().settings  # checks its hash, and has its numbers
    source = Path(settings.source)
    place = source if (source / "config.json").is_file() else source / "vae"
    (folder / hub.AUTOENCODER).mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(place / name, folder / hub.AUTOENCODER)
    return complete.model_copy(update={"source": hub.AUTOENCODER})


def _lowered(model: Pretrained, dtype: Dtype) -> dict[str, Tensor]:
    """The tensors to be stored: what was learnt in this precision, tables of frequencies and positions as they are."""
    net = model.model
    learnt = {name for name, _ in net.named_parameters() if "pos_embed" not in name}
    kind = getattr(torch, dtype)
    return {name: value.to(kind) if name in learnt else value for name, value in net.state_dict().items()}


def _picture(file: Path, model: Pretrained) -> None:
    """Samples at the fewest evaluations of the model's own settings."""
    nfes = [nfe for nfe in model.evaluation.nfe if nfe <= FEW] or [min(model.evaluation.nfe)]
    wide = columns(model.settings.classes)
    count = SHOWN - SHOWN % (wide or 1) if len(model.settings.shape) == 3 else POINTS
    compare({f"{nfe} NFE": model.sample(count, nfe) for nfe in nfes}, wide).savefig(file)


def recipe(run: Path) -> Experiment | None:
    """The settings of a run or of an exported folder; None where its training is not known."""
    file = hub.recipe(run)
    return Experiment.model_validate(read_toml(file)) if file else None


def plugin_files(run: Path) -> list[Path]:
    """Plugin files of a run or an exported folder, where they are now. ValueError if one is nowhere."""
    if not hub.is_run(run):
        return hub.plugins(run)
    named = [Path(str(file)) for file in read_toml(run / hub.RUN).get("plugins", [])]
    found = [next((p for p in (run / hub.PLUGINS / file.name, file) if p.is_file()), file) for file in named]
    if lost := [file for file in found if not file.is_file()]:
        raise ValueError(f"{run} was made with the plugin {lost[0]}, which is neither there nor in {run / hub.PLUGINS}")
    return found


def results(run: Path) -> list[dict[str, Any]]:
    """Records of results.json, none where there is no such file. ValueError if it is damaged."""
    file = run / hub.RESULTS
    if not file.is_file():
        return []
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise TypeError("it holds no list of records")
        return records
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def contents(folder: Path) -> dict[str, int]:
    """Names and sizes (bytes) of what is uploaded from an exported folder."""
    files = [folder / name for name in SHARED] + hub.plugins(folder)
    files += sorted((folder / hub.AUTOENCODER).glob("*"))
    return {str(file.relative_to(folder)): file.stat().st_size for file in files if file.is_file()}


def is_exported(folder: Path) -> bool:
    """Whether a folder holds one model to be shared, not a run. ValueError for a folder that holds neither."""
    return "weights" in hub.read(folder)


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload an exported folder to the Hub's repository user/model, made if there is none; gives its address.

    ValueError if the Hub's client is missing, nobody is logged in, or the Hub refuses.
    """
    try:
        from huggingface_hub import HfApi
    except (ImportError, RuntimeError, OSError):
        raise ValueError("pushing needs the Hub's client; type pip install 'genobj[hub]'") from None
    try:
        api = HfApi(library_name="genobj")
        place = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=[*contents(folder)], commit_message="Model of genobj"
        )
    except Exception as error:  # the client's transports have no common class
        why = str(error).partition("\n")[0]
        raise ValueError(f"the Hub did not take {name}: {why}; log in with hf auth login, or check the name") from None
    return str(place)
