"""A run that starts from the weights of another: a finished or stopped run, or an imported folder.

The network computes the same velocity at the first step as the one it came from. What is new starts so that it changes
nothing: a head as a copy of another (or at zero), a second time and augmentation labels without effect.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from pydantic import Field, ValidationError, create_model
from torch import Tensor

from genobj.autoencoders import Offset
from genobj.config.base import Config, problems
from genobj.config.load import leaves
from genobj.hub import find, load, read
from genobj.model import Model, ModelSettings
from genobj.parts import BACKBONES, PATHS
from genobj.registry import Registry

_FREE = frozenset({"dropout", "two_times", "bandwidth"})
"""Settings of backbones that a run may change: what they change in the weights is looked at tensor by tensor."""
_NEUTRAL = ("trunk.r_embedder.mlp.2.", "trunk.map_augment.")
"""New tensors that start at zero: layers behind which nothing of a new input arrives."""
_FRESH = ("trunk.r_embedder.mlp.0.",)
"""New tensors that start at random, before a neutral one."""
_LABELS = ("trunk.y_embedder.embedding_table.weight", "trunk.map_label.weight", "trunk.labels.weight")
_WIDER = {"trunk.map_layer0.weight": 1, "trunk.map_label.weight": 1, "trunk.map_augment.weight": 0}
"""Tensors and the dimension in which the features of t - r follow those of t."""
_MLP = "trunk.layers.0.weight"
"""Here they follow them too, but the columns of the label come after both."""

_From = create_model(
    "_From",
    __base__=Config,
    **cast("dict[str, Any]", {"from": (str, Field(min_length=1, description="A run's folder or an imported one."))}),
)
"""`from` is a Python keyword, so that this one setting cannot be written down in a class."""


class Init(_From):
    """Where a run's first weights come from."""

    weights: str = "ema"
    """Which of the folder's weights: ema, live, or the decay of an average."""
    heads: Literal["copy", "zero"] = "copy"
    """How a head starts that the other model does not have: as a copy of one of its heads, or at zero."""
    head: str | None = None
    """The head that new ones copy; unset: the only one."""
    classes: Literal["same", "new"] = "same"
    """new: labels mean something else than there (however many they are), so that their embedding starts afresh."""

    @property
    def source(self) -> str:
        """The folder, as it was typed."""
        return getattr(self, "from")

    def check(self, settings: ModelSettings) -> None:
        """ValueError, with what to type, unless a network with these settings can start from the folder.

        Reads no weights.
        """
        folder = find(self.source)
        tree = read(folder)
        if not isinstance(tree.get("model"), dict):
            raise ValueError(f"{folder} describes no model; type init.from=RUN, the folder of a run or of an import")
        try:
            theirs = ModelSettings.model_validate(tree["model"])
        except ValidationError as error:
            where, message = next(problems(error))
            raise ValueError(f"{folder} describes no model that is known here: {where}: {message}") from None
        self._refuse(theirs, settings)
        with torch.device("meta"):
            self._values(theirs, theirs.build(), settings, settings.build())

    def start(self, model: Model, settings: ModelSettings) -> None:
        """Fill a network, whole and on the CPU, with the folder's weights. ValueError if they do not fit."""
        loaded = load(find(self.source), self.weights)
        self._refuse(loaded.settings, settings)
        fresh = model.state_dict()
        with torch.no_grad():
            for name, value in self._values(loaded.settings, loaded.model, settings, model).items():
                fresh[name].copy_(value)

    def _refuse(self, theirs: ModelSettings, ours: ModelSettings) -> None:
        """ValueError if the two networks do not mean the same."""
        where = f"init.from={self.source}"
        if theirs.shape != ours.shape:
            raise ValueError(f"{where} was trained on samples {theirs.shape}, this run's data are {ours.shape}")
        if self.classes == "same" and theirs.classes != ours.classes:
            raise ValueError(
                f"{where} knows {theirs.classes} classes, this run's data have {ours.classes}; type init.classes=new "
                "to start their embedding afresh"
            )
        self._refuse_latents(theirs, ours)
        if ours.reading and not theirs.reading:
            raise ValueError(f"{where} needs no reading; leave reading={ours.reading} out")
        if changed := _differences(theirs, ours):
            raise ValueError(f"{where} has another network than this run; type {' '.join(changed)}")
        if self.head is not None and self.head not in theirs.horizons:
            raise ValueError(f"init.head={self.head}: {self.source} has {', '.join(theirs.horizons)}; type one of them")

    def _refuse_latents(self, theirs: ModelSettings, ours: ModelSettings) -> None:
        """ValueError if both say how their latents are scaled, and it is not the same."""
        made, given = theirs.autoencoder, ours.autoencoder
        if made is None or given is None or made.scale is None or given.scale is None:
            return
        pairs = (made.scale, given.scale), (made.shift or 0.0, given.shift or 0.0)
        if all(_equal(there, here, ours.shape[0]) for there, here in pairs):
            return
        (scale, own), (shift, offset) = pairs
        as_there = f'source="{given.source}",scale={json.dumps(scale)},shift={json.dumps(shift)}'
        raise ValueError(
            f"init.from={self.source} learned latents with scale {scale} and shift {shift}, this run's have {own} and "
            f"{offset}; type 'data.encoded_by={{{as_there}}}'"
        )

    def _values(self, theirs: ModelSettings, before: Model, ours: ModelSettings, after: Model) -> dict[str, Tensor]:
        """What new tensors start with, by name; those that stay as they were made are not among them."""
        old, new = before.state_dict(), after.state_dict()
        if after.trunk_r and not before.trunk_r and "trunk.r_embedder.mlp.0.weight" in old:
            raise ValueError(
                f"init.from={self.source} has a second time that was fed t, and this run feeds it t - r; "
                "leave out r_in=trunk"
            )
        values = dict(self._trunk(old, new, relabelled=self.classes == "new"))
        for head, settings in ours.heads.items():
            values |= self._head(head, settings.scalar, theirs, old, new)
        return values

    def _trunk(
        self, old: Mapping[str, Tensor], new: Mapping[str, Tensor], *, relabelled: bool
    ) -> Iterator[tuple[str, Tensor]]:
        afresh = _LABELS if relabelled else ()
        names = [name for name in new if name.startswith("trunk.") and name not in afresh]
        for name in names:
            if name in old:
                yield name, self._widened(name, old, new[name])
            elif name.startswith(_NEUTRAL):
                yield name, torch.zeros_like(new[name])
            elif not name.startswith(_FRESH):
                raise ValueError(f"init.from={self.source} has no tensor {name!r}, which this run's network needs")
        unused = {name for name in old if name.startswith("trunk.")} - {*names, *afresh, "trunk.map_augment.weight"}
        if unused:
            hint = "; train an interval head with r_in = trunk" if "r_embedder" in min(unused) else ""
            raise ValueError(f"this run's network has no place for {min(unused)!r} of init.from={self.source}{hint}")

    def _widened(self, name: str, old: Mapping[str, Tensor], fresh: Tensor) -> Tensor:
        """An old tensor, with zeros for what the network is told now and was not told before (t - r)."""
        value = old[name]
        more, at = _WIDER.get(name), len(value) if name == "trunk.map_augment.weight" else value.shape[-1]
        if name == _MLP:
            more, at = 1, value.shape[1] - (old["trunk.labels.weight"].shape[1] if "trunk.labels.weight" in old else 0)
        if more is not None and value.ndim == fresh.ndim and fresh.shape[more] > value.shape[more]:
            gap = [*value.shape]
            gap[more] = fresh.shape[more] - value.shape[more]
            before, after = value.tensor_split([at], dim=more)
            value = torch.cat([before, value.new_zeros(gap), after], dim=more)
        return self._same_shape(name, value, fresh)

    def _same_shape(self, name: str, value: Tensor, fresh: Tensor) -> Tensor:
        if value.shape != fresh.shape:
            shapes = f"{tuple(value.shape)} there and {tuple(fresh.shape)} in this run"
            raise ValueError(f"init.from={self.source}: tensor {name!r} has shape {shapes}; type the same settings")
        return value

    def _head(
        self, head: str, scalar: bool, theirs: ModelSettings, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        source = head if head in theirs.heads and theirs.heads[head].scalar == scalar else None
        if source is None and (scalar or self.heads == "zero"):
            return {}  # as they are made: output layers are zero
        source = source or self._copied(head, theirs)
        given = {
            name.removeprefix(f"heads.{source}."): v for name, v in old.items() if name.startswith(f"heads.{source}.")
        }
        wanted = {
            name.removeprefix(f"heads.{head}."): v for name, v in new.items() if name.startswith(f"heads.{head}.")
        }
        added = {name for name in wanted if name.startswith("target_time.")} - given.keys()  # made without effect
        if odd := sorted((wanted.keys() - added) ^ given.keys()):
            raise ValueError(
                f"heads.{head} cannot copy {source!r} of init.from={self.source}: {odd[0]!r} is in only one of them; "
                "type the same settings for both, or init.heads=zero for a new name"
            )
        return {
            f"heads.{head}.{name}": self._same_shape(f"heads.{head}.{name}", value, wanted[name])
            for name, value in given.items()
        }

    def _copied(self, head: str, theirs: ModelSettings) -> str:
        """The head that a new one copies."""
        if self.head is not None:
            return self.head
        if len(theirs.horizons) == 1:
            return next(iter(theirs.horizons))
        each = " or ".join(f"init.head={name}" for name in theirs.horizons)
        raise ValueError(f"heads.{head} is new, and {self.source} has several; type {each}, or init.heads=zero")


def _equal(one: Offset, other: Offset, channels: int) -> bool:
    """Whether two numbers, each for all channels or one per channel, are the same but for rounding."""
    first, second = (value if isinstance(value, tuple) else (value,) * channels for value in (one, other))
    return len(first) == len(second) and all(map(math.isclose, first, second))


def typed(theirs: ModelSettings) -> list[str]:
    """What a run has to be told so that its network is this one, as on the command line."""
    reading = [f"reading={theirs.reading}"] if theirs.reading else []
    return [*_typed("backbone", BACKBONES, theirs.backbone), *reading, *_typed("path", PATHS, theirs.path)]


def _typed(table: str, registry: Registry[Any], part: Config) -> list[str]:
    """Kind and settings of a part, but for defaults."""
    tree = part.model_dump(mode="json", exclude_defaults=True)
    return [f"{table}={registry.name_of(type(part))}", *_leaves(table, tree)]


def _differences(theirs: ModelSettings, ours: ModelSettings) -> list[str]:
    """Settings to type so that a run's network means what the other one does; empty if it does."""
    changed = list[str]()
    if type(theirs.backbone) is not type(ours.backbone):
        changed += _typed("backbone", BACKBONES, theirs.backbone)
    else:
        there, here = (settings.backbone.model_dump(mode="json") for settings in (theirs, ours))
        changed += _leaves(
            "backbone", {key: there[key] for key in there if key not in _FREE and there[key] != here[key]}
        )
    if theirs.reading != ours.reading:
        changed.append(f"reading={theirs.reading}")
    if theirs.path != ours.path and not theirs.reading:  # a foreign network is read on any path
        changed += _typed("path", PATHS, theirs.path)
    return changed


def _leaves(table: str, tree: Mapping[str, Any]) -> list[str]:
    """'backbone.depth=4' for every setting."""
    return [f"{table}.{key}={json.dumps(value, separators=(',', ':'))}" for key, value in leaves(tree)]
