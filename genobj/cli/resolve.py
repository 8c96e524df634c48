"""Recipe, shorthand flags and key=value overrides become one experiment; later ones win."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobj.config.load import RECIPES, Layers, find_recipe, parse_override, read_toml, recipe_names
from genobj.plugins import load_plugins
from genobj.registry import BrokenPlugin, UnknownName

if TYPE_CHECKING:
    from genobj.experiment import Experiment

Recipe = Annotated[
    list[str] | None,  # one; as a list, so that a second one is seen
    typer.Option(
        "-r", "--recipe", metavar="<str>", help="Shipped recipe or TOML file [dim](dumo-moons if not given)[/dim]."
    ),
]
Heads = Annotated[str | None, typer.Option(help="Names of the heads, as in [bold]v,u[/bold].")]
Objectives = Annotated[
    str | None,
    typer.Option(
        help="Objectives, paired with the heads in order, as in [bold]fm,cm[/bold] or [bold]fm@v,cm@u[/bold]."
    ),
]
Backbone = Annotated[str | None, typer.Option(help="Trunk: mlp, unet-tiny, dit-tiny, dit-b/2, ...")]
DataName = Annotated[str | None, typer.Option("--data", help="Data set: moons, digits, ...")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Teacher = Annotated[
    str | None, typer.Option(help="Frozen network to distil or be guided by: a run's folder, as teacher.from.")
]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="Python file that registers more parts.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as in optim.lr=3e-4.", show_default=False),
]

IMAGES = ("zip", "folder", "imagenet", "cifar10", "mnist", "fashion_mnist", "latents")
"""Kinds of data that start from recipe dumo-images."""


def resolve(
    recipe: str | list[str] | None = None,
    heads: str | None = None,
    objectives: str | None = None,
    backbone: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    overrides: list[str] | None = None,
    plugins: list[str] | None = None,
    teacher: str | None = None,
) -> "tuple[Experiment, Layers]":
    """The experiment that the flags describe, and where each of its settings came from.

    Raises ValueError (or pydantic's ValidationError, which is one) that says what is wrong and what to type.
    """
    layers = Layers()
    kind = _kind(data, overrides or [])
    recipe = _only(recipe)
    path = find_recipe(recipe or _base(kind))
    layers.add(read_toml(path), f"recipe {path.stem}" if path.name != "config.toml" else str(path))
    about = _about(layers)
    if recipe is None and kind in IMAGES:  # the recipe's own files are others
        layers.replace("data", {"kind": kind}, "--data")
    _add_plugins(layers, plugins or [])
    for name, value in (("backbone", backbone), ("data", data)):
        if value is not None:
            layers.put([name], value, f"--{name}")
    _pair(layers, _names(heads, "--heads"), _names(objectives, "--objectives"))
    if seed is not None:
        layers.put(["seed"], seed, "--seed")
    if teacher is not None:
        layers.put(["teacher", "from"], teacher, "--teacher")
    for text in overrides or []:
        layers.put(*parse_override(text), text)
    renamed = layers.source("name").startswith("name=")
    if path.parent == RECIPES and _about(layers) != about and not renamed:  # no longer what the recipe's name says
        layers.put(["name"], "-".join(_about(layers)), "--objectives, --data")
    load_plugins(layers.tree.get("plugins", []))

    from genobj.experiment import Experiment

    experiment = Experiment.model_validate(layers.tree)
    if experiment.expected and experiment.learns() != Experiment.model_validate(read_toml(path)).learns():
        experiment = experiment.model_copy(update={"expected": ()})  # published numbers of other settings
    return experiment, layers


def _only(recipe: str | list[str] | None) -> str | None:
    """The recipe that was named, if any; ValueError for several."""
    if not isinstance(recipe, list):
        return recipe
    if len(recipe) > 1:
        names = ", ".join(recipe)
        raise ValueError(f"--recipe is given {len(recipe)} times ({names}); give one, and what differs as KEY=VALUE")
    return recipe[0] if recipe else None


def _about(layers: Layers) -> list[str]:
    """Names of objectives and data."""
    data = layers.tree.get("data", "moons")
    return [*_tables(layers, "objectives"), str(data.get("kind", "moons") if isinstance(data, Mapping) else data)]


def _add_plugins(layers: Layers, files: list[str]) -> None:
    """Load the recipe's plugins and those of the flag, and remember where they are: runs are sampled from elsewhere."""
    named = layers.tree.get("plugins", [])
    if isinstance(named, list) and (named or files):
        every = dict.fromkeys(str(Path(str(file)).resolve()) for file in [*named, *files])
        load_plugins([*every])
        layers.put(["plugins"], [*every], "--plugin" if files else layers.source("plugins"))


def _kind(data: str | None, overrides: list[str]) -> str | None:
    """The kind of data that was asked for."""
    for key in ("data=", "data.kind="):
        data = next((text.removeprefix(key) for text in reversed(overrides) if text.startswith(key)), data)
    return data


def _base(kind: str | None) -> str:
    """Without a recipe: DuMo on such data, if there is such a recipe, else on moons."""
    if kind in IMAGES:
        return "dumo-images"
    return f"dumo-{kind}" if f"dumo-{kind}" in recipe_names() else "dumo-moons"


def _names(text: str | None, flag: str) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{flag} {text!r} has an empty name; type names separated by commas, as in {flag} v,u")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{flag} names {name!r} twice; give each a name of its own")
    return names


def _usual_head(name: str, recipe: Mapping[str, Any]) -> str:
    """The head that an objective trains if nobody says otherwise."""
    from genobj.parts import OBJECTIVES

    field = OBJECTIVES.get(recipe.get(name, {}).get("kind", name)).model_fields.get("head")
    return field.default if field and isinstance(field.default, str) else name


def _heads_apart(pairs: list[tuple[str, str]], recipe: Mapping[str, Any]) -> dict[str, str]:
    """Heads, by objective, of those whose usual head belongs to an earlier objective of another horizon."""
    from genobj.parts import OBJECTIVES

    owners: dict[str, object] = {}
    apart: dict[str, str] = {}
    for name, given in pairs:
        try:
            horizon = getattr(OBJECTIVES.get(recipe.get(name, {}).get("kind", name)), "horizon", None)
        except (UnknownName, BrokenPlugin):
            continue  # told with its place when the settings are read
        head = given or recipe.get(name, {}).get("head") or _usual_head(name, recipe)
        if not given and owners.get(head, horizon) != horizon:
            head = apart[name] = name if owners.get(name, horizon) == horizon else f"{name}_head"
        owners.setdefault(head, horizon)
    return apart


def _tables(layers: Layers, key: str) -> dict[str, dict[str, Any]]:
    """What the recipe says of each name; nothing where it is not a table of tables."""
    found = layers.tree.get(key)
    tables = found.items() if isinstance(found, Mapping) else ()
    return {name: dict(table) for name, table in tables if isinstance(table, Mapping)}


def _pair(layers: Layers, heads: list[str] | None, objectives: list[str] | None) -> None:
    """Put the flags' heads and objectives in place of the recipe's, keeping what the recipe says of the same names."""
    if objectives is not None:
        old = _tables(layers, "objectives")
        sources = {key: layers.source(key) for key in layers.sources}
        pairs = [(name, head) for name, _, head in (text.partition("@") for text in objectives)]
        free = [head for head in heads or [] if head not in [taken for _, taken in pairs]]
        waiting = [name for name, head in pairs if not head]
        if heads is not None and len(free) < len(waiting):
            usual = {name: _usual_head(name, old) for name in waiting[len(free) :]}
            enough = ",".join([*heads, *(f"{name}_head" if h in heads else h for name, h in usual.items())])
            few = f"{len(heads)} head{'s' * (len(heads) > 1)}"
            raise ValueError(f"{len(objectives)} objectives but {few}; type --heads {enough}")
        layers.replace("objectives", {name: old.get(name, {}) for name, _ in pairs}, "--objectives")
        layers.sources |= {k: s for k, s in sources.items() if k in layers.sources and k.startswith("objectives.")}
        if heads is None:
            apart = _heads_apart(pairs, old)
            pairs = [(name, head or apart.get(name, "")) for name, head in pairs]
        for name, head in pairs:
            layers.tree["objectives"].setdefault(name, {})
            chosen = head or (free.pop(0) if heads is not None else "")
            if chosen:
                layers.put(["objectives", name, "head"], chosen, "--objectives" if head else "--heads")
        if heads is None:
            layers.replace("heads", {}, "--objectives")
    if heads is not None:
        old = _tables(layers, "heads")
        layers.replace("heads", {name: old.get(name, {}) for name in heads}, "--heads")
