"""Recipe, shorthand and key=value overrides become one tree; every leaf remembers where it came from."""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from genobj.registry import UnknownName, did_you_mean

RECIPES = Path(__file__).parent.parent / "recipes"
INSTANCES = (["objectives"], ["heads"], ["evaluation", "metrics"])
"""Tables whose keys are names that the user chose, not settings: a bare value takes the place of the whole table."""
SHARED = (["optim"],)
"""Tables whose settings belong to every kind: another kind keeps them."""


class Layers:
    """A tree of plain settings, later layers over earlier ones, with the source of every leaf."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, tree: Mapping[str, Any], source: str) -> None:
        """Lay every leaf of `tree` over what is there."""
        for path, value in leaves(tree):
            self.put(path.split("."), value, source)

    def put(self, path: list[str], value: Any, source: str) -> None:
        """Set one leaf. Another `kind` for a table drops the settings of the old kind."""
        table, trail = self.tree, []
        for key in path[:-1]:
            trail.append(key)
            inner = table.get(key, {})
            if not isinstance(inner, dict):  # backbone = "mlp", then backbone.width = 64
                inner = {"kind": inner}
            table[key] = inner
            table = inner
        key = path[-1]
        if isinstance(table.get(key), dict):
            if isinstance(value, str) and path not in INSTANCES:  # a table gets a bare kind
                return self.put([*path, "kind"], value, source)
            self._drop(path)
        if key == "kind" and trail not in SHARED and table.get("kind", path[-2] if len(path) > 1 else None) != value:
            self._drop(trail)
            table.clear()
        table[key] = value
        self.sources[".".join(path)] = source

    def replace(self, path: str, value: dict[str, Any], source: str) -> None:
        """Put a whole table in place of the one at the top-level key `path`."""
        self._drop([path])
        self.tree[path] = {}
        self.add({path: value}, source)
        self.tree[path] = value | self.tree[path]

    def source(self, path: str) -> str:
        """Where the leaf at `path` came from; 'default' if no layer set it."""
        return self.sources.get(path, "default")

    def _drop(self, trail: list[str]) -> None:
        prefix = ".".join(trail) + "."
        self.sources = {path: source for path, source in self.sources.items() if not path.startswith(prefix)}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ('a.b', value) for every leaf; an empty table is a leaf."""
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def find_recipe(name: str) -> Path:
    """Path of a shipped recipe or of a recipe file; UnknownName if there is neither."""
    if name in recipe_names():
        return RECIPES / f"{name}.toml"
    path, shipped = Path(name), "Shipped recipes: genobj list recipes."
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "config.toml").is_file():
            return path / "config.toml"
        raise UnknownName(f"{name!r} is a folder without config.toml, not a recipe. {shipped}")
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise UnknownName(f"recipe file {name!r} does not exist. {shipped}")
    raise UnknownName(f"unknown recipe {name!r}.{did_you_mean(name, recipe_names())} {shipped}")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; ValueError names the file and the line that is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not a recipe: its values are nested too deeply") from None


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split 'a.b=1e-4' into a path and a TOML value; a bare word is a string."""
    dotted, equals, literal = text.partition("=")
    path = dotted.strip().split(".")
    if text in recipe_names():
        raise ValueError(f"{text!r} is a recipe; type -r {text}")
    if not equals or not all(path):
        raise ValueError(f"{text!r} is not an override; type key=value, as in optim.lr=3e-4")
    try:
        return path, tomllib.loads(f"value = {literal}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return path, literal


def write_toml(tree: Mapping[str, Any]) -> str:
    """TOML text of a settings tree."""
    return tomli_w.dumps(tree)


def fingerprint(tree: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that change when any setting does."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]
