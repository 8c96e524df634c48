"""One draw, one forward with gradients, N objectives (DuMo Alg. 1)."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from genobj.guidance.base import Guidance
from genobj.objectives.base import Objective
from genobj.passes import Count, Masks, StepPasses, TrainedNetwork
from genobj.paths.base import Path
from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.types import Draw, Horizon, Labels, Point, Samples, Weights, over

Networks = Mapping[Weights, TrainedNetwork]


class Loss(NamedTuple):
    """The number to minimise and what it is made of."""

    total: Tensor
    """Weighted sum of the terms (DuMo Eq. 9), a scalar with gradient."""
    terms: dict[str, Tensor]
    """Batch mean of every objective, unweighted, detached."""
    passes: Count
    """What this step cost."""


class Composer:
    """Weighted sum of objectives on one shared draw and one shared forward.

    classes: number of labels, 0 for none; label_drop: probability that a label becomes the null label `classes`;
    shared_masks: whether the network has dropout, whose masks all passes of a step then share;
    low: whether the forward with gradients runs under bf16 autocast.
    Raises ValueError if the objectives contradict each other or the guidance.
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
        shared_masks: bool = False,
        low: bool = False,
    ):
        self.path, self.times, self.pairs, self.objectives, self.guidance = path, times, pairs, objectives, guidance
        self.classes, self.label_drop, self.shared_masks, self.low = classes, label_drop, shared_masks, low
        self.horizons = horizons(objectives)
        if guidance.active and not classes:
            raise ValueError("guidance needs labelled data; type guidance=none, or choose data with labels (digits)")
        for name, objective in objectives.items():
            if refusal := objective.refusal(guided=guidance.active):
                raise ValueError(f"objectives.{name}: {refusal}")

    @property
    def networks(self) -> frozenset[Weights]:
        """Networks that a step needs."""
        online: frozenset[Weights] = frozenset({"online"})
        used = [objective.networks for objective in self.objectives.values()]
        return online.union(*used, self.guidance.networks if self.guidance.active else ())

    def draw(self, x: Samples, y: Labels | None, generator: torch.Generator) -> Draw:
        """Alg. 1, lines 2 to 5, with dropped labels; everything random comes from `generator`."""
        batch, device = len(x), x.device
        z = torch.randn(x.shape, generator=generator, device=device)
        if "interval" in self.horizons.values():
            t, r = self.pairs.sample(self.times, batch, generator)
        else:
            t = self.times.sample(batch, generator)
            r = torch.zeros_like(t)  # nobody looks at it
        x_t, v_t = self.path.point(x, z, t), self.path.velocity(x, z, t)
        if self.path.bridge:
            x_t = x_t + self.path.bridge * torch.randn(x.shape, generator=generator, device=device)
        if y is None or not self.classes:
            return Draw(x, z, t, r, x_t, v_t, v_t)
        dropped = torch.rand(batch, generator=generator, device=device) < self.label_drop
        return Draw(x, z, t, r, x_t, v_t, v_t, y.masked_fill(dropped, self.classes), dropped)

    def __call__(self, networks: Networks, x: Samples, y: Labels | None, generator: torch.Generator) -> Loss:
        """One step's loss on fresh draws."""
        return self.loss(networks, self.draw(x, y, generator))

    def loss(self, networks: Networks, draw: Draw) -> Loss:
        """Alg. 1, lines 7 to 12, on a given draw."""
        masks = Masks(draw.x_t.device) if self.shared_masks else None
        passes = StepPasses(networks, len(draw.x_t), masks, low=self.low)
        with torch.autocast(draw.x_t.device.type, torch.bfloat16) if self._autocast(draw.x_t) else nullcontext():
            out = passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
            with torch.no_grad():
                draw = self.guided(draw, passes)
            terms = {name: objective.loss(out, draw, passes).mean() for name, objective in self.objectives.items()}
        total = reduce(torch.add, [self.objectives[name].weight * term for name, term in terms.items()])
        return Loss(total, {name: term.detach() for name, term in terms.items()}, passes.count)

    def _autocast(self, x: Samples) -> bool:
        return self.low and torch.amp.is_autocast_available(x.device.type)

    def guided(self, draw: Draw, passes: StepPasses) -> Draw:
        """The draw with line 9's velocity where guidance holds: kept labels, times in the interval."""
        if not self.guidance.active:
            return draw
        low, high = self.guidance.interval
        where = (draw.t >= low) & (draw.t <= high)
        if draw.dropped is not None:
            where = where & ~draw.dropped
        v = self.guidance.velocity(draw, passes, self.classes)
        return draw._replace(v_t=torch.where(over(where, v), v, draw.v_path))


def horizons(objectives: Mapping[str, Objective]) -> dict[str, Horizon]:
    """Horizon of every head that the objectives train; ValueError if two of them disagree about one head."""
    found: dict[str, Horizon] = {}
    owner: dict[str, str] = {}
    for name, objective in objectives.items():
        for head, horizon in objective.trains.items():
            if found.setdefault(head, horizon) != horizon:
                raise ValueError(
                    f"objectives {owner[head]!r} and {name!r} want different things of head {head!r} "
                    f"({found[head]}, {horizon}); give each a head of its own, e.g. objectives.{name}.head={name}_head"
                )
            owner.setdefault(head, name)
    return found
