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

START = 1
"""Evaluations that the page starts with."""


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
    first = own or samplers[player.usual(START)]
    common = {one.key[1]: one for one in knobs.shared(first, settings.horizons, player.open().model.fed)}
    more = [*(["interval"] if settings.classes else []), "grid", *(["head"] if len(settings.horizons) > 1 else [])]
    with ui.Column(min_width=320):
        weights = ui.Dropdown(names, value=names[0], label=f"Weights of {player.title}")
        about = {"label": f"Sampler of {player.title}", "info": "auto: the usual one for its heads and NFE."}
        made = Panel(weights, ui.Dropdown([AUTO, *samplers], value=AUTO, **about))
        if settings.classes:
            made.put(ui, [common["guidance"]])
        for name, part in samplers.items():
            mine = own if own is not None and type(own) is type(part) else None
            made.group(ui, name, knobs.extra(part, name, Sampler, mine), visible=name == player.usual(START))
        with ui.Accordion("More", open=False):
            made.put(ui, [common[name] for name in more])
            for name, part in knobs.grids().items():
                start = first.grid if type(first.grid) is type(part) else None
                found = knobs.extra(part, f"grid {name}", start=start)
                made.group(ui, f"grid {name}", found, visible=start is not None)
    return made


def follow(ui: Any, panel: Panel, player: Player, nfe: Any) -> None:
    """Show the controls of the chosen sampler and of the chosen time grid, and no others.

    nfe: the page's control. With `auto` the controls of what it takes are shown, and touching one chooses it by name.
    """
    grids = [name for name in panel.groups if name.startswith("grid ")]
    samplers = [name for name in panel.groups if name not in grids]
    if grids:
        grid, changes = panel.controls[("", "grid")], _visible(ui, grids, "grid ")
        grid.change(changes, grid, [panel.groups[name] for name in grids], show_progress="hidden")
    if not samplers:
        return
    shows = _visible(ui, samplers, "")

    def taken(chosen: str, count: float) -> Any:
        return shows(player.usual(int(count)) if chosen == AUTO else chosen)

    outputs, asked = [panel.groups[name] for name in samplers], [panel.sampler, nfe]
    ui.on([one.change for one in asked], taken, asked, outputs, show_progress="hidden")
    for (group, _), control in panel.controls.items():
        if group in samplers:
            touched = control.submit if isinstance(control, ui.Textbox) else control.input
            touched(_always(group), None, panel.sampler, show_progress="hidden")


def _always(group: str) -> Callable[[], str]:
    def chooses() -> str:
        return group

    return chooses


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
