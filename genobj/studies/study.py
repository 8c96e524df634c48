"""A study as settings: variants of a base recipe, on equal terms, and the claims that they test. Read from TOML.

A file may hold several sizes of the same study in [scales.NAME]; such a table is laid over the rest of the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from genobj.config.base import Config
from genobj.config.load import Layers, find_recipe, leaves, parse_override, read_toml
from genobj.registry import did_you_mean
from genobj.studies.claims import KINDS, Claim, check

SHIPPED = Path(__file__).parent / "shipped"
Positive = Annotated[int, Field(gt=0)]
Value = bool | int | float | str
OF_RUNS = ("optim", "train", "data", "backbone", "objectives", "heads", "pairs", "times", "guidance", "ema")
"""Tables of recipes that are easily taken for tables of a study."""


class UnknownStudy(ValueError):
    """No study, or no scale, of this name."""


class Budget(Config):
    """What every run may spend, so that the comparison is fair."""

    kind: Literal["steps", "seen", "passes", "seconds"] = "steps"
    """steps: of the optimiser. seen: training samples. passes: network evaluations of training samples, with gradients
    and without (one each). seconds: of training on this machine, from speeds that are measured in turn."""
    amount: Annotated[float, Field(gt=0)]
    """How much of it."""
    slices: Positive = 4
    """Turns in which runs of equal seconds are trained, alternately, so that a slow hour hits all of them."""

    @property
    def idle(self) -> frozenset[str]:
        """Turns matter for the clock alone."""
        return frozenset() if self.kind == "seconds" else frozenset({"slices"})


class Axis(Config):
    """A number that a variant is tried with."""

    values: Annotated[tuple[Value, ...], Field(min_length=1)] = (0,)
    """Points of the axis."""
    settings: tuple[str, ...] = ()
    """Settings that take the value, as in pairs.equal_share."""
    complement: tuple[str, ...] = ()
    """Settings that take 1 - value."""

    def sets(self, value: Value) -> Iterator[tuple[str, Value]]:
        """What a point of the axis means."""
        for key in self.settings:
            yield key, value
        for key in self.complement:
            if isinstance(value, bool | str):
                raise ValueError(f"complement {key!r} takes 1 - value, and {value!r} is no number")
            yield key, round(1 - value, 12)


class Change(Config):
    """A named change of the study's recipe, or several along its axes."""

    title: str = ""
    """What tables call it; unset: its name."""
    recipe: str | None = None
    """Shipped recipe or TOML file; unset: the study's."""
    replace: tuple[str, ...] = ()
    """Tables of the recipe that are dropped before settings are laid over it, as in ["objectives", "heads"]."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings laid over the recipe."""
    axes: dict[str, Axis] = Field(default_factory=dict)
    """Axes by name; every combination of their values is a variant."""
    start: str | None = None
    """Variant whose run of the same seed gives the first weights."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """Multiple of the study's budget that this one gets: it is no equal then, and tables say so."""

    def points(self) -> Iterator[dict[str, Value]]:
        """Every combination of the axes' values; one empty point where there are none."""
        for values in product(*(axis.values for axis in self.axes.values())):
            yield dict(zip(self.axes, values, strict=True))


class Study(Config):
    """Everything a comparison depends on."""

    name: Annotated[str, Field(pattern=r"^[\w.\-]+$")] = "study"
    """Name of its folder."""
    title: str = ""
    """Heading of the report; unset: its name."""
    question: str = ""
    """What it is meant to find out, in a sentence or two."""
    measure: Literal["scores", "speed", "cost"] = "scores"
    """scores: train and evaluate. speed: time training steps only. cost: count only; nothing is run."""
    recipe: str = "dumo-moons"
    """Recipe that variants change."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings for all variants, laid over their recipes."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    """A run of every variant for each; equal seeds are paired."""
    budget: Budget | None = None
    """What every run may spend; unset: what its recipe says."""
    nfe: tuple[Positive, ...] = ()
    """Network evaluations per sample; unset: the recipe's."""
    metrics: tuple[str, ...] = ()
    """Metrics; unset: the recipe's."""
    looks: Annotated[int, Field(ge=0)] = 0
    """Scores during training, evenly spaced, for curves; 0: at the end only."""
    pictures: Annotated[int, Field(ge=0)] = 0
    """Pictures during training, the first one before any step; 0: at the end only."""
    baseline: str | None = None
    """Variant or group (its best point) that the others are compared with; unset: none."""
    together: tuple[tuple[str, ...], ...] = ()
    """Axes that share a chart and its horizontal axis, as in [["beta", "rho"]]."""
    rounds: Positive = 7
    """Interleaved rounds of a study of speed."""
    variants: Annotated[dict[str, Change], Field(min_length=1)] = Field(default_factory=lambda: {"base": Change()})
    """Named changes."""
    claims: tuple[Claim, ...] = ()
    """What publications, or we, say will come out; those that name no metric are about the first one."""

    @field_validator("seeds", mode="after")
    @classmethod
    def _different_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise ValueError(f"seed {twice[0]} stands there twice, and would be one run; name different ones")
        return seeds

    @model_validator(mode="before")
    @classmethod
    def _settings_of_runs(cls, tree: Any) -> Any:
        """A setting of runs that was typed as one of the study."""
        for key in tree if isinstance(tree, dict) else ():
            if key in OF_RUNS:
                raise ValueError(f"{key} is a setting of the runs; type settings.{key}...")
        return tree

    @field_validator("claims", mode="before")
    @classmethod
    def _first_metric(cls, claims: Any, info: Any) -> Any:
        """Claims that name no metric are about the first one."""
        metrics = ("speed",) if info.data.get("measure") == "speed" else info.data.get("metrics", ())
        if not isinstance(claims, list | tuple) or not metrics:
            return claims
        for number, claim in enumerate(claims, 1):
            kind = claim.get("kind") if isinstance(claim, dict) else None
            if not isinstance(kind, str) or kind not in KINDS:
                hint = did_you_mean(str(kind), KINDS)
                raise ValueError(f"claim {number}: unknown kind {kind!r}.{hint} Known kinds: {', '.join(KINDS)}.")
        return [{"metric": metrics[0]} | claim for claim in claims]

    @model_validator(mode="after")
    def _fits_together(self) -> "Study":
        for name, change in self.variants.items():
            for axis in change.axes.values():
                for key in (*axis.settings, *axis.complement):
                    if not all(key.split(".")):
                        raise ValueError(f"variants.{name}: {key!r} is no setting; type one as in optim.lr")
            if change.start is not None and change.start not in self.variants:
                hint = did_you_mean(change.start, self.variants)
                raise ValueError(f"variants.{name}.start: there is no variant {change.start!r}.{hint}")
            if change.start is not None and (self.variants[change.start].axes or self.variants[change.start].start):
                raise ValueError(
                    f"variants.{name}.start: {change.start!r} has axes or starts from another; name one that does not"
                )
        names = [name for group, change in self.variants.items() for name in (group, *names_of(group, change))]
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline: there is no variant {self.baseline!r}.{did_you_mean(self.baseline, names)}")
        groups = {g: {axis: a.values for axis, a in change.axes.items()} for g, change in self.variants.items()}
        if refusal := check(self.claims, groups, self.metrics, self.nfe):
            raise ValueError(refusal)
        return self


def names_of(group: str, change: Change) -> list[str]:
    """Names of the variants of a group."""
    return [name_of(group, point) for point in change.points()]


def name_of(group: str, point: Mapping[str, Value]) -> str:
    """dumo, or dumo[beta=0.5] where there are axes."""
    inner = ",".join(f"{axis}={value}" for axis, value in point.items())
    return f"{group}[{inner}]" if inner else group


def shipped() -> list[str]:
    """Names of the studies that come with genobj."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find(name: str) -> Path:
    """The file of a shipped study or a study's file; UnknownStudy if there is neither."""
    if name in shipped():
        return SHIPPED / f"{name}.toml"
    if (Path(name) / "study.toml").is_file():
        return Path(name) / "study.toml"
    path, known = Path(name), f"Shipped studies: {', '.join(shipped())}."
    if path.is_file():
        return path
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise UnknownStudy(f"study file {name!r} does not exist. {known}")
    raise UnknownStudy(f"unknown study {name!r}.{did_you_mean(name, shipped())} {known}")


def scales(path: Path) -> list[str]:
    """Names of the scales in a file; none if it has one size."""
    found = read_toml(path).get("scales", {})
    return list(found) if isinstance(found, dict) else []


def of_recipes(names: list[str], overrides: list[str] | None = None, plugins: Sequence[str] = ()) -> Study:
    """Recipes, each a variant as it is, for as many steps as the first one says. ValueError for names that are none."""
    if not names:
        raise ValueError("name a study's file, or recipes, as in genobj compare dumo-moons meanflow-moons")
    layers, stems = Layers(), [find_recipe(name).stem for name in names]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(f"recipe {twice[0]!r} stands there twice; write a study to compare changes of one recipe")
    first = read_toml(find_recipe(names[0])).get("train", {})
    steps = first.get("steps") if isinstance(first, dict) else None
    budget = {"budget": {"kind": "steps", "amount": steps}} if isinstance(steps, int) else {}
    variants = {stem: {"recipe": name} for stem, name in zip(stems, names, strict=True)}
    told = {"name": "-".join(stems)[:80], "title": " against ".join(stems)}
    layers.add({**told, **budget, "variants": variants}, "names")
    return _whole(layers, overrides, plugins)


def load(
    path: Path, scale: str | None = None, overrides: list[str] | None = None, plugins: Sequence[str] = ()
) -> Study:
    """The study in a file at one of its scales (unset: the first), with KEY=VALUE overrides laid over it.

    plugins: Python files that register parts, for all its runs.

    UnknownStudy for a scale that the file does not have; ValueError (or pydantic's, which is one) for what is wrong.
    """
    tree = read_toml(path)
    sizes = tree.pop("scales", {})
    if not isinstance(sizes, dict) or not all(isinstance(size, dict) for size in sizes.values()):
        raise ValueError(f"{path}: scales holds tables, as in [scales.toy]")
    if scale is not None and scale not in sizes:
        have = f"It has {', '.join(sizes)}" if sizes else "It has one size only; leave --scale out"
        raise UnknownStudy(f"{path.stem} has no scale {scale!r}.{did_you_mean(scale, sizes)} {have}.")
    layers = Layers()
    layers.add(tree, str(path))
    for key, value in leaves(sizes.get(scale or next(iter(sizes), ""), {})):
        layers.put(key.split("."), value, str(path))
    _near(path.parent, layers.tree)
    return _whole(layers, overrides, plugins)


def _whole(layers: Layers, overrides: list[str] | None, plugins: Sequence[str]) -> Study:
    """The study, with what the command line says last."""
    for text in overrides or []:
        layers.put(*parse_override(text), text)
    if plugins:
        layers.put(["settings", "plugins"], [str(Path(file).resolve()) for file in plugins], "--plugin")
    return Study.model_validate(layers.tree)


def _near(folder: Path, tree: dict[str, Any]) -> None:
    """Recipes that lie beside the study's file are found there, from wherever it is read."""
    variants = tree.get("variants")
    for table in (tree, *(variants.values() if isinstance(variants, dict) else ())):
        recipe = table.get("recipe") if isinstance(table, dict) else None
        if isinstance(recipe, str) and not Path(recipe).is_file() and (folder / recipe).is_file():
            table["recipe"] = str(folder / recipe)
