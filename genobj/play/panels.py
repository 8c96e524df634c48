"""The controls of one model on the page: its weights, its sampler, and what that can be told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from genobj.play import knobs
from genobj.play.knobs import Key, Knob
from genobj.play.players import Player
from genobj.samplers.base import Sampler

AUTO = "auto"
"""What the choice of a sampler calls the model's own."""


@dataclass
class Panel:
    """The controls of one model on the page."""

    weights: Any
    sampler: Any
    controls: dict[Key, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    """What is seen only while a sampler or a time grid of this name is chosen."""

    def inputs(self) -> list[Any]:
        """All of them, in the order in which `Page.read` reads their values."""
        return [self.weights, self.sampler, *self.controls.values()]

    def put(self, ui: Any, made: Sequence[Knob]) -> None:
        """Add controls where gradio's blocks are being filled."""
        for one in made:
            self.controls[one.key] = _control(ui, one)

    def group(self, ui: Any, name: str, made: Sequence[Knob], *, visible: bool = False) -> None:
        """Add controls that are seen together, if there are any."""
        if made:
            with ui.Group(visible=visible) as self.groups[name]:
                self.put(ui, made)


def panel(ui: Any, player: Player) -> Panel:
    """A column of controls, inside a row of gradio's blocks."""
    settings, own = player.open().settings, player.open().evaluation.sampler
    samplers, names = knobs.offered(settings.horizons), player.weights()
    first = own or next(iter(samplers.values()))
    common = {one.key[1]: one for one in knobs.shared(first, settings.horizons, player.open().model.fed)}
    more = [*(["interval"] if settings.classes else []), "grid", *(["head"] if len(settings.horizons) > 1 else [])]
    with ui.Column(min_width=320):
        weights = ui.Dropdown(names, value=names[0], label=f"Weights of {player.name}")
        about = {"label": f"Sampler of {player.name}", "info": "auto: the usual one for its heads and NFE."}
        made = Panel(weights, ui.Dropdown([AUTO, *samplers], value=AUTO, **about))
        if settings.classes:
            made.put(ui, [common["guidance"]])
        for name, part in samplers.items():
            made.group(ui, name, knobs.extra(part, name, Sampler))
        with ui.Accordion("More", open=False):
            made.put(ui, [common[name] for name in more])
            for name, part in knobs.grids().items():
                start = first.grid if type(first.grid) is type(part) else None
                found = knobs.extra(part, f"grid {name}", start=start)
                made.group(ui, f"grid {name}", found, visible=start is not None)
    return made


def follow(ui: Any, panel: Panel) -> None:
    """Show the controls of the chosen sampler and of the chosen time grid, and no others."""
    for choice, prefix in ((panel.sampler, ""), (panel.controls[("", "grid")], "grid ")):
        names = [name for name in panel.groups if name.startswith("grid ") == bool(prefix)]
        if names:
            outputs = [panel.groups[name] for name in names]
            choice.change(_visible(ui, names, prefix), choice, outputs, show_progress="hidden")


def _visible(ui: Any, names: Sequence[str], prefix: str) -> Callable[[str], Any]:
    def changes(chosen: str) -> Any:
        made = [ui.update(visible=name == prefix + chosen) for name in names]
        return made if len(made) > 1 else made[0]  # gradio takes a list of one for a value

    return changes


def _control(ui: Any, one: Knob) -> Any:
    """A slider, a choice or a line of text."""
    about = {"value": one.value, "label": one.key[1].replace("_", " "), "info": one.help}
    if one.high is not None:
        return ui.Slider(one.low, one.high, step=one.step, **about)
    if one.choices == (True, False):
        return ui.Checkbox(**about)
    return ui.Dropdown(list(one.choices), **about) if one.choices else ui.Textbox(**about)
