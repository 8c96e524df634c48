"""Autoencoders of diffusers: from images to the latents that a network learns, and back.

A network learns x = scale (z - shift), where z is what the autoencoder gives (or its mean): the convention of
diffusers, in which SD-VAE has scale .18215 and shift 0. Latents on disk remember which autoencoder made them, and so
does every model that was trained on them: `pixels` is all that samplers, pictures and metrics call.
"""

import hashlib
import json
import re
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genobj.config.base import Config
from genobj.precision import exactly

NAMES = {
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
    "dc-ae-f32c32": "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers",
}
"""Short names of autoencoders, and where the Hub has them."""
CLASSES = ("AutoencoderKL", "AutoencoderDC")
"""Classes of diffusers that are understood; the second gives latents, not moments."""
SETTINGS, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
AT_ONCE = 8 * 256**2
"""Pixels that a GPU encodes or decodes at once: beside a network that is being trained, memory is short."""
PrecisionName = Literal["float32", "bfloat16", "float16"]
Factor = Annotated[float, Field(gt=0)] | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Offset = float | Annotated[tuple[float, ...], Field(min_length=1)]


class Autoencoder(Config):
    """Which autoencoder made latents, and how they are scaled for the network: x = scale (z - shift)."""

    source: Annotated[str, Field(min_length=1)]
    """A folder of diffusers (config.json and safetensors), sd-vae-ft-ema, sd-vae-ft-mse, dc-ae-f32c32, or an id of the
    Hub (owner/name, or owner/name/folder); a folder of that name wins."""
    scale: Factor | None = None
    """Factor of the latents, one number or one per channel; unset: as the autoencoder's own config says."""
    shift: Offset | None = None
    """Subtracted from the latents before they are scaled; unset: as the autoencoder's own config says, else 0."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash of the weights' file; other weights are refused. Recorded by `genobj encode`."""
    factor: Annotated[int, Field(gt=0)] | None = None
    """Pixels per latent along each side; unset: as the source tells, by its config or by its name (dc-ae-f32c32: 32),
    else 8. Recorded by `genobj encode`."""

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: Any) -> Any:
        """A bare name is a source; so is the kind into which an override of one key turns it."""
        if isinstance(data, str):
            return {"source": data}
        if isinstance(data, dict) and "kind" in data and "source" not in data:
            return {"source": data["kind"], **{key: value for key, value in data.items() if key != "kind"}}
        return data

    @property
    def enlarges(self) -> int:
        """The factor by which images have more rows than latents; nothing is opened or fetched for it."""
        if self.factor is not None:
            return self.factor
        config = Path(self.source).expanduser()
        for file in (config / SETTINGS, config / "vae" / SETTINGS):
            if file.is_file():
                return _factor(_config(file))
        named = re.search(r"(?<![a-z0-9])f(\d+)c\d+", NAMES.get(self.source, self.source))
        return int(named[1]) if named else 8

    def to_model(self, latents: Tensor) -> Tensor:
        """x of latents z (n, channels, ...): what a network learns. ValueError if scale is not known."""
        scale, shift = self._numbers(latents)
        return (latents - shift) * scale

    def from_model(self, x: Tensor) -> Tensor:
        """z of a network's x (n, channels, ...): what the autoencoder decodes. ValueError if scale is not known."""
        scale, shift = self._numbers(x)
        return x / scale + shift

    def _numbers(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Scale and shift, ready to be broadcast against (n, channels, ...)."""
        if self.scale is None:
            raise ValueError(f"autoencoder {self.source!r}: its scale is not known; give it, as in scale=0.18215")
        return _per_channel("scale", self.scale, like), _per_channel("shift", self.shift or 0.0, like)

    def open(self, device: torch.device | str = "cpu", precision: PrecisionName = "float32") -> "Codec":
        """The autoencoder itself, from its folder or the Hub (whose cache, HF_HOME and HF_HUB_OFFLINE hold).

        ValueError for what is missing, damaged, of another kind or of another hash than `sha256`.
        """
        folder = _folder(self.source)
        sha256 = digest(folder / WEIGHTS)
        if self.sha256 not in (None, sha256):
            raise ValueError(
                f"autoencoder {self.source!r}: {folder / WEIGHTS} has the hash {sha256[:12]}..., but {self.sha256[:12]}"
                "... made these latents; give the source of those weights"
            )
        model = _load(folder, getattr(torch, precision)).to(device).eval().requires_grad_(False)
        return Codec(self._complete(model, folder, sha256), model)

    def _complete(self, model: Any, folder: Path, sha256: str) -> "Autoencoder":
        """These settings with the autoencoder's own numbers where none are given, and its hash."""
        told = model.config
        scale, shift = told.get("scaling_factor") or 1.0, told.get("shift_factor") or 0.0
        if told.get("latents_mean") and told.get("latents_std"):
            shift, scale = tuple(told["latents_mean"]), tuple(scale / std for std in told["latents_std"])
        return Autoencoder(
            source=str(folder.resolve()) if Path(self.source).is_dir() else self.source,
            scale=scale if self.scale is None else self.scale,
            shift=shift if self.shift is None else self.shift,
            sha256=sha256,
            factor=_factor(told) if self.factor is None else self.factor,
        )


class Codec:
    """An opened autoencoder. `settings` hold its numbers and its hash."""

    def __init__(self, settings: Autoencoder, model: nn.Module):
        self.settings, self.model = settings, model
        config: Any = model.config
        self.gives: Literal["moments", "latents"] = "latents" if _class_of(config) == "AutoencoderDC" else "moments"
        """Whether images become a mean and a standard deviation, or latents."""
        self.images: int = config["in_channels"]
        """Channels of an image."""
        self.channels: int = config["latent_channels"]
        """Channels of a latent."""
        self.factor = _factor(config)
        """Pixels per latent along each side."""
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    @torch.no_grad()
    def encode(self, images: Tensor, chunk: int | None = None) -> Tensor:
        """Images (n, channels, h, w) in [-1, 1] as float32 moments, mean and std one after the other along the channels
        (n, 2 latent channels, ...), or as latents, where the autoencoder is deterministic. Nothing is scaled.

        chunk: images at once; unset: one on a CPU, on a GPU as many as make eight of 256 x 256. ValueError for images
        of other channels or sizes than the autoencoder takes.
        """
        if images.ndim != 4 or images.shape[1] != self.images or any(size % self.factor for size in images.shape[2:]):
            raise ValueError(
                f"autoencoder {self.settings.source!r} takes images of {self.images} channels and sides that "
                f"{self.factor} divides, these are {tuple(images.shape[1:])}; choose another data.resolution or data"
            )
        return self._by_chunks(self._encoded, images, chunk or self._chunk(images))

    @torch.no_grad()
    def decode(self, x: Tensor, chunk: int | None = None) -> Tensor:
        """A network's samples (n, latent channels, ...) as float32 images, clamped to [-1, 1].

        chunk: samples at once, as for `encode`. ValueError for samples with other channels.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            wrong = f"latents of {self.channels} channels, these are {tuple(x.shape[1:])}"
            raise ValueError(f"autoencoder {self.settings.source!r} decodes {wrong}")
        return self._by_chunks(self._decoded, x, chunk or self._chunk(x, self.factor))

    def _chunk(self, tensor: Tensor, factor: int = 1) -> int:
        """How many at once. Convolutions give other last bits for other batches: one by one, which costs a CPU nothing
        where images are large, samples are the same on however many processes."""
        if self.device.type == "cpu":
            return 1
        return max(1, AT_ONCE // (factor**2 * tensor.shape[2] * tensor.shape[3]))

    def _by_chunks(self, work: Any, tensor: Tensor, chunk: int) -> Tensor:
        pieces = tensor.split(chunk)
        with exactly(self.device) if self.dtype == torch.float32 else nullcontext():
            return torch.cat([work(piece.to(self.device)).to(tensor.device) for piece in pieces])

    def _encoded(self, images: Tensor) -> Tensor:
        told = self.model.encode(images.to(self.dtype))  # type: ignore[operator]
        if self.gives == "latents":
            return told.latent.float()
        law = told.latent_dist
        return torch.cat([law.mean, law.std], 1).float()

    def _decoded(self, x: Tensor) -> Tensor:
        latents = self.settings.from_model(x.float())
        return self.model.decode(latents.to(self.dtype)).sample.float().clamp(-1, 1)  # type: ignore[operator]


@runtime_checkable
class Decodable(Protocol):
    """What says how its samples become images: settings of a model or of a data set."""

    @property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder that made the latents; None if samples are images or points already."""


def pixels(
    settings: Decodable, x: Tensor, device: torch.device | str = "cpu", precision: PrecisionName = "float32"
) -> Tensor:
    """Samples as images in [-1, 1], on the device they came from; as they are where no autoencoder is in play.

    x: (n, *shape), as the network gives it. The autoencoder is loaded once for a device and decodes there. ValueError
    if it is not at hand or if its weights are not those that made the latents.
    """
    if settings.autoencoder is None or not len(x):
        return x
    return _opened(settings.autoencoder.model_dump_json(), str(device), precision).decode(x)


@lru_cache(maxsize=2)
def _opened(settings: str, device: str, precision: PrecisionName) -> Codec:
    return Autoencoder.model_validate_json(settings).open(device, precision)


def digest(file: Path) -> str:
    """SHA-256 of a file. ValueError names one that cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from None


def _per_channel(name: str, value: float | tuple[float, ...], like: Tensor) -> Tensor | float:
    if isinstance(value, float):
        return value
    numbers = torch.tensor(value, dtype=like.dtype, device=like.device)
    if len(numbers) != like.shape[1]:
        raise ValueError(f"autoencoder {name} has {len(numbers)} numbers, the latents {like.shape[1]} channels")
    return numbers.view(-1, *[1] * (like.ndim - 2))


def _folder(source: str) -> Path:
    """The folder with an autoencoder's files; fetched from the Hub if it is no folder of this machine."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = next((place for place in (path, path / "vae") if (place / SETTINGS).is_file()), None)
        if found is None or not (found / WEIGHTS).is_file():
            missing = SETTINGS if found is None else WEIGHTS
            raise ValueError(f"autoencoder {source!r}: the folder has no {missing}; give a folder of diffusers")
        return found
    owner, _, rest = NAMES.get(source, source).partition("/")
    name, _, inner = rest.partition("/")
    if not name or not owner or owner in (".", "..", "~"):
        raise ValueError(
            f"there is no folder {source!r} and no autoencoder of that name; type a folder, owner/name of the Hub, or "
            f"one of {', '.join(NAMES)}"
        )
    return _fetched(source, f"{owner}/{name}", inner)


def _fetched(source: str, repository: str, inner: str) -> Path:
    """The Hub's files of an autoencoder in its cache; one sentence if they cannot be had."""
    try:
        from huggingface_hub import hf_hub_download
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(
            f"autoencoder {source!r} comes from the Hub: pip install 'genobj[diffusers]' ({error})"
        ) from None
    place = f"{inner}/" if inner else ""
    file = SETTINGS
    try:
        for file in (SETTINGS, WEIGHTS):
            path = hf_hub_download(repository, place + file)
    except (OSError, ValueError, RuntimeError) as error:  # its own errors derive from these
        command = f"hf download {repository} {place}{SETTINGS} {place}{WEIGHTS}"
        raise ValueError(
            f"autoencoder {source!r}: {place}{file} of {repository} is neither here nor to be had "
            f"({type(error).__name__}); where there is a network, type: {command}; or give a folder"
        ) from None
    return Path(path).parent


def _load(folder: Path, dtype: torch.dtype) -> Any:
    """The network in a folder of diffusers, strictly."""
    try:
        import diffusers
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(f"autoencoders need diffusers: pip install 'genobj[diffusers]' ({error})") from None
    kind = _class_of(_config(folder / SETTINGS))
    if kind not in CLASSES:
        raise ValueError(f"{folder / SETTINGS} describes {kind or 'nothing'}; {' and '.join(CLASSES)} are understood")
    try:
        model, told = getattr(diffusers, kind).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=dtype,
        )
    except Exception as error:  # damaged weights and odd configs raise whatever they run into
        told = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder} does not hold a whole autoencoder: {told}") from None
    wrong = [f"{trouble.removesuffix('_keys')} {names[0]}" for trouble, names in told.items() if names]
    if wrong:  # diffusers would go on with random weights
        raise ValueError(f"{folder / WEIGHTS} does not fit its {SETTINGS}: {wrong[0]}")
    return model


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not the config of an autoencoder: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not the config of an autoencoder: it is no table")
    return config


def _factor(config: Any) -> int:
    """Pixels per latent along each side: every block but one halves the image."""
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or [0] * 4
    return 2 ** (len(blocks) - 1)


def _class_of(config: Any) -> str:
    return str(config.get("_class_name", ""))
