"""What a step of every objective costs: the tables A10 and B7 of OBJECTIVES.md, by counting.

Passes are told in units of the batch: with gradients + without + exact derivatives (JVP), and how many of those without
are a frozen teacher's. Where rows with r = t are a fixed part of the batch (rho, a prefix), whatever is about the jump
alone is not run in them, which the tables count for MeanFlow's derivative only; `share_by=bernoulli` is the tables'.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from genobj.cli.main import run
from genobj.config.load import write_toml
from genobj.cost import measure
from genobj.experiment import Experiment
from genobj.passes import Count
from genobj.testing import GaussianFlow

JVP = {"derivative": {"method": "jvp"}}
SELF = {"kind": "self", "zeta": 0.5}
OMEGA = {"kind": "mean_flow", "omega": 2.0, "kappa": 0.0}
KAPPA = {"kind": "mean_flow", "omega": 1.0, "kappa": 0.5}
TEACHER = {"kind": "frozen", "omega": 0.0, "zeta": 1.0, "teacher": "runs/teacher"}
GUIDED_TEACHER = TEACHER | {"zeta": 2.0}
SORTED, ROWS = {"kind": "sorted"}, {"kind": "sorted", "equal_share": 0.75, "share_by": "bernoulli"}
PREFIX, BELOW = {"kind": "sorted", "equal_share": 0.75}, {"kind": "below"}
DUMO = {"fm": {"head": "v"}, "cm": {"head": "u"}}
FACM = {"fm": {"head": "u", "rows": "all"}, "facm": {"head": "u", "rows": "all", **JVP}}
IMF = {"fm": {"head": "v"}, "imf": {"head": "u", "derivative": {"method": "jvp", "direction": "predicted"}}}
SOFLOW = {"fm": {"head": "u"}, "soflow": {"head": "u"}}
DYADIC = {"kind": "dyadic", "finest": "step"}


class Row(NamedTuple):
    """One line of the tables."""

    objectives: dict[str, dict[str, Any]]
    expected: Count
    pairs: dict[str, Any] | None = None
    guidance: dict[str, Any] | None = None
    more: dict[str, Any] | None = None

    def experiment(self) -> Experiment:
        """A small network on two moons with labels."""
        tree: dict[str, Any] = {"objectives": self.objectives, "data": {"kind": "moons", "labelled": True}}
        tree |= {"backbone": {"kind": "mlp", "width": 16, "depth": 2}, "train": {"batch": 64}}
        tree |= {"pairs": self.pairs} if self.pairs else {}
        tree |= {"guidance": self.guidance} if self.guidance else {}
        return Experiment.model_validate(tree | (self.more or {}))


A10 = {
    "FM": Row({"fm": {}}, Count(1)),
    "FM, guided": Row({"fm": {}}, Count(1, 1), None, SELF),
    "DuMo": Row(DUMO, Count(1, 2)),
    "DuMo, guided": Row(DUMO, Count(1, 3), None, SELF),
    "discrete CM": Row({"cm": {"lam": 0.9}}, Count(1, 1)),
    "ECT": Row({"ect": {}}, Count(1, 1)),
    "MeanFlow by differences": Row({"mf": {}}, Count(1, 2), SORTED),
    "MeanFlow by differences, omega": Row({"mf": {}}, Count(1, 3), SORTED, OMEGA),
    "MeanFlow by differences, kappa": Row({"mf": {}}, Count(1, 4), SORTED, KAPPA),
    "MeanFlow by JVP": Row({"mf": JVP}, Count(1, 0, 1), SORTED),
    "MeanFlow by JVP, kappa": Row({"mf": JVP}, Count(1, 2, 1), SORTED, KAPPA),
    "UCGM 0": Row({"ucgm": {"ratio": 0.0}}, Count(1)),
    "UCGM 0, enhanced": Row({"ucgm": {"ratio": 0.0}}, Count(1, 1), None, {"kind": "enhanced"}),
    "UCGM 0.5": Row({"ucgm": {"ratio": 0.5}}, Count(1, 1)),
    "UCGM 1": Row({"ucgm": {"ratio": 1.0}}, Count(1, 2)),
    "RCGM 1": Row({"rcgm": {"order": 1}}, Count(1, 1), BELOW),
    "RCGM 2": Row({"rcgm": {"order": 2}}, Count(1, 2), BELOW),
    "RCGM 3": Row({"rcgm": {"order": 3}}, Count(1, 3), BELOW),
    "RCGM 2, enhanced": Row({"rcgm": {"order": 2}}, Count(1, 4), BELOW, SELF),
    "TwinFlow 2": Row({"twinflow": {"order": 2}}, Count(1, 4.75), {"kind": "twin"}, SELF),
    "FACM": Row(FACM, Count(2, 1, 1), None, OMEGA, {"heads": {"u": {"r_in": "sign"}}}),
    "FACM, a second time": Row(FACM, Count(2, 1, 1), None, OMEGA, {"heads": {"u": {"r_in": "trunk"}}}),
    "FACM, teacher": Row(FACM, Count(2, 2, 1, 2), None, GUIDED_TEACHER, {"heads": {"u": {"r_in": "sign"}}}),
    "sCT": Row({"scm": JVP}, Count(1, 0, 1)),
    "sCT by differences": Row({"scm": {}}, Count(1, 2)),
    "sCD": Row({"scm": JVP}, Count(1, 1, 1, 1), None, TEACHER),
    "sCD, guided": Row({"scm": JVP}, Count(1, 2, 1, 2), None, GUIDED_TEACHER),
}
"""OBJECTIVES.md A10, in its order."""

for lam, plain in ((0.5, 1), (1.0, 2)):  # one model that has the velocity too, frozen: zeta is one more pass
    frozen = {"kind": "enhanced", "pull": "model", "weights": "frozen"}
    more = {"teacher": {"from": "runs/teacher"}}
    A10[f"UCGM {lam}, enhanced"] = Row({"ucgm": {"ratio": lam}}, Count(1, plain + 1, 0, 1), None, frozen, more)

B7 = {
    "FM, frozen": Row({"fm": {}}, Count(1, 2, 0, 2), None, {"kind": "frozen", "teacher": "runs/teacher"}),
    "Shortcut": Row({"sc": {}}, Count(1, 2 / 8), DYADIC),
    "iCT": Row({"ict": {}}, Count(1, 1)),
    "CT": Row({"ct": {"weights": "ema"}}, Count(1, 1)),
    "IMM": Row({"imm": {}}, Count(1, 1), {"kind": "grouped"}),
    "AlphaFlow": Row({"alphaflow": {"a": 0.5}}, Count(1, 3), ROWS, KAPPA),
    "AlphaFlow by JVP": Row({"alphaflow": {"a": 0.0, **JVP}}, Count(1, 2, 1), ROWS, KAPPA),
    "SplitMeanFlow": Row({"split": {}}, Count(1, 2), ROWS),
}
"""OBJECTIVES.md B7: what A10 does not say."""

B7 |= {
    # .75 x 1 + .25 x 3: rows with r = t know v(y) from the forward.
    "SoFlow": Row(SOFLOW, Count(1, 1.5), PREFIX, {"kind": "mean_flow", "omega": 0.75, "kappa": 0.75}),
    # 2/8, and 2 passes for the rows of the shortest jumps: one of the eight.
    "Shortcut, guided": Row({"sc": {"scale": 1.5}}, Count(1, 2 / 8 + 2 / 64), DYADIC),
}

FEWER = {
    # iMF asks for v(w) and for v(w where the interval holds t); on its rows with r = t the interval is whole, and on
    # the others the first is not used: one question, 2 passes where the table has 3.
    "iMF": Row(IMF, Count(1, 2, 1), SORTED, {"kind": "fed"}),
    # DuMo's own saving: its velocity head has answered in the forward.
    "MeanFlow beside a velocity head": Row({"fm": {"head": "v"}, "mf": {"head": "u"}}, Count(1, 3), SORTED, KAPPA),
    # Nothing but the velocity is asked for in the rows with r = t, and v(y) is known there from the forward.
    "MeanFlow by JVP, some rows": Row({"mf": JVP}, Count(1, 1.25, 0.25), PREFIX, KAPPA),
    "MeanFlow by differences, some rows": Row({"mf": {}}, Count(1, 1.75), PREFIX, KAPPA),
    "AlphaFlow, some rows": Row({"alphaflow": {"a": 0.5}}, Count(1, 1.5), PREFIX, KAPPA),
    "SplitMeanFlow, some rows": Row({"split": {}}, Count(1, 0.5), PREFIX),
    "FACM on two heads": Row({"fm": {}, "facm": {"head": "u", **JVP}}, Count(1, 1, 1), None, SELF),
}
"""Where a step of ours costs less than the tables say, and why."""

ROWS_OF_ALL = A10 | B7 | FEWER


@pytest.mark.parametrize("name", ROWS_OF_ALL)
def test_passes(name: str) -> None:
    """As planned on empty tensors, and as run."""
    experiment = ROWS_OF_ALL[name].experiment()
    assert measure(experiment).passes == ROWS_OF_ALL[name].expected
    assert _run(experiment) == ROWS_OF_ALL[name].expected


def _run(experiment: Experiment) -> Count:
    """Rows that pass through the networks in a real step, in units of the batch."""
    torch.manual_seed(0)
    composer, model = experiment.composer(), experiment.model_settings().build()
    teacher, rows = Teacher(), [0, 0]  # without and with gradients

    def watch(_: Any, inputs: tuple[Tensor, ...], __: Any) -> None:
        rows[torch.is_grad_enabled()] += len(inputs[0])

    model.register_forward_hook(watch)
    batch = experiment.data.open().train(range(64), 0)
    draw = composer.draw(batch.x, batch.y, torch.Generator().manual_seed(0), progress=0.5)
    loss = composer.loss({"online": model, "ema": model, "frozen": teacher}, draw)
    assert loss.total.isfinite()
    tangent = loss.passes.tangent  # forward mode runs the network too, and nothing tells it from a plain forward
    plain = rows[0] / 64 - tangent + teacher.rows / 64
    return Count(rows[1] / 64, plain, tangent, teacher.rows / 64)


class Teacher(GaussianFlow):
    """A frozen network that gives a velocity and counts its rows."""

    rows = 0

    def __init__(self) -> None:
        super().__init__(heads=("v",))

    def __call__(self, x_t: Tensor, t: Tensor, **told: Tensor | None) -> dict[str, Tensor]:
        self.rows += len(t)
        return super().__call__(x_t, t)


def test_the_command_tells_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = ROWS_OF_ALL["sCD, guided"]
    file = tmp_path / "scd.toml"
    file.write_text(write_toml(row.experiment().tree()))
    assert run(["cost", "-r", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passes"] == {"with_gradient": 1, "without_gradient": 2, "tangent": 1, "teacher": 2}
    assert run(["cost", "-r", str(file)]) == 0
    assert "1 with gradients + 2 without (2 of the teacher) + 1 tangent" in capsys.readouterr().out
