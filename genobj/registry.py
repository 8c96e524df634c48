"""Names to classes, with errors that say what to type instead. Imports neither torch nor pydantic."""

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class UnknownName(ValueError):
    """A name that no registry, recipe or command knows."""


class BrokenPlugin(ValueError):
    """A plugin that is installed but cannot be imported."""


class Entry(NamedTuple):
    """One line of `genobj list`."""

    name: str
    summary: str
    source: str
    problem: str


class _Target(NamedTuple):
    """Where a class is: 'module:Class' until first use, then the class itself."""

    value: "str | type"
    source: str


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the names nearest to `word`, or an empty string."""
    spellings = {_fold(name): name for name in known}
    folded = _fold(word)
    near = difflib.get_close_matches(folded, spellings, n=2, cutoff=0.6)
    if not near and len(folded) <= 3:  # one letter of two is half the word; the first is the likelier to be right
        near = difflib.get_close_matches(folded, spellings, n=9, cutoff=0.5)
        near = sorted(near, key=lambda spelling: spelling[0] != folded[0])[:2]
    near += [s for s in spellings if len(folded) > 2 and (s.startswith(folded) or folded.startswith(s)) and len(s) > 2]
    answers = list(dict.fromkeys(spellings[n] for n in near))[:2]
    return f" Did you mean {' or '.join(map(repr, answers))}?" if answers else ""


def reason(error: BaseException) -> str:
    """'ImportError: no module named x', one line however long the story."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _fold(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "").replace(" ", "")


class Registry(Generic[T]):
    """One family of parts (objectives, heads, ...): built-ins, installed plugins and ad-hoc additions.

    Targets are classes or lazy 'module:Class' strings, the very form of an entry point, so that listing names
    imports nothing. Plugins come from the entry-point group `genobj.<family>` and from `register`.
    """

    def __init__(
        self,
        family: str,
        plural: str,
        builtins: dict[str, str],
        titles: dict[str, str] | None = None,
        presets: str | None = None,
    ):
        """presets: 'module:TABLE' of names that stand for a part with settings (samplers.presets has such a table)."""
        self.family, self.plural, self.group = family, plural, f"genobj.{plural}"
        self._presets = presets
        self._titles = titles or {}
        self._targets = {name: _Target(value, "genobj") for name, value in builtins.items()}
        self._plugins_read = False

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted(self._known())

    def get(self, name: str) -> type[T]:
        """The class called `name`.

        Raises UnknownName (with the names that exist and the one that was probably meant) or BrokenPlugin.
        """
        known = self._known()
        if name not in known:
            titles = {title: short for short, title in self._titles.items()}
            hint = did_you_mean(name, [*known, *titles, *self._short()])
            for title, short in titles.items():
                hint = hint.replace(repr(title), repr(short))
            presets = f"; presets: {', '.join(self._short())}" if self._presets else ""
            names = f"Known {self.plural}: {', '.join(self.names())}{presets}."
            raise UnknownName(f"unknown {self.family} {name!r}.{hint} {names}")
        target = known[name]
        if isinstance(target.value, str):
            target = self._targets[name] = _Target(self._import(name, target), target.source)
        return target.value  # type: ignore[return-value]

    def name_of(self, cls: type) -> str:
        """The name `cls` is registered under; UnknownName if there is none."""
        for name, target in self._known().items():
            if target.value is cls or target.value == f"{cls.__module__}:{cls.__qualname__}":
                return name
        raise UnknownName(f"{cls.__qualname__} is not a registered {self.family}; decorate it with register(name).")

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator that adds a class from a notebook, a file or a test. A taken name is a ValueError."""

        def add(cls: type[T]) -> type[T]:
            known, source = self._known(), f"{cls.__module__}.{cls.__qualname__}"
            if name in known and known[name].value == f"{cls.__module__}:{cls.__qualname__}":
                return cls  # imported just now by its own entry point
            if name in known:
                raise ValueError(self._taken(name, known[name].source, source))
            self._targets[name] = _Target(cls, source)
            return cls

        return add

    def unregister(self, name: str) -> None:
        """Forget an ad-hoc name (for tests and notebooks that define a part twice)."""
        self._targets.pop(name, None)

    def entries(self) -> list[Entry]:
        """Name, first docstring line, source and import problem of every part, without importing the built-ins."""
        return [self._entry(name, target) for name, target in sorted(self._known().items())]

    def presets(self) -> list[Entry]:
        """Name and title of everything that stands for a part with settings."""
        return [Entry(name, one.title, f"preset of {one.part}", "") for name, one in self._short().items()]

    def full(self, name: str) -> str:
        """'restart-ect-2' for the preset 'ect-2'; any other name as it is."""
        found = self._short().get(name)
        return name if found is None or name in self._known() else f"{found.part}-{name}"

    def _short(self) -> dict[str, Any]:
        module, _, table = (self._presets or "").partition(":")
        return dict(getattr(importlib.import_module(module), table)) if module else {}

    def _entry(self, name: str, target: _Target) -> Entry:
        if target.source == "genobj" and isinstance(target.value, str):
            return Entry(name, _docstring(target.value), target.source, "")
        try:
            summary = (self.get(name).__doc__ or "").strip().partition("\n")[0]
        except BrokenPlugin as problem:
            return Entry(name, "", target.source, str(problem))
        return Entry(name, summary, target.source, "")

    def _import(self, name: str, target: _Target) -> type:
        module, _, attribute = str(target.value).partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
            if not isinstance(found, type):
                raise TypeError(f"{target.value} is not a class")
            return found
        except (Exception, SystemExit) as error:
            if target.source == "genobj":
                raise
            what = f"{self.family} {name!r} of {target.source}"
            raise BrokenPlugin(f"{what} cannot be imported: {reason(error)}") from error

    def _known(self) -> dict[str, _Target]:
        if not self._plugins_read:
            targets = dict(self._targets)
            for point in importlib.metadata.entry_points(group=self.group):
                package = point.dist
                source = f"{package.name} {package.version}" if package else "an unnamed package"
                if point.name in targets:
                    raise ValueError(self._taken(point.name, targets[point.name].source, source, "Uninstall one."))
                targets[point.name] = _Target(point.value, source)
            self._targets, self._plugins_read = targets, True
        return self._targets

    def _taken(self, name: str, first: str, second: str, advice: str = "Choose another name.") -> str:
        return f"{self.family} {name!r} is already taken: {first} has it, {second} wants it. {advice}"


def _docstring(target: str) -> str:
    """First docstring line of a 'module:Class', read from the source without importing it."""
    module, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec, target
    for node in ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{target} does not exist")
