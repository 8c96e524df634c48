"""Samplers from the command line: a name, numbers of evaluations, settings."""

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from genobj.config.load import Layers, parse_override
from genobj.evaluation import Evaluation
from genobj.samplers.base import Sampler
from genobj.types import Horizon


def build(
    horizons: Mapping[str, Horizon], name: str | None, nfe: Sequence[int], overrides: Sequence[str]
) -> list[Sampler]:
    """One sampler per nfe that a model with these heads can answer; ValueError says what is wrong.

    Settings without a name apply to the usual sampler of each nfe.
    """
    layers = Layers()
    for text in overrides:
        layers.put(["sampler", *parse_override(text)[0]], parse_override(text)[1], text)
    settings = layers.tree.get("sampler", {})
    if name is None and not settings:
        return list(Evaluation(nfe=tuple(nfe)).samplers(horizons).values())
    if name is None:
        usual = Evaluation(nfe=tuple(nfe)).samplers(horizons).values()
        return [type(s).model_validate(s.model_dump(mode="json") | settings) for s in usual]
    tree = {"sampler": {"kind": name, **settings}, "nfe": list(nfe)}
    return list(TypeAdapter(Evaluation).validate_python(tree).samplers(horizons).values())
