"""One draw, one forward with gradients, N objectives (DuMo Alg. 1)."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genobj.guidance.base import Guidance
from genobj.mixture import Share, check_anchors, check_velocity, horizons, share
from genobj.objectives.base import Objective
from genobj.parts import PAIRS
from genobj.passes import Count, Masks, Notes, StepPasses, TrainedNetwork
from genobj.paths.base import Path
from genobj.paths.linear import Linear
from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.types import Augment, Draw, Labels, Losses, Samples, TimeTensor, Weights, over

Networks = Mapping[Weights, TrainedNetwork]
DropWhere = Literal["anywhere", "prefix", "guided"]


class Term(NamedTuple):
    """One objective's part of the loss."""

    value: Tensor
    """Mean over the rows that it scores, unweighted: what is logged."""
    share: Tensor
    """What is added to the total: weighted, and in proportion to its rows."""
    notes: dict[str, Tensor]
    """Means of the parts of its loss that it noted, detached."""
    draw: Draw
    """The draw as this objective is asked about it."""
    out: dict[str, Tensor]
    """The forward with gradients at that draw's point."""


class Scored(NamedTuple):
    """A step's terms, with gradients, and what they were made from."""

    terms: dict[str, Term]
    draw: Draw
    """With the guided velocity."""
    passes: StepPasses


class Loss(NamedTuple):
    """The number to minimise and what it is made of."""

    total: Tensor
    """Weighted sum of the terms (DuMo Eq. 9), a scalar with gradient."""
    terms: dict[str, Tensor]
    """Mean of every objective over its rows, unweighted, detached."""
    passes: Count
    """What this step cost."""
    notes: dict[str, Tensor]
    """Means of parts of objectives' losses that the log shows besides, detached, in the order of `Composer.notes`."""


class Composer:
    """Weighted sum of objectives on one shared draw and one shared forward.

    classes: number of labels, 0 for none; label_drop: probability that a label becomes the null label `classes`;
    drop_where: which rows may lose it (see Experiment); shared_masks: whether the network has dropout, whose masks all
    passes of a step then share; low: whether networks run in bf16
    unless a pass is asked to be precise: under autocast, or, if `pure`, throughout.
    Raises ValueError if the objectives contradict each other, the law of (t, r) or the guidance.
    """

    def __init__(
        self,
        path: Path,
        times: Times,
        pairs: Pairs,
        objectives: Mapping[str, Objective],
        guidance: Guidance,
        *,
        classes: int = 0,
        label_drop: float = 0.0,
        drop_where: DropWhere = "anywhere",
        shared_masks: bool = False,
        low: bool = False,
        pure: bool = False,
    ):
        self.path, self.times, self.pairs, self.objectives, self.guidance = path, times, pairs, objectives, guidance
        self.classes, self.label_drop, self.drop_where = classes, label_drop, drop_where
        self.shared_masks, self.low, self.pure = shared_masks, low, pure
        self.horizons = horizons(objectives)
        self.shares: dict[str, Share] = {name: share(name, objectives, self.horizons, pairs) for name in objectives}
        check_anchors(objectives, self.shares, pairs)
        if guidance.active and guidance.needs_labels and not classes:
            other = ", or guidance.omega=0 to distil a teacher" if "frozen" in guidance.networks else ""
            raise ValueError(
                f"guidance needs labelled data; type guidance=none, or choose data with labels (digits){other}"
            )
        for name in objectives:
            if problem := self._problem(name):
                raise ValueError(f"objectives.{name}{problem}")
            if objectives[name].asks_velocity:
                check_velocity(objectives, self.horizons, pairs, f"objectives.{name}")
        if guidance.active and "frozen" not in guidance.networks:
            check_velocity(objectives, self.horizons, pairs, "guidance")
        groups = {} if pairs.mixes or not self._sees_pairs else pairs.groups(64)
        if label_drop and drop_where == "prefix" and groups:
            raise ValueError(
                f"label_drop_where=prefix takes the labels of the rows at the front, which pairs makes for "
                f"{next(iter(groups))}; type label_drop_where=anywhere"
            )
        if self._own_rows and not any(self._own_rows in objective.groups for objective in objectives.values()):
            raise ValueError(
                f"pairs makes rows {self._own_rows} for the model's own samples, which nothing puts there; "
                f"type pairs.{self._own_rows}=0, or add twinflow"
            )

    def _problem(self, name: str) -> str | None:
        """What an objective needs and this run does not have, with what to type instead, or None."""
        objective = self.objectives[name]
        if refusal := objective.refusal(guided=self.guidance.active):
            return f": {refusal}"
        if self.low and (refusal := objective.low_refusal):
            return f": {refusal}".replace("type derivative.", f"type objectives.{name}.derivative.")
        if objective.straight and not isinstance(self.path, Linear):
            return " holds on the linear path only; type path=linear"
        if objective.straight and isinstance(self.path, Linear) and self.path.damped_below:
            return " holds on straight lines, which a damped velocity leaves; type path.damped_below=0"
        if objective.without_data and not self.guidance.distils:
            return ".image_free learns from a teacher alone, at all times; type guidance=frozen guidance.omega=0"
        if objective.guides and not self.pairs.gap:
            return ".scale guides the finest jumps, and there are none; type pairs=dyadic pairs.finest=step"
        if objective.guides and not (self.classes and self.label_drop):
            lacks = "type label_drop=0.1" if self.classes else "choose data with labels (digits)"
            return f".scale needs the null label, which is never trained; {lacks}"
        if objective.scores_all and self.shares[name].rows != "all":
            return (
                f" has to score every row of the batch; type objectives.{name}.rows=all, or give it a head of its own"
            )
        if refusal := self._rows_refusal(objective):
            return refusal
        if objective.uncertainty and not objective.is_error:
            return " is no error, its sign varies; leave uncertainty out"
        return None

    def _rows_refusal(self, objective: Objective) -> str | None:
        """Why the law of (t, r) does not make the rows that an objective is about, or None."""
        if missing := objective.groups - self.pairs.groups(64).keys():
            shares = " ".join(f"pairs.{group}=1" for group in sorted(missing) if group in type(self.pairs).model_fields)
            makes = _typed(lambda pairs: missing <= pairs.groups(64).keys())
            made = "" if shares else f", which {makes} makes"
            return f" needs rows of its own kinds ({', '.join(sorted(missing))}){made}; type {shares or makes}"
        if objective.shares_times and not (self._sees_pairs and self.pairs.together > 1):
            return f" compares samples that share their times; type {_typed(lambda pairs: pairs.together > 1)}"
        if self._own_rows and not objective.negative:
            asking = [name for name, other in self.objectives.items() if other.groups]
            instead = f"leave it or {asking[0]} out, which needs them" if asking else f"type pairs.{self._own_rows}=0"
            return f": pairs has rows at negative times, {self._own_rows}, which mean nothing to it; {instead}"
        return None

    @property
    def notes(self) -> list[str]:
        """Names of the parts of losses that the log shows besides: 'gan.critic'."""
        return [f"{name}.{part}" for name, objective in self.objectives.items() for part in objective.notes]

    @property
    def networks(self) -> frozenset[Weights]:
        """Networks that a step needs."""
        online: frozenset[Weights] = frozenset({"online"})
        used = [objective.networks for objective in self.objectives.values()]
        return online.union(*used, self.guidance.networks if self.guidance.active else ())

    def draw(
        self,
        x: Samples,
        y: Labels | None,
        generator: torch.Generator,
        progress: float = 0.0,
        part: int = 0,
        parts: int = 1,
        a: Augment | None = None,
    ) -> Draw:
        """Alg. 1, lines 2 to 5, with dropped labels; everything random comes from `generator`.

        progress: share of the run that is over, for schedules. x, y, a: rows part, part + parts, ... of the batch. What
        is random is drawn for the whole batch, so that it is the same over however many devices the batch is spread.
        """
        batch, own = len(x) * parts, slice(part, None, parts)
        if refusal := self.refusal(batch, parts):
            raise ValueError(refusal)

        def normal() -> Tensor:
            whole = torch.randn((batch, *x.shape[1:]), generator=generator, device=x.device)
            return whole if parts == 1 else whole[own].clone()  # a view would keep all of it

        z, (t, r) = normal(), self._times(batch, generator, progress)
        bridge = normal() if self.path.bridge else None
        dropped = None if y is None or not self.classes else self._dropped(t, generator)
        g, g_v = self.guidance.inputs(t, r, generator) if self.guidance.feeds else (None, None)
        chance = None
        if any(objective.draws_chance for objective in self.objectives.values()):
            chance = torch.rand(batch, generator=generator, device=x.device)
        noise = tuple(normal() for _ in range(max(objective.draws_noise for objective in self.objectives.values())))
        if parts > 1:
            t, r = t[own], r[own]
            dropped, g, g_v, chance = (None if row is None else row[own] for row in (dropped, g, g_v, chance))
        y = None if y is None or dropped is None else y.masked_fill(dropped, self.classes)
        place = t.abs() if self._own_rows else t
        x_t, v_t = self.path.point(x, z, place), self.path.velocity(x, z, place)
        x_t = x_t if bridge is None else x_t + self.path.bridge * bridge
        equal, gap = (self.pairs.prefix(batch), self.pairs.gap) if self._sees_pairs else (0, 0.0)
        equal = len(range(part, equal, parts))
        groups = self.groups(batch, part, parts)
        more = {"noise": noise, "groups": groups, "together": self._together, "path": self.path}
        return Draw(x, z, t, r, x_t, v_t, v_t, y, dropped, None, equal, gap, progress, chance, g, g_v, a, **more)

    def refusal(self, batch: int, parts: int) -> str | None:
        """Why a batch cannot be taken in so many parts (with what to type instead), or None.

        Each part needs whole sets of rows that share their times, and as many rows of a group as any other part: means
        over a group are otherwise not those of the batch.
        """
        whole = self._together * parts
        if batch % whole:
            sizes = range(self._together, max(batch // parts, self._together) + 1, self._together)
            fits = [size for size in sizes if batch % size == 0]
            smaller = f"train.micro_batch={fits[-1]}, or " if fits else ""
            return (
                f"{batch} rows in {parts} parts cut the groups of {self._together} that share their times; "
                f"type {smaller}a train.batch that is a multiple of {whole}"
            )
        used = sorted(frozenset[str]().union(*(objective.groups for objective in self.objectives.values())))

        def uneven(size: int) -> list[str]:
            groups = self.pairs.groups(size)
            return [name for name in used if len(groups[name]) % parts]

        if not (names := uneven(batch)):
            return None
        even = next((size for size in range(batch, 32 * batch, whole) if not uneven(size)), None)
        better = f"train.batch={even}, or " if even else ""
        return (
            f"{batch} rows in {parts} parts do not share out those for {', '.join(names)} evenly; "
            f"type {better}another train.micro_batch"
        )

    def groups(self, batch: int, part: int = 0, parts: int = 1) -> dict[str, slice]:
        """Rows of each group among rows part, part + parts, ... of a batch."""

        def before(row: int) -> int:
            return len(range(part, row, parts))

        found = self.pairs.groups(batch) if self._sees_pairs else {}
        return {name: slice(before(rows.start), before(rows.stop)) for name, rows in found.items()}

    @property
    def _sees_pairs(self) -> bool:
        return "interval" in self.horizons.values()

    @property
    def _together(self) -> int:
        return self.pairs.together if self._sees_pairs else 1

    @property
    def _own_rows(self) -> str | None:
        return self.pairs.negative if self._sees_pairs else None

    def _times(self, batch: int, generator: torch.Generator, progress: float) -> tuple[TimeTensor, TimeTensor]:
        times = self.times.at(progress)
        if self._sees_pairs:
            return self.pairs.at(progress).sample(times, batch, generator)
        t = times.sample(batch, generator)
        return t, torch.zeros_like(t)  # nobody looks at it

    def _dropped(self, t: TimeTensor, generator: torch.Generator) -> Tensor:
        """Mask (batch,) of the rows that lose their label."""
        dropped = torch.rand(len(t), generator=generator, device=t.device) < self.label_drop
        if self.drop_where == "prefix":  # as many rows, all at the front
            return torch.arange(len(t), device=t.device) < dropped.sum()
        return dropped & self.guidance.covers(t) if self.drop_where == "guided" else dropped

    def __call__(
        self,
        networks: Networks,
        x: Samples,
        y: Labels | None,
        generator: torch.Generator,
        progress: float = 0.0,
        part: int = 0,
        parts: int = 1,
        a: Augment | None = None,
    ) -> Loss:
        """One step's loss on fresh draws; see `draw`."""
        return self.loss(networks, self.draw(x, y, generator, progress, part, parts, a))

    def loss(self, networks: Networks, draw: Draw) -> Loss:
        """Alg. 1, lines 7 to 12, on a given draw."""
        scored = self.score(networks, draw)
        total = reduce(torch.add, [term.share for term in scored.terms.values()])
        values = {name: term.value.detach() for name, term in scored.terms.items()}
        notes = {f"{name}.{part}": mean for name, term in scored.terms.items() for part, mean in term.notes.items()}
        return Loss(total, values, scored.passes.count, notes)

    def score(self, networks: Networks, draw: Draw) -> Scored:
        """Every objective's term, with gradients."""
        masks = Masks(draw.x_t.device) if self.shared_masks else None
        passes = StepPasses(networks, len(draw.x_t), masks, low=self.low, pure=self.pure, a=draw.a)
        terms: dict[str, Term] = {}
        if draw.y is not None:
            draw = draw._replace(null=torch.full_like(draw.y, self.classes))
        with torch.autocast(draw.x_t.device.type, torch.bfloat16) if self._autocast(draw.x_t) else nullcontext():
            with torch.no_grad():
                for objective in self.objectives.values():
                    draw = objective.prepare(draw, passes)
            ends = {one.end: self._end(draw, one.end) for one in self.shares.values()}
            point = draw.point
            outs = {
                end: passes.main(point if end is None else point._replace(r=r), self._beside(end))
                for end, r in ends.items()
            }
            with torch.no_grad():
                draw = self.guided(draw, passes)
            for name, objective in self.objectives.items():
                mine = self.shares[name]
                own = self._asked(draw, mine, ends[mine.end])
                losses = objective.loss(outs[mine.end], own, passes)
                terms[name] = self._term(name, losses, passes.noted(), outs[mine.end], mine.mask(draw), own)
        return Scored(terms, draw, passes)

    def _term(
        self, name: str, losses: Losses, noted: Notes, out: dict[str, Tensor], rows: Tensor | None, draw: Draw
    ) -> Term:
        weight = self.objectives[name].weight(draw.progress)
        mean, total = _means(losses, rows)
        if noted.keys() != (named := {*self.objectives[name].notes}):
            told = " and ".join(", ".join(sorted(some)) or "nothing" for some in (named, noted))
            raise ValueError(f"objectives.{name}: `notes` and what its loss notes differ, {told}")
        notes = {part: _means(noted[part], rows)[0] for part in self.objectives[name].notes}
        if self.objectives[name].uncertainty:
            s = out[log_variance(name)]
            _, total = _means((-s).exp() * losses + s, rows)
        return Term(mean, weight * total, notes, draw, out)

    def _asked(self, draw: Draw, share: Share, r: TimeTensor) -> Draw:
        """The draw as an objective with this share is asked about it."""
        equal = draw.equal if share.skips else 0
        return draw if share.end is None and equal == draw.equal else draw._replace(r=r, equal=equal)

    def _beside(self, end: str | None) -> frozenset[str]:
        """Heads whose derivatives objectives with this end want beside the forward."""
        wanted = [objective.beside for name, objective in self.objectives.items() if self.shares[name].end == end]
        return frozenset().union(*wanted)

    def _end(self, draw: Draw, end: str | None) -> TimeTensor:
        """The r at which objectives are asked that are not about the drawn one."""
        return draw.r if end is None else draw.t if end == "instant" else torch.zeros_like(draw.t)

    def _autocast(self, x: Samples) -> bool:
        return self.low and not self.pure and torch.amp.is_autocast_available(x.device.type)

    def guided(self, draw: Draw, passes: StepPasses) -> Draw:
        """The draw with line 9's velocity where guidance holds: times in the interval, and labels that were kept."""
        if not self.guidance.active or (draw.y is None and self.guidance.needs_labels):
            return draw
        where = self.guidance.covers(draw.t)
        if draw.dropped is not None and self.guidance.dropped == "plain":
            where = where & ~draw.dropped
        v = self.guidance.velocity(draw, passes)
        return draw._replace(v_t=torch.where(over(where, v), v, draw.v_path))


def _typed(fits: Callable[[Pairs], bool]) -> str:
    """The registered law of (t, r) that fits, as it is typed."""
    return next((f"pairs={name}" for name in PAIRS.names() if fits(PAIRS.get(name)())), "pairs=YOURS, a law with them")


def _means(losses: Losses, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean over some rows, and their sum over the whole batch's size; all rows if none are named."""
    if rows is None:
        mean = losses.mean()
        return mean, mean
    kept = losses.where(rows, 0.0)
    return kept.sum() / rows.sum().clamp(min=1), kept.mean()


def log_variance(name: str) -> str:
    """Name of the head that learns the log-variance of an objective's term."""
    return f"{name}_log_variance"
