"""The page: controls that all models share, a picture of each, and each one's own sampler below it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from genobj.config.base import problems
from genobj.evaluation import shown
from genobj.pictures import columns
from genobj.play import figures
from genobj.play.knobs import Key
from genobj.play.panels import AUTO, START, Panel, follow, panel
from genobj.play.players import Answer, Noise, Player
from genobj.play.server import gradio

ALL = "all"
"""What the choice of a class calls all of them in turn."""
MOST_NFE, MOST_IMAGES, MOST_POINTS = 64, 100, 5000
"""Ends of sliders."""
LARGE = 3 * 64 * 64
"""Numbers in a sample above which fewer are drawn at first."""


@dataclass(frozen=True)
class Page:
    """What a page shows: one model, or several on the same noise. behind: real points, where samples are points."""

    players: Sequence[Player]
    behind: Tensor | None = None

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.players[0].open().settings.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as it is shown: of latents, that of the image."""
        return shown(self.players[0].open().settings)

    def count(self) -> tuple[int, int]:
        """How many samples are drawn at first, and at most."""
        if len(self.shape) != 3:
            return 1000, MOST_POINTS
        return (4 * (columns(self.classes) or 9) if math.prod(self.shape) <= LARGE else 8), MOST_IMAGES

    def draw(self, noise: Noise, chosen: Sequence[tuple[str, str, Mapping[Key, Any]]]) -> list[str]:
        """HTML of every model's answer to (weights, sampler, controls); a sentence where it cannot give one."""
        answers = [self._asked(player, noise, *one) for player, one in zip(self.players, chosen, strict=True)]
        clouds = [one.x for one in answers if isinstance(one, Answer)] if self.behind is None else [self.behind]
        limit = figures.limit(clouds) if len(self.shape) != 3 else 1.0
        classes = self.classes if noise.label is None else 0
        html = list[str]()
        for player, one in zip(self.players, answers, strict=True):
            if isinstance(one, str):
                html.append(figures.refused(one, player.title))
            else:
                html.append(figures.figure(one, player.title, classes, self.behind, limit))
        return html

    @staticmethod
    def _asked(player: Player, noise: Noise, weights: str, sampler: str, controls: Mapping[Key, Any]) -> Answer | str:
        try:
            return player.answer(noise, weights, None if sampler == AUTO else sampler, controls)
        except ValidationError as error:
            return "{}: {}".format(*next(problems(error)))
        except (ValueError, RuntimeError, MemoryError) as error:  # torch tells of memory with RuntimeError
            return str(error).partition("\n")[0]

    def build(self) -> Any:
        """The page as gradio's blocks, not yet served."""
        ui = gradio()
        with ui.Blocks(title="genobj play", analytics_enabled=False) as blocks:
            ui.HTML(f"<h1>{escape(' and '.join(player.title for player in self.players))}</h1>")
            with ui.Row():
                nfe = ui.Slider(1, MOST_NFE, value=START, step=1, label="NFE", info="Network evaluations per sample.")
                seed = ui.Number(0, precision=0, label="Seed", info="All models see the same noise.")
                again = ui.Button("New noise", min_width=120, scale=0)
            with ui.Row():
                drawings = [self._drawing(ui) for _ in self.players]
            with ui.Row():
                start, most = self.count()
                count = ui.Slider(1, most, value=start, step=1, label="Samples")
                names = [ALL, *map(str, range(self.classes))]
                about = "all: in turn, so that few classes have a column each."
                label = ui.Dropdown(names, value=ALL, label="Class", info=about, visible=bool(self.classes))
            with ui.Row():
                panels = [panel(ui, player) for player in self.players]
            inputs = [nfe, seed, count, label, *(control for one in panels for control in one.inputs())]

            def drawn(*values: Any) -> Any:
                html = self.read(panels, values)
                return html if len(html) > 1 else html[0]

            told = [one.submit if isinstance(one, ui.Textbox) else one.change for one in inputs]
            ui.on([blocks.load, *told], drawn, inputs, drawings, trigger_mode="always_last", show_progress="hidden")
            again.click(lambda value: (value or 0) + 1, seed, seed, show_progress="hidden")
            for player, one in zip(self.players, panels, strict=True):
                follow(ui, one, player, nfe)
        return blocks

    def read(self, panels: Sequence[Panel], values: Sequence[Any]) -> list[str]:
        """HTML of every model for the values of the page's controls, in their order."""
        nfe, seed, count, label, *rest = values
        chosen = list[tuple[str, str, Mapping[Key, Any]]]()
        for one in panels:
            (weights, sampler, *own), rest = rest[: 2 + len(one.controls)], rest[2 + len(one.controls) :]
            chosen.append((weights, sampler, dict(zip(one.controls, own, strict=True))))
        seed = int(seed or 0)  # an emptied field
        if seed < 0:
            return [figures.refused(f"seed {seed}: type 0 or more", player.title) for player in self.players]
        return self.draw(Noise(int(nfe), seed, int(count), None if label in (None, ALL) else int(label)), chosen)

    @staticmethod
    def _drawing(ui: Any) -> Any:
        with ui.Column(min_width=320):
            return ui.HTML()
