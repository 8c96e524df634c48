"""Which rows of the batch, and which target time, each objective is about: N objectives on M heads.

A head that serves one horizon is scored on all rows. A head that serves several is an average velocity with a target
time, and its objectives share the batch (DuMo Eq. 5): those of the velocity score the rows with r = t, those of the
jump to data the rows with r = 0. `rows = "all"` asks for the sum instead: the head is evaluated once more, at the r
that the objective is about, on every row.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from genobj.objectives.base import Objective
from genobj.times.pairs import Pairs
from genobj.types import Draw, Horizon


class Share(NamedTuple):
    """An objective's part of a batch."""

    rows: Literal["all", "equal", "rest"] = "all"
    """Rows that it scores: all, those with r = t, or the others."""
    end: Literal["instant", "data"] | None = None
    """Target time at which it asks its head (r = t, r = 0), in a forward of its own; None: at the drawn r."""
    skips: bool = False
    """Whether rows with r = t need no more than the velocity."""

    def mask(self, draw: Draw) -> Tensor | None:
        """The rows as a mask (batch,); None for all."""
        if self.rows == "all":
            return None
        return draw.r == draw.t if self.rows == "equal" else draw.r != draw.t


def horizons(objectives: Mapping[str, Objective]) -> dict[str, Horizon]:
    """Horizon of every head; one that is asked for several is an interval head, which can answer them all."""
    found: dict[str, Horizon] = {}
    for objective in objectives.values():
        for head, horizon in objective.trains.items():
            found[head] = horizon if found.get(head, horizon) == horizon else "interval"
    return found


def share(name: str, objectives: Mapping[str, Objective], found: Mapping[str, Horizon], pairs: Pairs) -> Share:
    """The part of objective `name`; ValueError, with what to type instead, if the law of (t, r) leaves it nothing."""
    objective = objectives[name]
    mixed = {head: horizon for head, horizon in objective.trains.items() if found[head] != horizon}
    if not mixed:
        rows = objective.rows or ("rest" if _leaves_equal_rows(objective, objectives, found) else "all")
        return _possible(name, objective, Share(rows), found, pairs)
    head, horizon = next(iter(mixed.items()))
    apart = f"or give {name!r} a head of its own, objectives.{name}.head={name}_head"
    if horizon == "instant":
        if (objective.rows or "equal") != "equal":
            return _possible(name, objective, Share(objective.rows or "all", "instant"), found, pairs)
        if not pairs.anchors or pairs.gap:
            raise ValueError(
                f"objectives.{name} learns the velocity with the rows of head {head!r} where r = t, and there are "
                f"none; type {_rows_where_r_is_t(pairs)}, or objectives.{name}.rows=all for an evaluation of its own, "
                f"{apart}"
            )
        return Share("equal")
    if (objective.rows or "rest") == "rest" and pairs.rest == "data":
        return _possible(name, objective, Share("rest"), found, pairs)
    if objective.rows is None:
        equal = pairs.equal_share or 0.5 * _leaves_equal_rows(objective, objectives, found)
        zero = f"pairs=zero pairs.equal_share={equal:g}" if 0 < equal < 1 else "pairs=zero"
        raise ValueError(
            f"objectives.{name} asks head {head!r} for the jump to r = 0, but the drawn r lie elsewhere; "
            f"type {zero}, or objectives.{name}.rows=all for an evaluation of its own, {apart}"
        )
    return _possible(name, objective, Share(objective.rows, "data"), found, pairs)


def _leaves_equal_rows(objective: Objective, objectives: Mapping[str, Objective], found: Mapping[str, Horizon]) -> bool:
    """Whether a velocity objective on the same head takes the rows with r = t."""
    heads = [head for head in objective.trains if found[head] == "interval"]
    return any(
        other.trains.get(head) == "instant" and other.rows in (None, "equal")
        for other in objectives.values()
        for head in heads
    )


def _possible(name: str, objective: Objective, chosen: Share, found: Mapping[str, Horizon], pairs: Pairs) -> Share:
    """The share, if it leaves some rows and the objective is tied to the velocity by some."""
    if chosen.rows != "all" and "interval" not in found.values():
        raise ValueError(f"objectives.{name}.rows={chosen.rows}: no head of this model sees r; leave rows out")
    if chosen.rows == "equal" and (not pairs.anchors or pairs.gap):
        raise ValueError(f"objectives.{name}.rows=equal: no row has r = t; type {_rows_where_r_is_t(pairs)}")
    if chosen.rows == "rest" and pairs.rest == "instant":
        raise ValueError(f"objectives.{name} has no row left: pairs=equal; type pairs=sorted pairs.equal_share=0.5")
    if chosen.rows == "rest" and pairs.equal_share == 1:
        raise ValueError(f"objectives.{name} has no row left: pairs.equal_share=1; type pairs.equal_share=0.5")
    about_r = set(objective.trains.values()) == {"interval"}
    return chosen._replace(skips=chosen.end is None and (about_r or chosen.rows == "rest"))


def _rows_where_r_is_t(pairs: Pairs) -> str:
    """What to type so that some rows have r = t."""
    share = [] if pairs.anchors else ["pairs.equal_share=0.5"]
    return " ".join(["pairs.finest=velocity", *share] if pairs.gap else share)


def check_anchors(objectives: Mapping[str, Objective], shares: Mapping[str, Share], pairs: Pairs) -> None:
    """ValueError if a head is trained on its own outputs alone: jumps that agree with each other, but with no data."""

    def tied(name: str) -> bool:
        learns_velocity = pairs.anchors and shares[name].rows != "rest"
        return objectives[name].weight.span[1] > 0 and (objectives[name].anchored or learns_velocity)

    for name, objective in objectives.items():
        if objective.anchored or not objective.weight.span[1]:
            continue
        for head in objective.trains:
            if any(tied(other) for other in objectives if head in objectives[other].trains):
                continue
            rows = [f"objectives.{name}.rows=all"] if shares[name].rows == "rest" else []
            share = [] if pairs.anchors else ["pairs.equal_share=0.25"]
            raise ValueError(
                f"objectives.{name}: nothing ties head {head!r} to the data, for its targets are its own outputs, and "
                f"training diverges; it needs rows with r = t, whose target is the velocity: "
                f"type {' '.join([*rows, *share])}"
            )
