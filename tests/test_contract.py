"""What every part of a family must do: a new part is tested by being registered."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from genobj.citations import bibliography
from genobj.cost import measure
from genobj.experiment import Experiment
from genobj.objectives.base import Regression
from genobj.parts import FAMILIES, OBJECTIVES
from genobj.testing import check
from genobj.training.step import StepModule
from genobj.types import Draw, Passes, Samples

PARTS = [(family, name) for family, registry in FAMILIES.items() for name in registry.names()]


@pytest.mark.parametrize(("family", "name"), PARTS, ids=lambda value: value)
def test_part_keeps_its_contract(family: str, name: str) -> None:
    assert check(family, name)


@pytest.mark.parametrize(("family", "name"), PARTS, ids=lambda value: value)
def test_part_cites_known_papers(family: str, name: str) -> None:
    for key in FAMILIES[family].get(name).citations:
        assert key in bibliography() or key.startswith("@"), f"{key} is not in references.bib"


@pytest.mark.parametrize("method", ["central", "backward", "jvp", "tangent"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_counted_passes_equal_planned_ones(method: str, precision: str) -> None:
    low = "autocast" if method == "tangent" and precision == "bf16" else "float32"
    tree = {
        "data": "digits",
        "objectives": {"fm": {}, "cm": {"derivative": {"method": method, "precision": low}}},
        "guidance": "self",
        "train": {"batch": 8, "precision": precision},
    }
    experiment = Experiment.model_validate(tree)
    model, source = experiment.model_settings().build(), experiment.data.open()
    x, y, _ = source.train(range(8), 0)
    loss = StepModule(model, {}, experiment.composer())(x, y, torch.Generator().manual_seed(0))
    assert loss.passes == measure(experiment).passes


@contextmanager
def registered(name: str, cls: type[Regression]) -> Iterator[None]:
    """An objective of this name for a moment."""
    OBJECTIVES.register(name)(cls)
    try:
        yield
    finally:
        OBJECTIVES.unregister(name)


class TestTheContractCanFail:
    """A contract that nothing breaks is no contract."""

    def test_a_gradient_to_another_head(self) -> None:
        class WrongHead(Regression):
            """Trains a head that is not its own."""

            head: str = "u"
            """Head it says it trains."""

            def target(self, draw: Draw, passes: Passes) -> Samples:
                return draw.v_t

            def loss(self, out, draw, passes):  # type: ignore[no-untyped-def]
                return self.distance(out["other"], draw.v_t)

        with registered("wrong_head", WrongHead), pytest.raises(AssertionError, match="gradient"):
            check("objectives", "wrong_head")

    def test_an_undocumented_field(self) -> None:
        class Silent(Regression):
            """Says nothing about its field."""

            head: str = "u"

            def target(self, draw: Draw, passes: Passes) -> Samples:
                return draw.v_t

        with registered("silent", Silent), pytest.raises(AssertionError, match=r"Silent\.head needs a docstring"):
            check("objectives", "silent")

    def test_a_target_of_another_shape(self) -> None:
        class Narrow(Regression):
            """Its target would broadcast."""

            head: str = "u"
            """Head."""

            def target(self, draw: Draw, passes: Passes) -> Samples:
                return draw.v_t[:, :1]

        with registered("narrow", Narrow), pytest.raises(ValueError, match=r"Narrow\.target gave \(16, 1\)"):
            check("objectives", "narrow")

    def test_a_taken_name(self) -> None:
        with pytest.raises(ValueError, match="already taken"):
            OBJECTIVES.register("fm")(OBJECTIVES.get("cm"))


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_an_objective_is_a_page(name: str) -> None:
    file, most = Path(inspect.getfile(OBJECTIVES.get(name))), 120 if name in ("twinflow", "imm") else 60
    assert len(file.read_text().splitlines()) <= most, f"{file.name} has more than {most} lines"
