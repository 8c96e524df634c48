"""A file of official weights becomes a folder that genobj samples from and starts runs with."""

from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from genobj import hub
from genobj.autoencoders import NAMES, Autoencoder
from genobj.foreign.files import Tensors, read
from genobj.foreign.network import Foreign, fitted
from genobj.foreign.transformer import transformer
from genobj.foreign.unet import unet
from genobj.model import ModelSettings

Kind = Literal["dit", "sit", "meanflow-torch", "edm-unet"]
"""dit: DiT, noise prediction; sit: SiT, velocity on the straight path; meanflow-torch: MeanFlow's SiT or its U-Net for
CIFAR-10, told apart by their names; edm-unet: EDM's DDPM++ or NCSN++."""
_SD_VAE = {name for short in ("sd-vae-ft-ema", "sd-vae-ft-mse") for name in (short, NAMES[short])}
_MEAN_FLOW_SCALE = 0.18125
"""Factor of SD-VAE's latents in zhuyu-cs's code, where others have 0.18215."""


class Report(NamedTuple):
    """What an import did."""

    folder: Path
    settings: ModelSettings
    weights: str
    """What the file calls the weights that were taken."""
    tensors: int
    parameters: int
    converted: tuple[str, ...]
    """What was not simply copied, in words."""
    left_out: tuple[str, ...]
    """What of the network was not used, in words."""


def convert(
    kind: str,
    file: Path,
    to: Path,
    *,
    heads: int | None = None,
    weights: str | None = None,
    autoencoder: Autoencoder | None = None,
) -> Report:
    """Write the network of a file as a folder (config.json, model.safetensors) that hub.load reads.

    kind: one of Kind; heads: attention heads of a transformer of no published size; weights: which of a file's sets,
    see files.read; autoencoder: what decodes samples, which weights do not tell (its scale is that of the code behind
    the kind, where none is given and that code has one of its own). Every tensor is used and every parameter is filled,
    or ValueError says which is not, and nothing is written.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"there is no kind {kind!r} of weights to import; type one of {', '.join(get_args(Kind))}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} holds something already; choose another --to")
    name, tensors = read(file, weights)
    foreign = _foreign(cast(Kind, kind), tensors, str(file), heads)
    ours = fitted(foreign, str(file))
    to.mkdir(parents=True, exist_ok=True)
    autoencoder, scaled = _scaled(cast(Kind, kind), foreign, autoencoder)
    settings = foreign.settings.model_copy(update={"autoencoder": autoencoder})
    hub.save(to, ours, settings, name, imported={"kind": kind, "file": file.name})
    count = sum(parameter.numel() for parameter in foreign.empty().parameters())
    return Report(to, settings, name, len(ours), count, (*foreign.converted, *scaled), foreign.left_out)


def _scaled(
    kind: Kind, foreign: Foreign, autoencoder: Autoencoder | None
) -> tuple[Autoencoder | None, tuple[str, ...]]:
    """The autoencoder with the scale that a network of this kind was trained with, and what was done, in words."""
    latents = kind == "meanflow-torch" and foreign.settings.shape[0] == 4
    if autoencoder is None or not latents or autoencoder.scale is not None or autoencoder.source not in _SD_VAE:
        return autoencoder, ()
    told = f"latents are scaled by {_MEAN_FLOW_SCALE}, as zhuyu-cs's code does, and not by 0.18215 (--scale: another)"
    return autoencoder.model_copy(update={"scale": _MEAN_FLOW_SCALE}), (told,)


def _foreign(kind: Kind, tensors: Tensors, where: str, heads: int | None) -> Foreign:
    is_unet = any(name.startswith("map_layer0.") for name in tensors)
    if kind == "edm-unet" or (kind == "meanflow-torch" and is_unet):
        if heads is not None:
            raise ValueError("--heads is for transformers: the attention of these U-Nets has one head; leave it out")
        if not is_unet:
            raise ValueError(f"{where} has no layer map_layer0, so it is none of EDM's U-Nets; type another kind")
        return unet(kind, tensors, where)
    if is_unet:
        raise ValueError(f"{where} holds a U-Net (it has map_layer0); type genobj import edm-unet or meanflow-torch")
    return transformer(kind, tensors, where, heads)
