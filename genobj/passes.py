"""The gradient-free evaluations of one training step: memoised, batched, counted (DESIGN.md section 6)."""

from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import is_
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genobj.model import Model
from genobj.precision import exactly
from genobj.tangents.tape import Tape
from genobj.types import Augment, AugmentedNetwork, Horizon, Losses, Network, Point, Samples, T, Weights

Outputs = dict[str, Tensor]
Notes = dict[str, Losses]


class TrainedNetwork(Network, Protocol):
    """A network that says which of its heads depend on r."""

    @property
    def sees_r(self) -> frozenset[str]:
        """Heads whose output changes with r."""
        ...


@runtime_checkable
class CanLower(Protocol):
    """A network that can run in bf16 throughout."""

    def lowered(self) -> Network:
        """It in bf16."""
        ...


class Count(NamedTuple):
    """Passes of one step, in units of the whole batch."""

    with_gradient: float = 0
    """The forward that is differentiated."""
    without_gradient: float = 0
    """Plain forwards."""
    tangent: float = 0
    """Exact derivatives: each costs about three plain forwards, beside the main forward little more than one."""
    teacher: float = 0
    """Those of the plain forwards that the frozen network runs."""


@dataclass
class _Known:
    """What was evaluated where: the outputs of all rows from `first` on."""

    kind: tuple[Hashable, ...]
    of: tuple[object, ...]
    precise: bool
    first: int
    out: Outputs

    def without(self, skip: int) -> Outputs:
        """The outputs without the first `skip` rows of the batch."""
        gone = skip - self.first
        return {head: value[gone:] for head, value in self.out.items()} if gone else self.out


class StepPasses:
    """What objectives and guidance ask for. Points are equal if their tensors are the same objects.

    networks: the live network ("online") and, where needed, its average ("ema") and a teacher ("frozen").
    masks: state of the random number generators before the main forward if dropout is on; every pass starts from it,
    so that all evaluations of a step share their dropout masks (none are batched together, no rows are skipped).
    low: whether networks run in low precision unless a pass is asked to be precise: under the caller's autocast, or,
    if `pure`, in bf16 throughout, with copies of the weights that are made once a step. a: augmentation labels of the
    batch, fed to every network that takes them.
    """

    def __init__(
        self,
        networks: Mapping[Weights, TrainedNetwork],
        batch: int,
        masks: "Masks | None" = None,
        *,
        low: bool = False,
        pure: bool = False,
        a: Augment | None = None,
    ):
        self.networks, self.batch, self.masks, self.low, self.pure = networks, batch, masks, low, pure
        self.a = a
        self._copies: dict[Weights, Network] = {}
        self._rows = {"with_gradient": 0, "without_gradient": 0, "tangent": 0, "teacher": 0}
        self._known: list[_Known] = []
        self._tapes: list[tuple[Point, Tape]] = []
        self._noted: Notes = {}
        self._memory: dict[Hashable, list[tuple[tuple[object, ...], Any]]] = {}

    @property
    def count(self) -> Count:
        """What was run so far."""
        return Count(**{kind: rows / self.batch for kind, rows in self._rows.items()})

    def main(self, point: Point, beside: Collection[str] = ()) -> Outputs:
        """A forward with gradients; its detached outputs are known from here on.

        beside: heads whose tangents will be asked for beside it; it is recorded if there are any.
        """
        out = self._recorded(point, beside) if beside else self._outputs(self._told(point, "online"), low=self.low)
        detached = {head: value.detach() for head, value in out.items()}
        self._known.append(_Known(("plain", "online"), tuple(point), not self.low, 0, detached))
        self._rows["with_gradient"] += len(point.x_t)
        return out

    def learn(self, point: Point) -> Outputs:
        """See types.Passes."""
        return self.main(point)

    def judge(self, point: Point, head: str, precise: bool = False) -> tuple[Tensor, Tensor]:
        """See types.Passes; ValueError if the network has no trunk of its own to judge with."""
        net = self.networks["online"]
        if not isinstance(net, Model):
            raise ValueError(f"{type(net).__name__} cannot judge; a critic needs a genobj.model.Model")
        point = self._told(point, "online")
        kind = "with_gradient" if point.x_t.requires_grad else "without_gradient"
        self._rows[kind] += len(point.x_t)
        with self.masks or nullcontext(), _precision(point.x_t, precise):
            own, through = net.judge(head, point, low=self.low and self.pure and not precise)
        return _full(own), _full(through)

    def __call__(
        self, *points: Point, weights: Weights = "online", precise: bool = False, skip: int = 0
    ) -> list[Outputs]:
        """See types.Passes."""
        precise, first = precise or not self.low, 0 if self.masks else skip
        asked = [(p, self._find("plain", weights, p, precise, first)) for p in points]
        sees_r, missing = bool(self.networks[weights].sees_r), list[tuple[Point, _Known | None]]()
        for p, known in asked:
            if (known is None or known.first > first) and not any(_same(p, q, r=sees_r) for q, _ in missing):
                missing.append((p, known))
        if missing:
            for group in [[one] for one in missing] if self.masks else [missing]:
                self._run(group, weights, precise, first)
            asked = [(p, self._find("plain", weights, p, precise, first)) for p in points]
        return [known.without(skip) for _, known in asked if known is not None]

    def velocity(self, point: Point, weights: Weights = "online", answered: int = 0) -> Samples:
        """See types.Passes."""
        net = self.networks[weights]
        head = velocity_head(net.horizons)
        if head not in net.sees_r:
            for known in self._known:
                if known.kind == ("plain", weights) and known.first == 0 and _same(known.of, point, r=False):
                    return known.out[head]
        asked = point._replace(r=point.t) if head in net.sees_r else point
        main = self._find("plain", weights, point, False, 0) if answered and not self.masks else None
        if main is None or main.first:
            return self(asked, weights=weights)[0][head]
        rest = self(asked, weights=weights, skip=answered)[0][head] if answered < len(point.t) else main.out[head][:0]
        return torch.cat([main.out[head][:answered], rest])

    def tangent(
        self,
        point: Point,
        direction: Samples,
        head: str,
        weights: Weights = "online",
        skip: int = 0,
        beside: bool = False,
    ) -> Tensor:
        """See types.Passes."""
        if beside and weights == "online" and (tape := self.recorded(point, head)):
            return self._beside(tape, point, direction).without(skip)[head]
        first = 0 if self.masks else skip
        known = self._find("tangent", weights, (*point, direction), True, first)
        if known is None or known.first > first:
            rows = slice(first, known.first if known else None)
            out = self._tangent(_rows(self._told(point, weights), rows), direction[rows], weights)
            known = self._keep(known, ("tangent", weights), (*point, direction), True, first, out)
        return known.without(skip)[head]

    def _recorded(self, point: Point, heads: Collection[str]) -> Outputs:
        """The main forward, written down for the tangents of some of its heads."""
        tape, out = self._tape(point, "online", low=self.low)
        tape.keep({head: out[head] for head in heads})
        self._tapes.append((point, tape))
        return out

    def _tape(self, point: Point, weights: Weights, *, low: bool) -> tuple[Tape, Outputs]:
        """A forward and its record."""
        x_t, t = point.x_t.detach(), point.t.detach()  # new objects: r may be t itself and must not move with it
        point = self._told(point, weights)
        net, fed = self.networks[weights], [value for value in point if value is not None]
        tape = Tape((x_t, t), fed, net.buffers if isinstance(net, nn.Module) else tuple)
        with tape:
            return tape, self._outputs(point._replace(x_t=x_t, t=t), weights, low=low)

    def recorded(self, point: Point, head: str) -> Tape | None:
        """The record of a main forward at this point, if there is one from which tangents can be had."""
        r = bool(self.networks["online"].sees_r)
        for known, tape in self._tapes:
            if head in tape.outputs and not tape.problem and _same(known, point, r=r):
                return tape
        return None

    def _beside(self, tape: Tape, point: Point, direction: Samples) -> _Known:
        """Tangents of all rows: the record is of the whole batch."""
        of = *point, direction
        known = self._find("beside", "online", of, False, 0)
        if known is None:
            with _precision(point.x_t, not self.low), _gathered(self.networks["online"]):
                out = {head: _full(value) for head, value in tape.along(direction, torch.ones_like(point.t)).items()}
            known = self._keep(None, ("beside", "online"), of, not self.low, 0, out)
            self._rows["tangent"] += len(point.x_t)
        return known

    def note(self, **parts: Losses) -> None:
        """See types.Passes."""
        self._noted |= {name: losses.detach() for name, losses in parts.items()}

    def noted(self) -> Notes:
        """What was noted since the last call."""
        noted, self._noted = self._noted, {}
        return noted

    def remember(self, key: Hashable, make: Callable[[], T], *of: object) -> T:
        """See types.Passes."""
        made = self._memory.setdefault(key, [])
        for known, value in made:
            if len(known) == len(of) and all(map(is_, known, of)):
                return value
        made.append((of, make()))
        return made[-1][1]

    def _find(self, kind: str, weights: Weights, of: tuple[object, ...], precise: bool, first: int) -> _Known | None:
        """What is known of the rows from `first` on, or of some of them in the precision that is asked for."""
        r, key, best = bool(self.networks[weights].sees_r), (kind, weights), None
        for known in self._known:
            if known.kind != key or known.precise < precise or not _same(known.of, of, r=r):
                continue
            joins = known.first <= first or known.precise == precise  # rows of two precisions are never put together
            if joins and (best is None or known.first < best.first):
                best = known
        return best

    def _keep(
        self,
        known: _Known | None,
        kind: tuple[Hashable, ...],
        of: tuple[object, ...],
        precise: bool,
        first: int,
        out: Outputs,
    ) -> _Known:
        """Remember the outputs of rows `first` to where they are known, or to the end."""
        if known is None:
            known = _Known(kind, of, precise, first, out)
            self._known.append(known)
        else:
            known.out = {head: torch.cat([value, known.out[head]]) for head, value in out.items()}
            known.first = first
        return known

    def _run(self, points: list[tuple[Point, _Known | None]], weights: Weights, precise: bool, first: int) -> None:
        """Evaluate the points from row `first` to where they are known, as one batch."""
        rows = [_rows(self._told(p, weights), slice(first, known.first if known else None)) for p, known in points]
        sizes = [len(p.x_t) for p in rows]
        joined = rows[0] if len(rows) == 1 else _join(rows)
        with torch.no_grad(), _precision(joined.x_t, precise):
            out = self._outputs(joined, weights, low=not precise)
        parts = {head: value.split(sizes) for head, value in out.items()}
        for i, (point, known) in enumerate(points):
            own = {head: part[i] for head, part in parts.items()}
            self._keep(known, ("plain", weights), point, precise, first, own)
        self._rows["without_gradient"] += sum(sizes)
        self._rows["teacher"] += sum(sizes) if weights == "frozen" else 0

    def _tangent(self, point: Point, direction: Samples, weights: Weights) -> Outputs:
        def f(x_t: Tensor, t: Tensor) -> Outputs:
            return self._call(weights, point._replace(x_t=x_t, t=t), low=False)

        # Flash attention has no forward-mode rule; difference quotients and tangents are float32 under autocast.
        net = self.networks[weights]
        with torch.no_grad(), _precision(point.x_t, True), sdpa_kernel(SDPBackend.MATH), _gathered(net):
            self._rows["tangent"] += len(point.x_t)
            along = direction, torch.ones_like(point.t)
            if self.masks:  # forward mode would draw other masks
                tape, out = self._tape(point, weights, low=False)
                tape.keep(out)
                if not tape.problem:
                    return tape.along(*along)
            tangents: Outputs = torch.func.jvp(f, (point.x_t, point.t), along)[1]
        return tangents

    def _outputs(self, point: Point, weights: Weights = "online", *, low: bool) -> Outputs:
        return {head: _full(value) for head, value in self._call(weights, point, low).items()}

    def _told(self, point: Point, weights: Weights) -> Point:
        """The point with its augmentation labels, or those of the whole batch, for networks that take them alone."""
        net = self.networks[weights]
        if not (isinstance(net, AugmentedNetwork) and net.augmentation):
            return point if point.a is None else point._replace(a=None)
        whole = point.a is None and len(point.x_t) == self.batch
        return point._replace(a=self.a) if whole else point

    def _call(self, weights: Weights, point: Point, low: bool) -> Outputs:
        told = {name: value for name, value in (("g", point.g), ("a", point.a)) if value is not None}
        net = self._lowered(weights) if low and self.pure else self.networks[weights]
        with self.masks or nullcontext():
            return net(point.x_t, point.t, r=point.r, y=point.y, **told)

    def _lowered(self, weights: Weights) -> Network:
        """A network in bf16, with one copy of its weights for the whole step."""
        net = self.networks[weights]
        if weights not in self._copies:
            with torch.enable_grad():  # the first to ask may do without gradients, the forward after it does not
                self._copies[weights] = net.lowered() if isinstance(net, CanLower) else net
        return self._copies[weights]


class Masks:
    """Replays the random number generators, so that every forward of a step draws the same dropout masks."""

    def __init__(self, device: torch.device):
        self.cuda = device if device.type == "cuda" else None
        self.cpu_state = torch.get_rng_state()
        self.cuda_state = torch.cuda.get_rng_state(device) if self.cuda else None

    def __enter__(self) -> None:
        torch.set_rng_state(self.cpu_state)
        if self.cuda is not None and self.cuda_state is not None:
            torch.cuda.set_rng_state(self.cuda_state, self.cuda)

    def __exit__(self, *_: object) -> None:
        return None


def velocity_head(horizons: Mapping[str, Horizon], who: str = "guidance") -> str:
    """The head that gives the instantaneous velocity: instant, else one asked at r = t. ValueError if none does."""
    for wanted in ("instant", "ends", "interval"):
        for head, horizon in horizons.items():
            if horizon == wanted:
                return head
    have = ", ".join(f"{head} ({horizon})" for head, horizon in horizons.items())
    raise ValueError(
        f"{who} needs a head that gives the velocity; this model has {have}. Type --heads v,... --objectives fm,..."
    )


def _same(a: tuple[object, ...], b: tuple[object, ...], *, r: bool) -> bool:
    """Whether the tensors are the same objects; r (the third one) counts only for networks that see it."""
    return len(a) == len(b) and all(map(is_, a, b) if r else map(is_, a[:2] + a[3:], b[:2] + b[3:]))


def _rows(point: Point, rows: slice) -> Point:
    """The point with these rows of the batch only."""
    return point if rows == slice(0, None) else point.part(rows)


def _join(points: list[Point]) -> Point:
    """One point whose batch is the points' batches in a row; all of them have r, y and g, or none has."""

    def cat(*tensors: Tensor | None) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        assert len(given) in (0, len(tensors)), "points of one batch all have r, y and g, or none has"
        return torch.cat(given) if given else None

    return Point(*(cat(*column) for column in zip(*points, strict=True)))  # type: ignore[arg-type]


def _gathered(net: Network) -> AbstractContextManager[None]:
    """Whole weights inside."""
    return net.gathered() if isinstance(net, Model) else nullcontext()


def _full(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _precision(x: Tensor, precise: bool) -> AbstractContextManager[None]:
    """Full float32 where asked for."""
    return exactly(x.device) if precise else nullcontext()
