"""Pictures of samples: scatter plots for points in the plane, grids for images; curves of numbers over steps."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

INK, PAPER = "#1f4e79", "#b8b8b8"


def compare(panels: Mapping[str, Tensor], columns: int | None = None) -> Figure:
    """A panel of samples (n, *shape) per heading.

    Points of the plane lie over those of a panel called 'data'; images stand in `columns` (unset: a square).
    """
    data = panels.get("data")
    grids = {heading: grid(x, columns) for heading, x in panels.items() if x.ndim == 4}
    high = max((picture.shape[0] / picture.shape[1] for picture in grids.values()), default=1.0)
    figure = Figure(figsize=(2.6 * len(panels), 2.6 * high + 0.35), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    limit = _limit([x for x in panels.values() if x.ndim != 4] if data is None else [data])
    for axes, (heading, x) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.set_title(heading, fontsize=11)
        axes.set(xticks=[], yticks=[], anchor="N")
        if heading in grids:
            axes.imshow(grids[heading].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_frame_on(False)
        else:
            _points(axes, data, None if x is data else x, limit)
    return figure


def trajectories(panels: Mapping[str, Tensor], labels: Sequence[str]) -> Figure:
    """A column of images (n, C, H, W) per heading and a row per noise, each row with its label at the side."""
    rows, layout = len(labels), ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(1.25 * len(panels) + 0.4, 1.25 * rows + 0.35), dpi=120, layout=layout)
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, len(panels), squeeze=False)
    for column, (heading, x) in enumerate(panels.items()):
        places[0][column].set_title(heading, fontsize=11)
        for axes, image in zip(places[:, column], x, strict=True):
            axes.imshow(picture(image).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
    for axes, label in zip(places[:, 0], labels, strict=True):
        axes.set_ylabel(label, fontsize=11, rotation=0, ha="right", va="center")
    return figure


Curve = Sequence[tuple[float, float]]


def curves(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """A panel of labelled curves (step, value) per heading, two in a row; cosines have a linear scale, others a log."""
    count = max(len(panels), 1)
    wide, high = min(count, 2), -(-count // 2)
    figure = Figure(figsize=(6.0 * wide, 3.4 * high), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(high, wide, squeeze=False).flat
    for (heading, lines), axes in zip(panels.items(), places, strict=False):
        axes.set_title(heading, fontsize=11)
        axes.set_xlabel("step")
        for label, curve in lines.items():
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, values, label=label, linewidth=1.2, marker="." if len(steps) < 30 else "")
        if "cosine" in heading:
            axes.axhline(0, color=PAPER, linewidth=0.8)
            axes.set_ylim(-1.05, 1.05)
        elif all(value > 0 for curve in lines.values() for _, value in curve):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, framealpha=0.7)
    for axes in list(places):
        axes.set_axis_off()
    return figure


def columns(classes: int) -> int | None:
    """A column for every class where there are few, or several for each of very few; else let the grid be square."""
    return classes * max(1, round(10 / classes)) if 0 < classes <= 20 else None


def _points(axes: Axes, below: Tensor | None, over: Tensor | None, limit: float) -> None:
    """Points in grey and others over them; of vectors the first two coordinates."""
    for x, color in ((below, PAPER), (over, INK)):
        if x is not None:
            axes.scatter(*_plane(x).T.numpy(), s=3, c=color, alpha=0.5, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def _limit(clouds: Sequence[Tensor]) -> float:
    """Half the side of a square around nearly all of some points; the same for every panel."""
    return max((1.15 * x.abs().quantile(0.999).item() for x in clouds), default=1.0)


def _plane(x: Tensor) -> Tensor:
    """(n, 2): the first two numbers of every sample, the second zero where there is only one."""
    flat = x.flatten(1)
    return torch.nn.functional.pad(flat, (0, max(2 - flat.shape[1], 0)))[:, :2]


def grid(x: Tensor, columns: int | None = None) -> Tensor:
    """(n, C, H, W) in [-1, 1] as one image in [0, 1]: (rows H, columns W), with the first three channels (..., 3)."""
    columns = columns or math.ceil(math.sqrt(len(x)))
    x = torch.nn.functional.pad(_shown(x), (1, 1, 1, 1), value=1.0)
    blank = x.new_ones(-len(x) % columns, *x.shape[1:])
    tiles = torch.cat([x, blank]).unflatten(0, (-1, columns))
    return _last(tiles.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2))


def picture(x: Tensor) -> Tensor:
    """(C, H, W) in [-1, 1] as an image in [0, 1]: (H, W), or with the first three channels (H, W, 3)."""
    return _last(_shown(x[None])[0])


def _shown(x: Tensor) -> Tensor:
    """(n, 1 or 3, H, W) in [0, 1]: the first three channels, the first one where there are fewer."""
    return (x[:, : 3 if x.shape[1] >= 3 else 1].float().cpu().clamp(-1, 1) + 1) / 2


def _last(x: Tensor) -> Tensor:
    """Channels, if there are several, as matplotlib wants them."""
    return x[0] if len(x) != 3 else x.permute(1, 2, 0)
