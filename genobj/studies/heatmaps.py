"""Heat maps as inline SVG: a metric over two axes."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from genobj.studies.axes import Real, is_wide, thinned
from genobj.studies.charts import LETTER, WIDTH, numbered, svg, upright


class Tile(NamedTuple):
    """A field of a heat map."""

    value: Real
    text: str
    label: str
    variant: int | None = None


def heat(
    tiles: Mapping[tuple[int, int], Tile],
    xs: Sequence[str],
    ys: Sequence[str],
    *,
    title: str,
    x: str,
    y: str,
    up: bool,
    among: Sequence[Real] = (),
    most: Real = math.inf,
) -> Markup:
    """A heat map: tiles by (column, row), names of columns and rows. up: higher values are better.

    The better the stronger; the best one has a frame. among: values of all maps that share the colours, these ones'
    included (none: only this map's). most: the largest value that may have the frame. Values that span more than WIDE
    are ranked by their logarithms.
    """
    finite = {key: tile.value for key, tile in tiles.items() if math.isfinite(tile.value)}
    every = [value for value in (*finite.values(), *among) if math.isfinite(value)]
    log = bool(every) and min(every) > 0 and is_wide(every)
    turn, side = math.log if log else float, 1 if up else -1
    graded = {key: turn(value) * side for key, value in finite.items()}
    all_graded, top_here = [turn(value) * side for value in every], _top(graded, finite, most)
    worst, best = min(all_graded, default=0.0), max(all_graded, default=0.0)
    shared = len(among) > len(tiles)
    left = 34 + LETTER * max(map(len, ys), default=1)
    wide, tall = max(min(130.0, (WIDTH - left - 8) / max(len(xs), 1)), 26.0), 42.0
    size = min(13.0, max(8.0, wide / (0.62 * max((len(t.text) for t in tiles.values()), default=4))))
    body = []
    for (column, row), tile in tiles.items():
        cx, cy = left + column * wide, 8 + row * tall
        grade = 0.0 if best == worst else (graded.get((column, row), worst) - worst) / (best - worst)
        name = f"h{round(6 * grade)}" if (column, row) in graded else "broken"
        top = " best" if graded.get((column, row)) == top_here and tile.value <= most else ""
        body.append(
            f'<g class="tile {name}{top}"{numbered(tile.variant)}><title>{escape(tile.label)}</title>'
            f'<rect x="{cx + 1:.1f}" y="{cy + 1:.1f}" width="{wide - 2:.1f}" height="{tall - 2:.1f}" rx="3"/>'
            f'<text x="{cx + wide / 2:.1f}" y="{cy + tall / 2 + size / 3:.1f}" style="font-size:{size:.1f}px">'
            f"{escape(tile.text)}</text></g>"
        )
    end = 8 + len(ys) * tall
    for i, name in enumerate(ys):
        body.append(f'<text class="end" x="{left - 6:.0f}" y="{8 + (i + 0.5) * tall + 4:.0f}">{escape(name)}</text>')
    middles = [left + (i + 0.5) * wide for i in range(len(xs))]
    for i in thinned(middles, [LETTER * len(name) for name in xs]):
        body.append(f'<text x="{middles[i]:.0f}" y="{end + 16:.0f}">{escape(xs[i])}</text>')
    body.append(f'<text class="axis" x="{left + len(xs) * wide / 2:.0f}" y="{end + 36:.0f}">{escape(x)}</text>')
    body.append(upright(y, 8 + (end - 8) / 2))
    words = ", ".join(["logarithmic"] * log + ["shared by all maps"] * shared)
    if words:
        body.append(f'<text x="{left + len(xs) * wide / 2:.0f}" y="{end + 54:.0f}">colours: {words}</text>')
    said = "; ".join(tile.label for tile in tiles.values())
    return svg("".join(body), f"{title}. {y} by {x}: {said}", WIDTH, round(end + (62 if words else 44)))


def _top(graded: Mapping[tuple[int, int], Real], values: Mapping[tuple[int, int], Real], most: Real) -> Real:
    """The best grade of those whose value is at most so large."""
    return max((graded[key] for key, value in values.items() if value <= most), default=0.0)
