"""After a run has diverged: back to its last good checkpoint, and on from there with the data that come next.

Data and draws are functions of (seed, step), so repeating the same steps would diverge again. A rollback therefore
takes the weights, averages and optimiser of the checkpoint and leaves the count of steps and samples where it is: the
stretch in between is skipped, and the run ends at the step and on the learning rate that were planned.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from genobj.training.disk import naming
from genobj.training.folder import place, steps
from genobj.training.health import Diverged
from genobj.training.ranks import Ranks
from genobj.training.state import State

LOG = "rollbacks.jsonl"
"""In the run folder: a line per rollback, {"step", "seen", "to", "why"}. Cut on resume as metrics.jsonl is."""


def go_back(
    folder: Path,
    state: State,
    diverged: Diverged,
    allowed: int,
    load: Callable[[int], object],
    save: Callable[[], object],
    ranks: Ranks,
) -> None:
    """Put the newest checkpoint whose weights are finite into `state`, write it down, and save the state there.

    allowed: rollbacks of this run, earlier ones included. load: puts the checkpoint of a step into the state. save:
    writes a checkpoint of the state. Raises `diverged` if the run may not go back or has nothing to go back to.
    Killed at any moment, a resumed run goes back in the same way: what is not saved yet happens again.
    """
    before, found = ranks.once(lambda: (count(folder), steps(folder)))
    if before >= allowed or not found:
        raise Diverged(f"{diverged}; {before} rollbacks did not help") if before else diverged
    step, seen, seconds = state.step, state.seen, state.seconds
    for old in reversed(found):
        load(old)
        if finite(state, ranks):
            break
    else:
        raise Diverged(f"{diverged}. No checkpoint of {folder} has finite weights to go back to")
    state.step, state.seen, state.seconds = step, seen, seconds
    ranks.once(lambda: _note(folder / LOG, {"step": step, "seen": seen, "to": old, "why": str(diverged)}))
    if ranks.first:
        went = f"went back to {place(folder, old)} and on after step {step}: rollback {before + 1} of {allowed}"
        logging.getLogger("genobj").warning(f"{diverged}; {went}")
    save()


def count(folder: Path) -> int:
    """Rollbacks of a run so far."""
    path = folder / LOG
    return len(path.read_text().splitlines()) if path.exists() else 0


def finite(state: State, ranks: Ranks) -> bool:
    """Whether every weight is finite, on every process alike."""
    shards = [p.to_local() if isinstance(p, DTensor) else p for p in state.model.parameters()]
    mine = torch.stack([shard.detach().isfinite().all() for shard in shards]).all()
    return bool(ranks.mean(mine.float()) == 1)


def _note(path: Path, line: dict[str, int | str]) -> None:
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
