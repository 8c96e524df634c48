"""From a study to the runs that it needs: one experiment per variant and seed, with what each may spend."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from genobj import cost
from genobj.config.load import Layers, find_recipe, fingerprint, leaves, read_toml
from genobj.experiment import Experiment
from genobj.plugins import load_plugins
from genobj.studies.results import Point
from genobj.studies.study import Change, Study, name_of

LATER = 10**9
"""As a number of steps: never before the end."""
SAME = {"name", "pictures.count", "log.every", "checkpoint.every", "checkpoint.keep"}
"""Settings that recipes may have of their own without being another variant."""
WATCHED = {"every", "every_count", "batch"}
"""Settings of an evaluation that do not change the scores at the end."""
_COUNTED: dict[str, cost.Cost] = {}
"""Costs of a step by the settings that they depend on: large networks take seconds to count."""
TANGENT = 3
"""Plain forwards that an exact derivative counts as."""


@dataclass(frozen=True)
class Row:
    """A variant at one point of its axes."""

    name: str
    group: str
    title: str
    point: Point
    change: Change
    experiment: Experiment
    """With the first seed, and the number of steps of its own recipe until a budget says otherwise."""

    @cached_property
    def counted(self) -> cost.Cost:
        """Passes, parameters and FLOPs of a step, counted without running one."""
        key = fingerprint(_shape_of_a_step(self.experiment))
        if key not in _COUNTED:
            _COUNTED[key] = cost.measure(self.experiment.model_copy(update={"init": None}))
        return _COUNTED[key]

    @property
    def passes(self) -> float:
        """Network evaluations a training sample and step: with gradients or without one each, a tangent three."""
        count = self.counted.passes
        return count.with_gradient + count.without_gradient + TANGENT * count.tangent


@dataclass(frozen=True)
class Job:
    """One run of a study: a variant with a seed, in a folder that its settings name."""

    variant: str
    seed: int
    experiment: Experiment
    folder: Path
    after: Path | None = None
    """Folder of the run whose weights it starts from."""

    @property
    def scores(self) -> Path:
        """Where the scores of a finished run lie; another evaluation has another file."""
        asked = self.experiment.evaluation.model_dump(mode="json", exclude_defaults=True, exclude=WATCHED)
        return self.folder / f"scores-{fingerprint(asked)}.json"

    @property
    def failure(self) -> Path:
        """Where it says that training failed, and would fail again."""
        return self.folder / "failed.json"


def _shape_of_a_step(experiment: Experiment) -> dict[str, Any]:
    """The settings without those that change numbers, but neither passes nor sizes."""
    tree = experiment.learns()
    for table in ("optim", "times"):
        tree.pop(table)
    for objective in tree["objectives"].values():
        objective.pop("weight", None)
    return tree | {"steps": 0, "train": {k: v for k, v in experiment.tree()["train"].items() if k != "steps"}}


def rows(study: Study) -> list[Row]:
    """The variants with their settings, validated. ValueError names the one whose settings are wrong."""
    found = []
    for group, change in study.variants.items():
        for point in change.points():
            name = name_of(group, point)
            try:
                experiment = _experiment(study, change, point)
            except ValueError as error:
                raise _blamed(name, error) from None
            title = name_of(change.title or group, point)
            found.append(Row(name, group, title, point, change, experiment))
    return found


def _blamed(name: str, error: ValueError) -> ValueError:
    """The first mistake in a variant's settings, with the variant's name."""
    from pydantic import ValidationError

    from genobj.config.base import problems

    told = ": ".join(part for part in next(problems(error)) if part) if isinstance(error, ValidationError) else error
    return ValueError(f"variant {name}: {told}")


def _experiment(study: Study, change: Change, point: Point) -> Experiment:
    """Recipe < the study's numbers of evaluations and metrics < its settings < the variant's < the point's < seed."""
    layers = Layers()
    layers.add(read_toml(find_recipe(change.recipe or study.recipe)), "recipe")
    layers.tree.pop("expected", None)
    for table in change.replace:
        layers.tree.pop(table, None)
    if study.nfe:
        layers.put(["evaluation", "nfe"], [*study.nfe], "study")
    if study.metrics:
        layers.replace("evaluation", layers.tree.get("evaluation", {}) | {"metrics": [*study.metrics]}, "study")
    for tree in (study.settings, change.settings):
        layers.add(tree, "study")
    for axis, value in point.items():
        for key, each in change.axes[axis].sets(value):
            layers.put(key.split("."), each, "axis")
    layers.put(["seed"], study.seeds[0], "study")
    load_plugins(layers.tree.get("plugins", []))
    return Experiment.model_validate(layers.tree)


def steps(study: Study, row: Row, seconds: Mapping[str, float]) -> int:
    """Optimiser steps that the study's budget is worth to a variant; at least one.

    seconds: seconds a step by variant, for budgets of seconds. ValueError where samples are not whole steps.
    """
    budget, train = study.budget, row.experiment.train
    if budget is None:
        return train.steps
    amount = budget.amount * row.change.share
    if budget.kind == "seen" and amount % train.batch:
        raise ValueError(
            f"variant {row.name}: {amount:g} samples are no whole number of steps of {train.batch}; "
            f"type budget.amount={max(1, round(amount / train.batch)) * train.batch}"
        )
    each = {
        "steps": lambda: 1.0,
        "seen": lambda: float(train.batch),
        "passes": lambda: train.batch * row.passes,
        "seconds": lambda: seconds[row.name],
    }[budget.kind]()
    return max(1, round(amount / each))


def jobs(study: Study, found: list[Row], runs: Path, seconds: Mapping[str, float] | None = None) -> list[Job]:
    """A run for every variant and seed, seed by seed, so that a study that is stopped has whole seeds.

    runs: folder that keeps the runs of all studies; equal settings share one.
    """
    planned: list[Job] = []
    for seed in study.seeds:
        mine: dict[str, Job] = {}
        for row in sorted(found, key=lambda row: row.change.start is not None):
            source = mine[row.change.start] if row.change.start else None
            mine[row.name] = _job(study, row, seed, runs, steps(study, row, seconds or {}), source)
        planned += [mine[row.name] for row in found]
    _apart(planned)
    return planned


def _job(study: Study, row: Row, seed: int, runs: Path, count: int, source: Job | None) -> Job:
    e = row.experiment
    looks = {"every": max(1, count // study.looks)} if study.looks else {}
    pictures = {"every": max(1, count // study.pictures), "start": True} if study.pictures else {"every": LATER}
    tree: dict[str, Any] = e.model_copy(update={"seed": seed}).tree()
    tree["train"]["steps"] = count
    tree["evaluation"] |= looks
    tree["pictures"] |= pictures
    if source is not None:
        tree["init"] = tree.get("init", {}) | {"from": str(source.folder)}
    experiment = Experiment.model_validate(tree)
    watched = _watched(study, experiment)
    name = experiment.run_name() + (f"-{fingerprint(watched)[:4]}" if watched else "")
    return Job(row.name, seed, experiment, runs / name, source.folder if source else None)


def on(experiment: Experiment, device: str | None) -> Experiment:
    """The experiment on another device; None: where it says."""
    train = experiment.train
    return experiment.model_copy(update={"train": train.model_copy(update={"device": device or train.device})})


def _watched(study: Study, experiment: Experiment) -> dict[str, Any]:
    """What belongs to a run beside the settings that it learns with: what is written down while it trains (nobody can
    look later), how it survives divergence, and the code of its plugins."""
    e, found = experiment, dict[str, Any]()
    if study.looks:
        found["looks"] = e.evaluation.model_dump(mode="json", exclude_defaults=True)
    if study.pictures:
        found["pictures"] = study.pictures
    if e.diagnose.every:
        found["diagnose"] = e.diagnose.model_dump(mode="json")
    if e.health.rollback:
        found["rollback"] = e.health.rollback
    if e.plugins:
        found["plugins"] = [sha256(Path(file).read_bytes()).hexdigest() for file in e.plugins]
    return found


def _apart(planned: Iterable[Job]) -> None:
    """ValueError if two variants would be one run with one score, although their settings are not the same."""
    first: dict[Path, Job] = {}
    for job in planned:
        twin = first.setdefault(job.scores, job)
        mine, other = (dict(leaves(one.experiment.tree())) for one in (job, twin))
        keys = [key for key in mine | other if mine.get(key) != other.get(key) and key not in SAME]
        if keys:
            raise ValueError(
                f"variants {twin.variant} and {job.variant} differ in {', '.join(keys)} only, which changes nothing "
                "that is learnt or scored: they would be one run; leave one out"
            )
