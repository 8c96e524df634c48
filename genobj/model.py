"""One trunk, N named heads, one forward (DuMo Eq. 6), and the settings from which it is rebuilt."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from genobj.autoencoders import Autoencoder
from genobj.backbones.base import Backbone, Features, Trunk
from genobj.config.base import Config, Pick
from genobj.heads.base import Head
from genobj.heads.projection import ProjectionHead
from genobj.parts import BACKBONES, HEADS, PATHS
from genobj.paths.base import Path
from genobj.reading import Line, Reading, ReadingName, reading
from genobj.types import Augment, Guide, Horizon, Labels, Point, Samples, TimeTensor

GUIDE = 3
"""Numbers of fed guidance: further channels of x_t where a trunk has no place of its own for them."""


class Model(nn.Module):
    """F_theta(x_t, t, r, y) -> {head: prediction}."""

    in_shards: bool = False
    """Whether FSDP2 spreads the weights over devices."""

    def __init__(
        self,
        trunk: Trunk,
        heads: Mapping[str, nn.Module],
        horizons: Mapping[str, Horizon],
        *,
        trunk_r: bool,
        sign: bool = False,
        fed: float = 0.0,
        guided: bool = False,
        augmentation: int = 0,
        reading: Reading | None = None,
    ):
        """trunk_r: whether the trunk is told r; sign: whether it is told by the sign of t which end is meant (-t where
        r = t). guided: whether it is told fed guidance itself (Backbone.guided)."""
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleDict(heads)
        self.horizons = dict(horizons)
        self.trunk_r, self.sign, self.fed, self.guided, self.augmentation = trunk_r, sign, fed, guided, augmentation
        self.reading = reading
        """How the weights are read, where they come from elsewhere; times of heads are always ours."""
        interval = {name for name, horizon in horizons.items() if horizon == "interval"}
        self.sees_r = frozenset(heads) if trunk_r or sign else frozenset(interval)
        """Heads whose output depends on r."""

    @property
    def units(self) -> list[nn.Module]:
        """The repeated blocks of the trunk and of deeper heads; none if the trunk has none."""
        deeper = [head.blocks for head in self.heads.values() if isinstance(head, ProjectionHead)]
        return self.trunk.units and [*self.trunk.units, *(block for blocks in deeper for block in blocks)]

    @property
    def has_dropout(self) -> bool:
        """Whether forwards in training mode draw dropout masks (by modules: nothing can see a call of F.dropout)."""
        return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in self.modules())

    def lowered(self) -> "Reweighted":
        """This network in bf16."""
        return Reweighted(self, None if self.in_shards else dict(self.named_parameters()), low=True)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Whole weights inside, where they are in shards: for functions that pass by the hooks that gather them."""
        if not self.in_shards:
            yield
            return
        from torch.distributed.fsdp import FSDPModule  # takes half a second to import

        shards = [module for module in self.modules() if isinstance(module, FSDPModule)]
        for module in shards:
            module.unshard()
        try:
            yield
        finally:
            for module in shards:
                module.reshard()

    def forward(
        self,
        x_t: Samples,
        t: TimeTensor,
        *,
        r: TimeTensor | None = None,
        y: Labels | None = None,
        g: Guide | None = None,
        a: Augment | None = None,
        low: bool = False,
    ) -> dict[str, Tensor]:
        """One tensor per head, shaped like x_t; r is needed only if some head or the trunk sees it, g if it is fed.

        a: augmentation labels, for networks built to be told them; without them nothing was augmented. low: give the
        trunk its state in bf16; readings, whose factors can be large, see all digits of x_t.
        """
        line = None if self.reading is None else self.reading.line(t)
        features = self._features(self.trunk, Point(x_t, t, r, y, g, a), low, line)
        out = {name: head(features, t, r) for name, head in self.heads.items()}
        if self.reading is None or line is None:
            return out
        jump = self.reading.jump(t) if "data" in self.horizons.values() else line
        read = {name: jump if horizon == "data" else line for name, horizon in self.horizons.items()}
        return out | {name: read[name].velocity(out[name], x_t) for name in read}

    def judge(self, head: str, point: Point, low: bool = False) -> tuple[Tensor, Tensor]:
        """See types.Passes.judge: one forward of the trunk, two of the head."""
        frozen = {name: p.detach().bfloat16() if low else p.detach() for name, p in self.trunk.named_parameters()}

        def trunk(*args: Any, **told: Any) -> Features:
            return torch.func.functional_call(self.trunk, frozen, args, told)

        features, judge = self._features(trunk, point, low), self.heads[head]
        hidden, condition, context = features
        seen = Features(hidden.detach(), condition.detach(), None if context is None else context.detach())
        own = judge(seen, point.t, point.r)
        fixed = {name: p.detach() for name, p in judge.named_parameters()}
        return own, torch.func.functional_call(judge, fixed, (features, point.t, point.r))

    def _features(self, trunk: Callable[..., Features], point: Point, low: bool, line: Line | None = None) -> Features:
        """What a trunk says of a point, which it is shown in the way that its reading wants."""
        x_t, t, r, y, g, a = point
        if self.sign and r is not None:
            t = torch.where(r == t, -t, t)
        state, time, target = x_t, t, r
        if self.reading is not None:
            state, time = (line or self.reading.line(point.t)).state(x_t), self.reading.time(t)
            target = None if r is None else self.reading.time(r)
        state = state.bfloat16() if low else state
        told: dict[str, Tensor | None] = {"a": a} if self.augmentation else {}
        if self.fed:
            g = _unguided(x_t) if g is None else g
            if self.guided:
                told["g"] = g
            else:
                state = torch.cat([state, _channels(state, g)], 1)
        return trunk(state, time, r=target if self.trunk_r else None, y=y, **told)


def _unguided(like: Samples) -> Tensor:
    """Scale 1 from t = 0 to t = 1, (b, 3). Made where it is used: a copy from the host would wait for the device."""
    one = like.new_ones(len(like), 1)
    return torch.cat([one, 0 * one, one], 1)


def _channels(x_t: Samples, g: Guide) -> Tensor:
    """1 - 1/w, low and high as constant channels (b, 3, ...)."""
    told = torch.cat([1 - 1 / g[:, :1], g[:, 1:]], 1).to(x_t.dtype)
    return told.view(*told.shape, *[1] * (x_t.ndim - 2)).expand(-1, -1, *x_t.shape[2:])


def _attribute(name: str) -> str:
    if not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise ValueError(f"{name!r} cannot name a head; type letters, digits and _, as in v")
    return name


HeadName = Annotated[str, AfterValidator(_attribute)]


class Reweighted:
    """A network that runs with other weights than the module it borrows.

    weights: by name, borrowed too; None for the module's own. low: run in bf16 from layer to layer, with bf16 copies of
    the weights, through which gradients reach the originals (shards are gathered in bf16 by the module itself: None).
    """

    def __init__(self, model: Model, weights: Mapping[str, Tensor] | None, *, low: bool = False):
        self.model, self.horizons, self.sees_r, self.fed = model, model.horizons, model.sees_r, model.fed
        self.augmentation = model.augmentation
        self.low, self.weights = low, weights
        if low and weights is not None:
            self.weights = {name: value.bfloat16() for name, value in weights.items()}

    def lowered(self) -> "Reweighted":
        """This network in bf16."""
        return Reweighted(self.model, self.weights, low=True)

    def __call__(
        self,
        x_t: Samples,
        t: TimeTensor,
        *,
        r: TimeTensor | None = None,
        y: Labels | None = None,
        g: Guide | None = None,
        a: Augment | None = None,
    ) -> dict[str, Tensor]:
        """See types.Network; t stays as it is."""
        told = {"r": r, "y": y, "g": g, "a": a, "low": self.low}
        if self.weights is None:
            return self.model(x_t, t, **told)
        return torch.func.functional_call(self.model, dict(self.weights), (x_t, t), told)


class ModelSettings(Config):
    """Everything that rebuilds a network and samples from it; stored beside the weights."""

    backbone: Annotated[Backbone, Pick(BACKBONES, "mlp")]
    """Trunk."""
    heads: Annotated[dict[HeadName, Annotated[Head, Pick(HEADS, "projection")]], Field(min_length=1)]
    """Outputs by name."""
    horizons: dict[str, Horizon]
    """Where each head's average velocity ends, as its objective trained it."""
    shape: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
    """Shape of one sample."""
    classes: Annotated[int, Field(ge=0)]
    """Number of labels; the null label is `classes`."""
    path: Annotated[Path, Pick(PATHS, "linear")]
    """The path that the model was trained on."""
    fed: Annotated[float, Field(ge=0)] = 0.0
    """Largest guidance scale that the network is told; 0: guidance is no input."""
    augmentation: Annotated[int, Field(ge=0)] = 0
    """Numbers in the augmentation labels that the network is told in training; 0: none."""
    reading: ReadingName | None = None
    """Conventions of a network that was trained elsewhere: 'sit' (time and sign reversed), 'ddpm' (noise prediction at
    1000 levels), 'edm' (inside EDM's preconditioning), 'target' (UCGM's networks); unset: ours."""
    autoencoder: Autoencoder | None = None
    """What decodes samples to images; unset: samples are what they are."""

    def build(self, seed: int = 0) -> Model:
        """The network with fresh weights (on the default device), the same for the same seed.

        ValueError if the backbone cannot take the shape, or cannot be told augmentation labels that there are.
        """
        guided = bool(self.fed) and self.backbone.guided
        r_in = {name: self._r_in(name) for name, horizon in self.horizons.items() if horizon in ("interval", "ends")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            trunk_r = "trunk" in r_in.values()
            shape = (self.shape[0] + GUIDE * (bool(self.fed) and not guided), *self.shape[1:])
            trunk = self.backbone.build(shape, self.classes, sees_r=trunk_r, **self._told(guided))
            sees = {name: bool(r_in) if head.scalar else r_in.get(name) == "head" for name, head in self.heads.items()}
            heads = {name: head.build(trunk, self.shape[0], sees_r=sees[name]) for name, head in self.heads.items()}
        read = reading(self.reading, self.path)
        more = {"fed": self.fed, "guided": guided, "augmentation": self.augmentation, "reading": read}
        return Model(trunk, heads, self.horizons, trunk_r=trunk_r, sign="sign" in r_in.values(), **more)

    def _told(self, guided: bool) -> dict[str, Any]:
        """What only backbones that can be told it are asked to take."""
        if self.augmentation and not self.backbone.augments:
            name = BACKBONES.name_of(type(self.backbone))
            raise ValueError(
                f"data.augment: backbone {name} cannot be told how a sample was augmented; leave data.augment out, or "
                "type backbone=unet."
            )
        told = {"guided": guided, "augmentation": self.augmentation}
        return {name: value for name, value in told.items() if value}

    def _r_in(self, name: str) -> str:
        return self.heads[name].r_in or ("trunk" if len(self.horizons) == 1 else "head")
