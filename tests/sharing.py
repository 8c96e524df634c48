"""A run's folder without a run: random weights, everything else as training leaves it."""

import json
from pathlib import Path

import torch

from genobj import hub
from genobj.cli.resolve import resolve
from genobj.config.load import write_toml
from genobj.training import weights as files

RECORDS = [
    {"metric": "fd", "kind": "fd", "value": 31.5, "floor": 11.8, "nfe": 1, "sampler": "restart"}
    | {"weights": "ema_0.9", "n": 64, "reference": 1797, "seed": 0},
    {"metric": "mine", "kind": "a plugin's", "value": 2.0, "nfe": 2, "weights": "ema_0.9"},
    {"metric": "accuracy", "kind": "accuracy", "value": 0.125, "nfe": 1, "weights": "live"},
]
"""Results of averaged and of live weights, one by a metric that nobody knows."""


def make_run(folder: Path, *words: str, backbone: str = "mlp", data: str = "digits", plugins: str = "") -> Path:
    """A run of DuMo with weights that are no zeros; `words` are overrides."""
    small = ["backbone.width=16"] if backbone == "mlp" else []
    with_plugins = [plugins] if plugins else None
    overrides = [*small, "ema.decays=[0.9]", *words]
    e, _ = resolve(None, "v,u", "fm,cm", backbone, data, None, overrides, with_plugins)
    (folder / "samples").mkdir(parents=True)
    (folder / "config.toml").write_text(write_toml(e.tree()))
    (folder / "config.json").write_text(hub.description(e.model_settings(), e.ema.decays))
    (folder / "results.json").write_text(json.dumps(RECORDS))
    for seed, name in enumerate(("model", "ema_0.9")):
        model = e.model_settings().build(seed)
        draw = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.2, generator=draw)
        files.write(folder / f"{name}.safetensors", model.state_dict())
    return folder
