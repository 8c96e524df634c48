"""genobj new: the skeleton of a plugin."""

import re
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Write the skeleton of a plugin that passes 'genobj check'.")

OBJECTIVE = '''"""{title}: say what it learns, with the paper and the formula.

    L = E || u_theta - (v_t - t du_{{theta^-}}/dt) ||^2
"""

from typing import ClassVar

from genobj.derivatives import Derivative
from genobj.objectives.base import Regression
from genobj.parts import OBJECTIVES
from genobj.types import Draw, Horizon, Passes, Samples, over


@OBJECTIVES.register("{name}")
class {cls}(Regression):
    """{title}: one line for genobj list."""

    horizon: ClassVar[Horizon] = "data"  # instant: the velocity; data: the jump to data; interval: any r <= t

    head: str = "u"
    """Head that learns it."""
    derivative: Derivative = Derivative()
    """How du/dt is estimated."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """What the head should say at (x_t, t); called without gradients. Change this line."""
        return draw.v_t - over(draw.t, draw.x_t) * self.derivative(draw, passes, self.head)
'''

PROJECT = """[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "genobj-{dashed}"
version = "0.1.0"
description = "The {name} objective for genobj"
requires-python = ">=3.11"
dependencies = ["genobj"]

[project.entry-points."genobj.objectives"]
{name} = "{module}:{cls}"

[tool.hatch.build.targets.wheel]
include = ["{module}.py"]
"""

TEST = '''"""The contract of the {name} objective: pip install . && pytest"""

from genobj.testing import check


def test_it_keeps_the_contract() -> None:
    assert check("objectives", "{name}")
'''

README = """# genobj-{dashed}

The `{name}` objective for genobj.

    pip install .
    genobj check {name}
    genobj train --heads v,u --objectives fm,{name}
"""


@app.callback()
def _group() -> None:
    """Keep `objective` a subcommand, so that other kinds of parts can join it."""


@app.command("objective")
def objective(
    name: Annotated[str, typer.Argument(help="Name of the objective, as it will be typed in --objectives.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make [dim](genobj-NAME if not given)[/dim].")] = None,
) -> None:
    """Write a package with one objective, its entry point and its test."""
    from genobj.parts import OBJECTIVES

    name = name.strip()
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name):
        raise ValueError(
            f"{name!r} cannot name an objective; type lower-case letters, digits and _ between them, as in my_objective"
        )
    if name in OBJECTIVES.names():
        raise ValueError(f"objective {name!r} is already taken; choose another name")
    dashed, module = name.replace("_", "-"), f"genobj_{name}"
    folder = out or Path(f"genobj-{dashed}")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose another --out")
    cls = "".join(word.capitalize() for word in name.removesuffix("_objective").split("_")) + "Objective"
    words = {"name": name, "dashed": dashed, "module": module, "cls": cls, "title": name.replace("_", " ").capitalize()}
    files = {f"{module}.py": OBJECTIVE, "pyproject.toml": PROJECT, f"tests/test_{name}.py": TEST, "README.md": README}
    (folder / "tests").mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text.format(**words), encoding="utf-8")
    typer.echo(f"{folder / module}.py   change `target`, then:")
    typer.echo(f"genobj check {name} --plugin {folder / module}.py      (as it is)")
    where = folder if folder.is_absolute() else f"./{folder}"
    typer.echo(f"pip install {where} && genobj train --heads v,u --objectives fm,{name}")
