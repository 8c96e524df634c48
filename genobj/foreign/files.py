"""Tensors of a file that others made. Nothing in it is ever executed: what is no plain tensor is refused."""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
"""Endings of files that torch.save writes."""
_AVERAGES = ("ema", "net_ema", "model_ema", "ema_state_dict", "state_dict_ema")
_LIVE = ("model", "net", "state_dict", "model_state_dict")
_NETWORKS = ("net", "net_ema")
"""Names that say a state dict holds several networks side by side, as py-meanflow's does (net, net_ema, net_ema1)."""
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What wrapping (DDP, torch.compile, EDM's preconditioning) puts before every name."""


def read(path: Path, weights: str | None = None) -> tuple[str, Tensors]:
    """One set of weights in a file, by the names they have in the bare network, and what the file calls it.

    weights: 'ema' (any average: the first of its usual names), 'model' (the live weights) or the file's own name for
    a set, as in 'net_ema1'; None: 'ema' where there is one, else 'model'. ValueError for a file that is missing,
    damaged, no file of weights or in need of a pickle, and for weights that it does not hold.
    """
    found = dict(_sets(_loaded(path), ""))
    if not found:
        raise ValueError(f"{path} holds no tensors by name; type a file with a network's state dict")
    if weights is None and len(found) == 1:
        name = next(iter(found))
    else:
        roles = {"ema": _AVERAGES, "model": _LIVE, None: _AVERAGES + _LIVE}
        names = [name for name in roles.get(weights, (weights,)) if name in found]
        if not names:
            have = ", ".join(filter(None, found))
            instead = f"but {have}; type --weights {have.partition(',')[0]}" if have else "by name; leave --weights out"
            raise ValueError(f"{path} has no weights {weights or 'ema'!r} {instead}")
        name = names[0]
    return name or "imported", _bare(found[name])


def _loaded(path: Path) -> Any:
    """What the file holds, as plain values and tensors on the CPU."""
    if not path.is_file():
        raise ValueError(f"there is no file {path} here")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {_line(error)}") from None
    if path.suffix not in PICKLES:
        pickled = "; a .pkl file of EDM's holds code, save its ['ema'].state_dict() there" * (path.suffix == ".pkl")
        raise ValueError(f"{path}: type a file that ends in .safetensors, {', '.join(PICKLES)}{pickled}")
    try:
        # The official training scripts keep their arguments beside the weights; a Namespace holds values and no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ", or is damaged"
        raise ValueError(
            f"{path} holds more than tensors{what}, and loading that could run any program, so nothing was loaded; "
            "if you trust who made it, convert it: "
            f'python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load('{path}', weights_only=False)['ema'], '{path.with_suffix('.safetensors')}')\""
        ) from None
    except Exception as error:  # readers of damaged zips and pickles raise nearly anything
        raise ValueError(f"{path} is damaged or no file of torch.save: {_line(error)}") from None


def _sets(tree: Any, name: str) -> Iterator[tuple[str, Tensors]]:
    """Every state dict in the file with its name, '' for a file that is one."""
    if not isinstance(tree, Mapping):
        return
    tensors = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    networks = {key.partition(".")[0] for key in tensors}
    if networks.issuperset(_NETWORKS):
        for network in networks:
            inside = {key: value for key, value in tensors.items() if key.startswith(f"{network}.")}
            if inside:
                yield network, {key.removeprefix(f"{network}."): value for key, value in inside.items()}
    elif tensors:
        yield name, tensors
    else:
        for key, value in tree.items():
            if isinstance(key, str):
                yield from _sets(value, key)


def _bare(tensors: Tensors) -> Tensors:
    """Names without what wrappers put before all of them."""
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _line(error: BaseException) -> str:
    """The first sentence of a library."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0].partition(". ")[0]
