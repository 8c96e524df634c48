"""What a folder of latents has to hold before it is trained on: files that are whole and of one set."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genobj.autoencoders import Autoencoder
from genobj.data.shards import (
    FLIPPED,
    INDEX,
    JOB,
    LABELS,
    LATENTS,
    STATISTICS,
    Damaged,
    Shard,
    header,
    names,
    read_index,
)

Kind = Literal["latents", "std", "logvar"]
"""What files hold: latents, or moments, which are means and beside them standard deviations or log-variances."""

LOOK = 8
"""Rows of a file whose moments are looked at: thousands of numbers, of which a logarithm has some below 0."""


class Checks:
    """What the files of a folder must have in common.

    beside: what stands beside the mean in moments of files that do not say, those of others.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        classes: int,
        *,
        flip: bool,
        made_by: Autoencoder,
        beside: Literal["std", "logvar"] = "std",
    ):
        self.folder, self.shape, self.classes, self.flip = folder, shape, classes, flip
        self.index = read_index(folder)
        self.first: Shard | None = None
        self.beside: Literal["std", "logvar"] = beside
        self.kind: Kind = "std" if self.index is not None and self.index["kind"] == "moments" else "latents"
        if self.index is not None and (made := of_job(self.index).sha256) != made_by.sha256:
            raise ValueError(
                f"{folder} was made by an autoencoder with the hash {str(made)[:12]}..., not by the other one"
            )

    def files(self) -> list[tuple[Path, dict[str, Any] | None]]:
        """Every file, those that are missing too, and what the index says of it."""
        listed = {} if self.index is None else {self.folder / entry["file"]: entry for entry in self.index["files"]}
        return [(file, listed.get(file)) for file in sorted({*listed, *names(self.folder)})]

    def shard(self, file: Path, listed: dict[str, Any] | None) -> Shard:
        """The header of a file that fits. Damaged if it does not."""
        if self.index is not None and listed is None:
            raise Damaged(f"{file} is not among the files that {INDEX} lists")
        shard = header(file)
        if listed is not None and (shard.size, shard.crc) != (listed["bytes"], listed["header"]):
            raise Damaged(f"{file} is not the file that was encoded: its size or header is another one")
        if self.first is None and self.index is None:
            self.kind = self._kind(shard)
        self._fits(shard)
        if self.kind != "latents" and "kind" not in shard.told:
            self._are_moments(shard)
        self.first = self.first or shard
        return shard

    def _kind(self, shard: Shard) -> Kind:
        """By what the file says, else by its channels, if the settings tell how many a latent has."""
        if "kind" in shard.told:
            return "std" if shard.told["kind"] == "moments" else "latents"
        return self.beside if shard.shape[0] == 2 * self.shape[0] else "latents"

    def _are_moments(self, shard: Shard) -> None:
        """Damaged if what stands beside the mean is the other of the two."""
        negative = bool((shard.read(LATENTS, LOOK).chunk(2, 1)[1] < 0).any())
        if negative and self.kind == "std":
            raise Damaged(
                f"{shard.file} has numbers below 0 where standard deviations should be; if they are log-variances, as "
                "in diffusers' moments, type data.moments=logvar"
            )
        if not negative and self.kind == "logvar":
            raise Damaged(
                f"{shard.file} has no number below 0 where data.moments=logvar says that log-variances are: they are "
                "standard deviations; type data.moments=std"
            )

    def _fits(self, shard: Shard) -> None:
        channels, *sides = self.shape
        wanted = (channels * (1 if self.kind == "latents" else 2), *sides)
        if shard.shape != wanted:
            raise Damaged(f"{shard.file} has latents of shape {shard.shape}, not {wanted}; data.sizes may be wrong")
        if self.flip and FLIPPED not in shard.tensors:
            raise Damaged(f"{shard.file} has no {FLIPPED!r}; type data.flip=false")
        if self.first is not None and shard.job != self.first.job:
            keys = [key for key in JOB if shard.job.get(key) != self.first.job.get(key)]
            raise Damaged(f"{shard.file} belongs to another set than {self.first.file.name}: its {keys[0]} differs")
        if self.first is not None and shard.tensors[LATENTS].dtype != self.first.tensors[LATENTS].dtype:
            raise Damaged(f"{shard.file} holds {shard.tensors[LATENTS].dtype} numbers, the others do not")

    def labels(self, shard: Shard) -> Tensor:
        """The labels of a file, in range where they are used. Damaged if they are not."""
        labels = shard.read(LABELS).long()
        shard.check(LABELS)
        if self.classes and (wrong := labels[(labels < 0) | (labels >= self.classes)]).numel():
            raise Damaged(f"{shard.file} has the label {wrong[0]}, there are {self.classes}; data.labels may be wrong")
        return labels


def of_job(told: dict[str, Any]) -> Autoencoder:
    """The autoencoder that an index or a file's metadata tells of. ValueError if it is none."""
    try:
        scale, shift = json.loads(told["scale"]), json.loads(told["shift"])
        factor = json.loads(told.get("factor", "null"))
        return Autoencoder(source=told["autoencoder"], sha256=told["sha256"], scale=scale, shift=shift, factor=factor)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{INDEX} does not describe an autoencoder: {error}") from None


def statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shift and scale from latents_stats.json, .safetensors or .pt: mean and 1 / std of every channel."""
    found = [file for kind in ("json", "safetensors", "pt") if (file := folder / f"{STATISTICS}.{kind}").is_file()]
    if not found:
        raise ValueError(
            f"{folder} does not say how its latents are scaled; put {STATISTICS}.json there, with mean and std "
            "of every channel, or type data.encoded_by.source=... data.encoded_by.scale=0.18215"
        )
    try:
        told = _read_statistics(found[0])
        mean, std = (torch.as_tensor(told[key]).double().flatten() for key in ("mean", "std"))
    except Exception as error:  # whatever a damaged file runs into
        raise ValueError(f"{found[0]} does not hold mean and std of every channel: {error}") from None
    if len(mean) != len(std) or not (std > 0).all() or not (mean / std).isfinite().all():
        raise ValueError(f"{found[0]}: mean and std are not one finite number per channel, std above 0")
    return tuple(mean.tolist()), tuple((1 / std).tolist())


def _read_statistics(file: Path) -> Any:
    if file.suffix == ".json":
        return json.loads(file.read_text())
    if file.suffix == ".pt":  # LightningDiT's own; tensors only, no code runs
        return torch.load(file, weights_only=True, map_location="cpu")
    from safetensors.torch import load_file

    return load_file(file)
