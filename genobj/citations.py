"""Which papers an experiment stands on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genobj.config.base import Config

BIBLIOGRAPHY = Path(__file__).parent / "references.bib"


def entries(settings: Config) -> list[str]:
    """BibTeX entries of genobj itself and of every part in a settings tree, each once."""
    known = bibliography()
    keys = dict.fromkeys(["genobj", *(key for part in _parts(settings) for key in part.citations)])
    return [known.get(key, key) for key in keys]


def bibliography() -> dict[str, str]:
    """Key -> entry of references.bib."""
    texts = BIBLIOGRAPHY.read_text(encoding="utf-8").strip().split("\n\n")
    return {text.partition("{")[2].partition(",")[0]: text for text in texts}


def _parts(value: Any) -> Iterator[Config]:
    if isinstance(value, Config):
        yield value
        for field in type(value).model_fields:
            if field not in value.idle:
                yield from _parts(getattr(value, field))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _parts(item)
