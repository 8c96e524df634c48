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
from genobj.passes import velocity_head
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
        leaves = not objective.scores_all and _leaves_equal_rows(objective, objectives, found)
        rows = objective.rows or ("rest" if leaves else "all")
        return _possible(name, objective, Share(rows), found, pairs)
    head, horizon = next(iter(mixed.items()))
    apart = f"or give {name!r} a head of its own, objectives.{name}.head={name}_head"
    if horizon == "instant":
        if (objective.rows or "equal") != "equal":
            return _possible(name, objective, Share(objective.rows or "all", "instant"), found, pairs)
        if not pairs.anchors or pairs.gap:
            settings = _rows_where_r_is_t(pairs, jumps=_jumps(head, objectives))
            raise ValueError(
                f"objectives.{name} learns the velocity with the rows of head {head!r} where r = t, and there are "
                f"none; type {settings and settings + ', or '}objectives.{name}.rows=all for an evaluation of its own, "
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
        settings = _rows_where_r_is_t(pairs) or f"objectives.{name}.rows=all"
        raise ValueError(f"objectives.{name}.rows=equal: no row has r = t; type {settings}")
    if chosen.rows == "rest" and pairs.rest == "instant":
        raise ValueError(f"objectives.{name} has no row left: pairs=equal; type pairs=sorted pairs.equal_share=0.5")
    if chosen.rows == "rest" and pairs.equal_share == 1:
        raise ValueError(f"objectives.{name} has no row left: pairs.equal_share=1; type pairs.equal_share=0.5")
    about_r = set(objective.trains.values()) == {"interval"}
    return chosen._replace(skips=chosen.end is None and (about_r or chosen.rows == "rest"))


def _jumps(head: str, objectives: Mapping[str, Objective]) -> bool:
    """Whether a jump to data on this head needs the other rows at r = 0."""
    return any(o.trains.get(head) == "data" and o.rows in (None, "rest") for o in objectives.values())


def _rows_where_r_is_t(pairs: Pairs, *, jumps: bool = False) -> str:
    """What to type so that some rows have r = t (and the others r = 0); empty where the law has no place for them."""
    if jumps and pairs.rest != "data":
        return "pairs=zero pairs.equal_share=0.5"
    share = [] if pairs.anchors or not pairs.mixes else ["pairs.equal_share=0.5"]
    return " ".join(["pairs.finest=velocity", *share] if pairs.gap else share)


def check_anchors(objectives: Mapping[str, Objective], shares: Mapping[str, Share], pairs: Pairs) -> None:
    """ValueError if a head is trained on its own outputs alone: jumps that agree with each other, but with no data."""

    def tied(name: str, head: str) -> bool:
        objective, rows = objectives[name], shares[name].rows
        anchored = objective.anchored and objective.trains[head] != "data"  # a jump to 0 says nothing of r = t
        return objective.weight.span[1] > 0 and (anchored or (pairs.anchors and rows != "rest"))

    for name, objective in objectives.items():
        if objective.anchored or not objective.weight.span[1]:
            continue
        if pairs.rest == "data":
            raise ValueError(
                f"objectives.{name} makes its jumps of shorter ones, which end between t and r, and pairs=zero never "
                "trains those; type pairs=below pairs.equal_share=0.25"
            )
        for head in objective.trains:
            if any(tied(other, head) for other in objectives if head in objectives[other].trains):
                continue
            rows = [f"objectives.{name}.rows=all"] if shares[name].rows == "rest" else []
            share = [] if pairs.anchors else [*([] if pairs.mixes else ["pairs=below"]), "pairs.equal_share=0.25"]
            raise ValueError(
                f"objectives.{name}: nothing ties head {head!r} to the data, for its targets are its own outputs, and "
                f"training diverges; it needs rows with r = t, whose target is the velocity: "
                f"type {' '.join([*rows, *share])}"
            )


def check_velocity(objectives: Mapping[str, Objective], found: Mapping[str, Horizon], pairs: Pairs, who: str) -> None:
    """ValueError if no head gives the velocity that `who` asks for, or if nothing trains that head for it."""
    head = velocity_head(found, who)
    trained = [o for o in objectives.values() if head in o.trains and o.weight.span[1] > 0]
    if not trained:
        raise ValueError(f"{who} asks head {head!r} for the velocity, which weight 0 never trains; take a larger one")
    by_itself = any(o.trains[head] == "instant" and o.rows == "all" for o in trained)
    near = pairs.anchors or pairs.rest == "interval"
    if found[head] == "interval" and not by_itself and (pairs.gap or not near):
        raise ValueError(
            f"{who} asks head {head!r} for the velocity, at r = t, where no row is trained; "
            f"type {_rows_where_r_is_t(pairs) or 'pairs.equal_share=0.25'}, or add a velocity head: --heads v,... "
            "--objectives fm,..."
        )
