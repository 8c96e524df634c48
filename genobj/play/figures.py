"""Samples as pieces of a page: pixels or points, what they cost, and the command that makes them again."""

import base64
import io
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from genobj import pictures
from genobj.play.players import Answer

DIGITS = 3
"""Digits after the point of coordinates, on a square of side 2."""
STYLE = """
.drawn { margin: 0 auto; max-width: 40rem }
.drawn img { display: block; width: 100%; image-rendering: pixelated }
.drawn svg { display: block; width: 100%; border: 1px solid var(--border-color-primary) }
.drawn path { fill: none; stroke-linecap: round; stroke-width: .016 }
.drawn .real { stroke: var(--body-text-color); opacity: .25 }
.drawn .made { stroke: #1f77b4; opacity: .75 }
.dark .drawn .made { stroke: #6cb4ee }
.drawn .classes { display: flex; font-size: .75rem; color: var(--body-text-color-subdued) }
.drawn .classes span { flex: 1; text-align: center }
.drawn pre { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; font-size: .8rem; padding: .5rem;
  border: 1px solid var(--border-color-primary); border-radius: 4px }
.drawn [role=alert] { border-left: 4px solid #c62828; padding: .5rem .75rem }
"""


def figure(answer: Answer, title: str, classes: int = 0, behind: Tensor | None = None, limit: float = 1.0) -> str:
    """HTML of an answer.

    classes: a column of images for each, 0 for none; behind: real points, and limit: half the side of the square shown,
    for samples that are points.
    """
    across = pictures.columns(classes)
    is_image, labels = answer.x.ndim == 4, ""
    told = f"{len(answer.x)} samples of {title}, {answer.nfe} NFE"
    if is_image:
        shown = f'<img alt="{escape(told)}" src="data:image/png;base64,{_png(answer.x, across)}">'
        labels = _labels(classes, across) if across else ""
    else:
        shown = _points(answer.x, behind, limit, told)
    lost = int((~answer.x.flatten(1).isfinite().all(1)).sum())
    broken = f"; <b>{lost} samples are not finite</b>" if lost else ""
    how = f"{answer.nfe} NFE, {answer.seconds:.3g} s, {answer.sampler} on head {answer.head}, weights {answer.weights}"
    how += "" if is_image or behind is None else "; grey: data"
    return (
        f'<figure class="drawn">{labels}{shown}<figcaption><b>{escape(title)}</b>: {escape(how)}{broken}</figcaption>'
        f'<pre tabindex="0" aria-label="Command that makes the same samples">{escape(answer.command)}</pre></figure>'
    )


def refused(sentence: str, title: str) -> str:
    """HTML of a sentence in place of a model's picture."""
    return f'<div class="drawn"><p role="alert"><b>{escape(title)}</b>: {escape(sentence)}</p></div>'


def limit(clouds: Sequence[Tensor]) -> float:
    """Half the side of a square around nearly all points of these clouds."""
    sizes = [x[x.isfinite().all(1)].abs().flatten() for x in map(plane, clouds)]
    return max((1.15 * size.quantile(0.999).item() for size in sizes if len(size)), default=1.0) or 1.0


def plane(x: Tensor) -> Tensor:
    """(n, 2): the first two numbers of every sample, the second zero where there is only one."""
    flat = x.flatten(1).float()
    return torch.nn.functional.pad(flat, (0, max(2 - flat.shape[1], 0)))[:, :2]


def _png(x: Tensor, across: int | None) -> str:
    pixels = (pictures.grid(x.nan_to_num(0), across) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _labels(classes: int, across: int) -> str:
    """The class above every column; a column stands for i, i + classes, ..."""
    return '<div class="classes">' + "".join(f"<span>{i % classes}</span>" for i in range(across)) + "</div>"


def _points(x: Tensor, behind: Tensor | None, limit: float, told: str) -> str:
    """Dots of a vector picture, in colours of the page."""
    layers = [] if behind is None else [f'<path class="real" d="{_dots(behind, limit)}"/>']
    layers.append(f'<path class="made" d="{_dots(x, limit)}"/>')
    return f'<svg viewBox="-1 -1 2 2" role="img" aria-label="{escape(told)}">{"".join(layers)}</svg>'


def _dots(x: Tensor, limit: float) -> str:
    """Lines without length, whose round caps are dots; y upwards."""
    near = plane(x)[plane(x).isfinite().all(1)] / limit
    return "".join(f"M{a:.{DIGITS}g} {-b:.{DIGITS}g}h0" for a, b in near.tolist() if max(abs(a), abs(b)) <= 1)
