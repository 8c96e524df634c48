"""The one base of every setting: frozen, strict about keys, helpful when a key is wrong."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from genobj.registry import BrokenPlugin, Registry, UnknownName, did_you_mean


class Config(BaseModel):
    """Frozen settings. An attribute's docstring is its help text, its JSON-schema text and its page in the docs."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    citations: ClassVar[tuple[str, ...]] = ()
    """What a paper that uses this part should cite: keys of genobj/references.bib, or whole BibTeX entries."""

    @property
    def idle(self) -> frozenset[str]:
        """Fields that change nothing with the other settings as they are."""
        return frozenset()

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings behind a suffix of the part's name, as 'b/2' in 'dit-b/2'; UnknownName if it has none."""
        raise UnknownName(f"{cls.__name__} has no presets, got {name!r}.")

    @model_validator(mode="before")
    @classmethod
    def _unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data.keys() - cls.model_fields.keys():
                hint = _deeper(cls, str(key)) or did_you_mean(str(key), cls.model_fields)
                known = ", ".join(cls.model_fields) or "none"
                raise PydanticCustomError(
                    "unknown_key", "{message}", {"message": f"unknown key {key!r}.{hint} Known keys: {known}."}
                )
            for key, value in data.items():  # pydantic would read true as 1
                kind = cls.model_fields[key].annotation
                if isinstance(value, bool) and kind is not bool and bool not in get_args(kind):
                    default = repr(cls.model_fields[key].default)
                    message = f"true and false do not fit here; the default is {default}"
                    raise PydanticCustomError("part", "invalid settings", {"problems": [(key, message)]})
        return data


def _deeper(cls: type[Config], key: str) -> str:
    """A hint at the tables that have a setting of this name: 'lr' is 'optim.lr'."""
    tables = {name: field.annotation for name, field in cls.model_fields.items()}
    known = [
        f"{name}.{key}"
        for name, table in tables.items()
        if isinstance(table, type) and issubclass(table, Config) and key in table.model_fields
    ]
    return f" Did you mean {' or '.join(map(repr, known[:2]))}?" if known else ""


class Pick:
    """In Annotated[Base, Pick(REGISTRY)]: a name, or a table with a `kind`, becomes the class of that name.

    `default` is the kind of a table that names none; `plain` the kind whose field `value` a bare number stands for.
    """

    def __init__(self, registry: "Registry[Any]", default: str | None = None, plain: str | None = None):
        self.registry, self.default, self.plain = registry, default, plain

    def _read(self, data: Any) -> Any:
        table = {"kind": data} if isinstance(data, str) else data
        if self.plain and isinstance(data, int | float) and not isinstance(data, bool):
            table = {"kind": self.plain, "value": float(data)}
        if not isinstance(table, Mapping):
            return data
        kind = table.get("kind", self.default)
        try:
            if not isinstance(kind, str):
                raise UnknownName(f"say which {self.registry.family}: kind = one of {', '.join(self.registry.names())}")
            cls, preset = find(self.registry, kind)
            return cls.model_validate(preset | {key: value for key, value in table.items() if key != "kind"})
        except ValidationError as error:
            raise PydanticCustomError("part", "invalid settings", {"problems": list(problems(error))}) from None
        except (UnknownName, BrokenPlugin) as error:
            raise PydanticCustomError("unknown_name", "{message}", {"message": str(error)}) from None

    def _write(self, part: Config) -> dict[str, Any] | float:
        tree = part.model_dump(mode="json", exclude_none=True)
        kind = self.registry.name_of(type(part))
        return tree["value"] if kind == self.plain else {"kind": kind, **tree}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(
            self._read,
            core_schema.is_instance_schema(source),
            serialization=core_schema.plain_serializer_function_ser_schema(self._write),
        )

    def __get_pydantic_json_schema__(self, _: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        choices: list[dict[str, Any]] = [{"type": "string", "examples": self.registry.names()}]
        if self.plain:
            choices.append({"type": "number"})
        for entry in self.registry.entries():
            if not entry.problem:
                schema = handler.resolve_ref_schema(handler(self.registry.get(entry.name).__pydantic_core_schema__))
                properties = {"kind": {"const": entry.name}, **schema.get("properties", {})}
                choices.append({**schema, "properties": properties})
        return {"anyOf": choices}


def find(registry: "Registry[Any]", name: str) -> tuple[type[Config], dict[str, Any]]:
    """The class called `name` and the settings of its preset: 'dit-b/2' is class 'dit', preset 'b/2'."""
    name = registry.full(name)
    base, dash, suffix = name.partition("-")
    if dash and name not in registry.names() and base in registry.names():
        cls = _settings_class(registry, base)
        if cls.preset.__func__ is Config.preset.__func__:
            registry.get(name)  # it has none: say which names there are
        return cls, cls.preset(suffix)
    return _settings_class(registry, name), {}


def _settings_class(registry: "Registry[Any]", name: str) -> type[Config]:
    cls = registry.get(name)
    if not issubclass(cls, Config):
        raise BrokenPlugin(f"{registry.family} {name!r} is {cls.__qualname__}, which derives from no class of genobj")
    return cls


def named(registry: "Registry[Any]", table: Any) -> Any:
    """In [objectives.fm] the key names the instance; it is the kind as well unless `kind` says otherwise.

    A name, or a list of names, is a table of parts with their defaults.
    """
    table = [table] if isinstance(table, str) else table
    if isinstance(table, list | tuple) and all(isinstance(name, str) for name in table):
        table = {name: {} for name in table}
    if not isinstance(table, Mapping):
        return table
    return {name: {"kind": name, **part} if isinstance(part, Mapping) else part for name, part in table.items()}


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """('optim.lr', 'Input should be greater than 0, got -1') for every mistake, however deep it is nested."""
    for mistake in error.errors(include_url=False):
        steps = [str(step) for step in mistake["loc"] if step != "[key]"]
        where = ".".join(step for step in steps if not step.startswith(("constrained-", "literal[")))
        context = mistake.get("ctx", {})
        if mistake["type"] == "part":
            for inner, message in context["problems"]:
                yield ".".join(filter(None, (where, inner))), message
        else:
            yield where, _sentence(mistake, context)


def _sentence(mistake: Any, context: Mapping[str, Any]) -> str:
    message, got = mistake["msg"].removeprefix("Value error, "), mistake.get("input")
    if mistake["type"] in ("unknown_key", "unknown_name", "value_error"):
        return message
    if mistake["type"] in ("model_type", "dict_type"):
        return f"this is a table of settings, got {reprlib.repr(got)}"
    if mistake["type"] == "missing":
        return "this setting is needed"
    hint = did_you_mean(got, _options(context)) if isinstance(got, str) and mistake["type"] == "literal_error" else ""
    return f"{message}, got {reprlib.repr(got)}.{hint}"


def _options(context: Mapping[str, Any]) -> list[str]:
    return [word.strip(" '") for word in str(context.get("expected", "")).replace(" or ", ",").split(",")]
