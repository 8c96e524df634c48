"""Reference files: statistics or images that generated samples are compared with, in the forms the field uses.

| form | keys | says |
|---|---|---|
| genobj | genobj, mu, sigma, ... | extractor and its hash, number of images, rounding, data |
| ADM | mu, sigma, mu_s, sigma_s, arr_0 | nothing: Inception is assumed |
| JAX MeanFlow, iMF | ref_mu, ref_sigma | nothing |
| pytorch-fid, EDM | mu, sigma | nothing |
| samples | arr_0 (n, height, width, channels) uint8, arr_1 labels | images: any extractor can look at them |

Nothing in them is unpickled.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genobj.images import Rounding
from genobj.metrics.features import Moments, Need, Observer, Seen, Space, hash_of
from genobj.metrics.stored import BROKEN, Stored
from genobj.metrics.team import ALONE, Team

ABOUT = "genobj"
"""Key of our own files: what they say of themselves, JSON."""
PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "moments": (("mu", "sigma"), ("ref_mu", "ref_sigma")),
    "spatial": (("mu_s", "sigma_s"),),
}
KEYS = (ABOUT, "mu", "sigma", "ref_mu", "ref_sigma", "mu_s", "sigma_s", "features", "arr_1", "labels")
IMAGES = "arr_0"
"""The key of images, which are not read before somebody looks at them."""


@dataclass(frozen=True)
class Reference:
    """A reference file that was read and found sound."""

    file: Path
    extractor: str
    """Whose features its statistics are of."""
    weights: str | None
    """SHA-256 of the extractor's weights; None where the file does not say."""
    assumed: bool
    """Whether nobody but the reader says which extractor it was."""
    about: Mapping[str, Any]
    """What our own files say of the data."""
    seen: Seen
    """Its statistics."""
    images: Stored | None = None
    """Its images, if it holds some."""

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return hash_of(self.file)

    @property
    def n(self) -> int | None:
        """Number of images behind it, where it says so."""
        return self.seen.n if self.seen.n is not None else (len(self.images) if self.images is not None else None)

    def refusal(self, space: Space, needs: Iterable[Need]) -> str | None:
        """Why it cannot serve these needs in this space, or None."""
        missing = [need for need in needs if not self.seen.has(need)]
        if self.images is not None and (missing or not self._of(space)):
            return None
        if not self._of(space):
            theirs, ours = self.extractor, space.name
            if theirs == ours:
                theirs, ours = f"{theirs} with the hash {str(self.weights)[:8]}", f"the one with {space.sha256[:8]}"
            return (
                f"{self.file} holds statistics of the extractor {theirs}, not of {ours}; make one: "
                f"genobj stats DATA --to FILE.npz --extractor {space.name if space.name != 'trained' else 'FOLDER'}"
            )
        if missing:
            return (
                f"{self.file} holds no {missing[0]}; make a file that does: genobj stats DATA --to FILE.npz "
                f"--extractor {space.name if space.name != 'trained' else 'FOLDER'}"
            )
        if self.seen.moments is not None and len(self.seen.moments.mean) != space.width:
            return (
                f"{self.file} has a mean of {len(self.seen.moments.mean)} features, the extractor {space.name} makes "
                f"{space.width}; say which one it was made with: --assume NAME"
            )
        return None

    def tells(self, space: Space, needs: Iterable[Need]) -> bool:
        """Whether its statistics serve these needs in this space, so that nobody has to look at its images."""
        return self._of(space) and all(self.seen.has(need) for need in needs)

    def of(self, space: Space, needs: Iterable[Need], rounding: Rounding, team: Team = ALONE) -> Seen | None:
        """What it keeps of these images in this space, looking at its images where it has to.

        team: processes that look together; all get None but the first, unless there is nothing to look at.
        """
        needs = frozenset(needs)
        if problem := self.refusal(space, needs):
            raise ValueError(problem)
        if self.tells(space, needs):
            return self.seen
        assert self.images is not None
        observer = Observer(space, needs, rounding)
        for batch in self.images.chunks(team.rank, team.world):
            observer.add(batch)
        return observer.seen(team)

    def identity(self) -> dict[str, Any]:
        """What two values must share to be compared, and the name for people."""
        return {"file": self.file.name, "sha256": self.sha256, "n": self.n, "assumed": self.assumed}

    def _of(self, space: Space) -> bool:
        return self.extractor == space.name and self.weights in (None, space.sha256)


def read(file: Path, assume: str = "inception") -> Reference:
    """A reference file. assume: the extractor of files that do not say theirs. ValueError says what is wrong."""
    arrays = _arrays(file)
    about = _about(file, arrays)
    try:
        found = {need: _moments(arrays, *pair) for need, pairs in PAIRS.items() for pair in pairs if pair[0] in arrays}
        features, images = _features(arrays), _images(file, arrays)
    except BROKEN as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{file}: {first}") from None
    if not found and features is None and images is None:
        have = ", ".join(arrays) or "nothing known"
        raise ValueError(
            f"{file} is no reference: it holds {have}, and mu and sigma (or ref_mu and ref_sigma, or arr_0) are needed"
        )
    return Reference(
        file,
        extractor=str(about.get("extractor", assume)),
        weights=about.get("extractor_sha256"),
        assumed="extractor" not in about,
        about=about,
        seen=Seen(about.get("n"), found.get("moments"), found.get("spatial"), features),
        images=images,
    )


def write(file: Path, seen: Seen, space: Space, about: Mapping[str, Any]) -> None:
    """Write what was seen as a file of our own; about: more that it should say (data, split, rounding, ...)."""
    told = {**about, "extractor": space.name, "extractor_sha256": space.sha256, "n": seen.n}
    arrays: dict[str, Any] = {ABOUT: np.array(json.dumps(told))}
    for moments, (mean, covariance) in ((seen.moments, ("mu", "sigma")), (seen.spatial, ("mu_s", "sigma_s"))):
        if moments is not None:
            arrays |= {mean: moments.mean.numpy(), covariance: moments.covariance.numpy()}
    if seen.features is not None:
        arrays["features"] = seen.features.numpy()
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    temporary.replace(file)


def _arrays(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            arrays = {key: found[key] for key in KEYS if key in found.files}
            return arrays | ({IMAGES: None} if IMAGES in found.files else {})
    except FileNotFoundError:
        raise ValueError(f"there is no {file}; make a reference: genobj stats DATA --to {file}") from None
    except BROKEN as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{file} is no reference file that can be read (.npz): {first}") from None


def _about(file: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    if ABOUT not in arrays:
        return {}
    try:
        about = json.loads(str(arrays[ABOUT][()]))
        if not (isinstance(about["extractor"], str) and isinstance(about["extractor_sha256"], str)):
            raise ValueError("the extractor is no text")
        if type(about["n"]) is not int or about["n"] < 1:
            raise ValueError(f"n is {about['n']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: what it says of itself is damaged: {error}") from None
    return about


def _numbers(arrays: dict[str, Any], key: str, dims: int) -> Tensor:
    """An array of finite floats with so many dimensions."""
    if key not in arrays:
        raise ValueError(f"{key} is missing")
    found = arrays[key]
    if found.dtype.kind not in "fiu" or found.ndim != dims or not found.size:
        raise ValueError(f"{key} has shape {found.shape} and type {found.dtype}, not {dims} dimensions of numbers")
    if not np.isfinite(found).all():
        raise ValueError(f"{key} holds values that are not finite")
    return torch.from_numpy(np.array(found, dtype="float64"))


def _moments(arrays: dict[str, Any], mean_key: str, covariance_key: str) -> Moments:
    mean, covariance = _numbers(arrays, mean_key, 1), _numbers(arrays, covariance_key, 2)
    if covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{covariance_key} has shape {tuple(covariance.shape)}, {mean_key} has {len(mean)} numbers")
    if not covariance.allclose(covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max())):
        raise ValueError(f"{covariance_key} is not symmetric, so it is no covariance")
    if (covariance.diagonal() < 0).any():
        raise ValueError(f"{covariance_key} has negative variances")
    return Moments(mean, (covariance + covariance.T) / 2)


def _features(arrays: dict[str, Any]) -> Tensor | None:
    if "features" not in arrays:
        return None
    features = _numbers(arrays, "features", 2)
    if "mu" in arrays and arrays["mu"].shape != features.shape[1:]:
        raise ValueError(f"features have {features.shape[1]} columns, mu has shape {arrays['mu'].shape}")
    return features.float()


def _images(file: Path, arrays: dict[str, Any]) -> Stored | None:
    if IMAGES not in arrays:
        return None
    labels = arrays.get("arr_1", arrays.get("labels"))
    known = None if labels is None or labels.dtype.kind not in "iu" else torch.from_numpy(labels.astype("int64"))
    images = Stored(file, known)
    if labels is not None and (known is None or known.shape != (len(images),)):
        raise ValueError(f"the labels have shape {labels.shape} and type {labels.dtype}, for {len(images)} images")
    return images
