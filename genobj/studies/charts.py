"""Charts as inline SVG: lines with a band over seeds, sweeps with their spread, heat maps.

Drawn by hand, not by matplotlib: a chart takes a few kB instead of a hundred, follows the page's light or dark colours
through its style sheet (classes c0 to c6 for a hue, s0 to s4 for its shade), and can be read aloud.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

Real = int | float
WIDTH, HEIGHT = 460, 290
TOP, RIGHT, BOTTOM = 14, 16, 46
LETTER = 6.8
"""Width of a letter at the 12 units of labels, rather too wide than too narrow."""
HUES, SHADES = 7, 5
DASHES = ("", "7 3", "2 3", "8 3 2 3")
WIDE = 30.0
"""Ratio of largest to smallest value from which on an axis is logarithmic."""
BELOW = 0.1
"""Share of values that may not be positive on a logarithmic axis; they lie on its lower edge."""
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
MARKERS = 80
"""Points of all curves up to which each has its marker."""
BANDS = 8
"""Lines up to which each has its band: more of them hide each other."""


@dataclass(frozen=True)
class Ink:
    """How a series looks: told apart without colours, too, by dashes and markers."""

    hue: int = 0
    shade: int = 2
    """0 is pale, 2 the hue itself, 4 dark (in dark pages light)."""
    dash: int = 0
    marker: int = 0

    @property
    def classes(self) -> str:
        """Classes of the style sheet."""
        return f"c{self.hue % HUES} s{self.shade % SHADES}"


class Spot(NamedTuple):
    """A value with its spread over seeds."""

    x: Real
    y: Real
    low: Real
    high: Real
    label: str = ""
    broken: bool = False
    """Some seed's value is not finite."""
    apart: bool = False
    """No line leads here: it was measured in another way."""


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    title: str
    spots: Sequence[Spot]
    ink: Ink = field(default_factory=Ink)
    variant: int | None = None
    """Number of the variant, for the page's filter."""


@dataclass(frozen=True)
class Scale:
    """From values to places in the drawing."""

    low: Real
    high: Real
    start: Real
    end: Real
    log: bool = False

    def __call__(self, value: Real) -> Real:
        """Place of a value; beyond the ends, the end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def is_wide(values: Iterable[Real]) -> bool:
    """Whether an axis of these values is logarithmic: nearly all are positive, and they span more than WIDE."""
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    few = len(finite) - len(positive) <= BELOW * len(finite)
    return bool(positive) and few and max(positive) > WIDE * min(positive)


def ticks(low: Real, high: Real, *, log: bool = False, most: int = 6) -> list[Real]:
    """Round numbers from low to high, about `most` of them."""
    if log and high / low > 8:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            found = [value for value in found if low * 0.999 <= value <= high * 1.001]
            if len(found) <= most + 1:
                return found
        return found[:: -(-len(found) // most)]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: Real) -> str:
    """A number in few letters: 0.05, 4000, 12k, 3M; an exponent for tiny ones."""
    if not math.isfinite(value):
        return "not finite"
    unit, name = next(((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= max(u, 1e4)), (1.0, ""))
    few = (
        f"{value / unit:.4g}"
        if abs(value) >= 1000 and float(f"{value / unit:.4g}").is_integer()
        else f"{value / unit:.3g}"
    )
    return f"{few}{name}".replace("e-0", "e-").replace("-", MINUS)


def thinned(places: Sequence[Real], sizes: Sequence[Real]) -> list[int]:
    """Which labels can stand without touching; the first and, where it can, the last one stay."""
    kept = list[int]()
    for i, place in enumerate(places):
        if not kept or place - sizes[i] / 2 > places[kept[-1]] + sizes[kept[-1]] / 2 + 6:
            kept.append(i)
    last = len(places) - 1
    if kept and kept[-1] != last and len(kept) > 2:
        kept[-1] = last
        if places[last] - sizes[last] / 2 <= places[kept[-2]] + sizes[kept[-2]] / 2 + 6:
            del kept[-2]
    return kept


def lines(
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    at: Sequence[Real] = (),
    names: Sequence[str] = (),
    log_x: bool | None = None,
    level: Real | None = None,
    style: Literal["curve", "sweep"] = "curve",
) -> Markup:
    """A chart of lines; x, y: titles of the axes; at: where the x axis has ticks, `names` in place of their numbers.

    level: what real data score, a dotted line. style: curve (bands) or sweep (markers with bars). A value of a
    logarithmic axis that is not positive lies on its lower edge, one that is not finite is a cross at the top.
    """
    spots = [spot for one in series for spot in one.spots]
    values = [v for s in spots for v in (s.y, s.low, s.high) if math.isfinite(v)]
    log = is_wide(values)
    bottom, top = _range(values, log, level)
    down = Scale(bottom, top, HEIGHT - BOTTOM, TOP, log)
    marks = ticks(bottom, top, log=log, most=5)
    left = 30 + max((LETTER * len(short(mark)) for mark in marks), default=0)
    across = _across([s.x for s in spots], at, log_x, left)
    body = [_frame(down, across, marks, at, names, left, x, y, log)]
    if level is not None and bottom <= level <= top:
        body.append(f'<path class="level" d="M{left:.0f} {down(level):.1f}H{WIDTH - RIGHT}"/>')
    bands, markers = style == "curve" and len(series) <= BANDS, style == "sweep" or len(spots) <= MARKERS
    body += [_series(one, across, down, bands=bands, bars=style == "sweep", markers=markers) for one in series]
    said = "; ".join(f"{one.title}: {short(one.spots[-1].y)}" for one in series[:12] if one.spots)
    return _svg("".join(body), f"{title}. {y} against {x}. Last values: {said}", WIDTH, HEIGHT)


class Tile(NamedTuple):
    """A field of a heat map."""

    value: Real
    text: str
    label: str
    variant: int | None = None


def heat(
    tiles: Mapping[tuple[int, int], Tile], xs: Sequence[str], ys: Sequence[str], *, title: str, x: str, y: str, up: bool
) -> Markup:
    """A heat map: tiles by (column, row), names of columns and rows. up: higher values are better.

    The better the stronger; the best one has a frame. Values that span more than WIDE are ranked by their logarithms.
    """
    finite = {key: tile.value for key, tile in tiles.items() if math.isfinite(tile.value)}
    positive = finite and min(finite.values()) > 0
    turn = math.log if positive and is_wide(finite.values()) else float
    graded = {key: turn(value) * (1 if up else -1) for key, value in finite.items()}
    worst, best = min(graded.values(), default=0.0), max(graded.values(), default=0.0)
    left = 34 + LETTER * max(map(len, ys), default=1)
    wide, tall = max(min(130.0, (WIDTH - left - 8) / max(len(xs), 1)), 26.0), 42.0
    size = min(13.0, max(8.0, wide / (0.62 * max((len(t.text) for t in tiles.values()), default=4))))
    body = []
    for (column, row), tile in tiles.items():
        cx, cy = left + column * wide, 8 + row * tall
        grade = 0.0 if best == worst else (graded.get((column, row), worst) - worst) / (best - worst)
        name = f"h{round(6 * grade)}" if (column, row) in graded else "broken"
        top = " best" if graded.get((column, row)) == best else ""
        body.append(
            f'<g class="tile {name}{top}"{_number(tile.variant)}><title>{escape(tile.label)}</title>'
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
    body.append(_upright(y, 8 + (end - 8) / 2))
    said = "; ".join(tile.label for tile in tiles.values())
    return _svg("".join(body), f"{title}. {y} by {x}: {said}", WIDTH, round(end + 44))


def swatch(ink: Ink) -> Markup:
    """A piece of a line for a legend."""
    dash = DASHES[ink.dash % len(DASHES)]
    line = f'<path class="line" d="M1 7H31"{_dashed(dash)}/>{_marker(ink.marker, 16, 7)}'
    return Markup(f'<svg class="swatch {ink.classes}" viewBox="0 0 32 14" aria-hidden="true">{line}</svg>')


def ramp(ink: Ink) -> Markup:
    """All shades of a hue from pale to dark, for a legend of many lines."""
    parts = [f'<path class="line c{ink.hue % HUES} s{shade}" d="M{1 + 9 * shade} 7h9"/>' for shade in range(SHADES)]
    return Markup(f'<svg class="swatch long" viewBox="0 0 47 14" aria-hidden="true">{"".join(parts)}</svg>')


def _range(values: Sequence[Real], log: bool, level: Real | None) -> tuple[Real, Real]:
    """Ends of the y axis, with room; zero is one of them where that costs little."""
    if log:
        positive = [value for value in values if value > 0]
        low, high = min(positive), max(positive)
        if level is not None and low / WIDE < level < low:
            low = level
        return low / 1.25, high * 1.25
    low, high = min(values, default=0.0), max(values, default=1.0)
    if level is not None and low - (high - low) / 2 < level < low:
        low = level
    low = 0.0 if 0 <= low < 0.4 * high else low
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 else low - room), high + room


def _across(values: Sequence[Real], at: Sequence[Real], log: bool | None, left: Real) -> Scale:
    found = [value for value in (*values, *at) if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    log = low > 0 and (is_wide(found) if log is None else log)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    inset = 10 if at else 4
    return Scale(low, high, left + inset, WIDTH - RIGHT - inset, log)


def _frame(
    down: Scale,
    across: Scale,
    marks: Sequence[Real],
    at: Sequence[Real],
    names: Sequence[str],
    left: Real,
    x: str,
    y: str,
    log: bool,
) -> str:
    """Grid, ticks, titles of the axes."""
    parts = []
    for mark in marks:
        place = down(mark)
        parts.append(f'<path class="grid" d="M{left:.0f} {place:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{left - 5:.0f}" y="{place + 4:.1f}">{escape(short(mark))}</text>')
    stops = list(at) or ticks(across.low, across.high, log=across.log, most=6)
    words = list(names) or [short(stop) for stop in stops]
    for i in thinned([across(stop) for stop in stops], [LETTER * len(word) for word in words]):
        place = across(stops[i])
        parts.append(f'<path class="grid" d="M{place:.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 17}">{escape(words[i])}</text>')
    parts.append(f'<path class="frame" d="M{left:.0f} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (left + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}">{escape(x)}</text>')
    parts.append(_upright(y + (", logarithmic" if log else ""), (TOP + HEIGHT - BOTTOM) / 2))
    return "".join(parts)


def _upright(text: str, middle: Real) -> str:
    return f'<text class="axis" transform="translate(13 {middle:.0f}) rotate(-90)">{escape(text)}</text>'


def _series(one: Series, across: Scale, down: Scale, *, bands: bool, bars: bool, markers: bool) -> str:
    """A line, its band or bars, its markers and its crosses."""
    kept = [spot for spot in one.spots if math.isfinite(spot.y) and math.isfinite(spot.x)]
    joined = [spot for spot in kept if not spot.apart]
    parts = [f"<title>{escape(one.title)}</title>"]
    if bands and len(joined) > 1 and any(spot.low < spot.high for spot in joined):
        there = [f"{across(s.x):.1f} {down(s.high):.1f}" for s in joined]
        back = [f"{across(s.x):.1f} {down(s.low):.1f}" for s in reversed(joined)]
        parts.append(f'<path class="band" d="M{"L".join(there + back)}Z"/>')
    if len(joined) > 1:
        way = "L".join(f"{across(s.x):.1f} {down(s.y):.1f}" for s in joined)
        parts.append(f'<path class="line" d="M{way}"{_dashed(DASHES[one.ink.dash % len(DASHES)])}/>')
    for spot in kept if markers else [s for s in kept if s.apart]:
        cx, cy = across(spot.x), down(spot.y)
        bar = f'<path class="bar" d="M{cx:.1f} {down(spot.low):.1f}V{down(spot.high):.1f}"/>'
        shown = bar if bars and spot.low < spot.high else ""
        label = f"<title>{escape(spot.label)}</title>" if spot.label else ""
        opening = '<g class="apart">' if spot.apart else "<g>"
        parts.append(f"{opening}{label}{shown}{_marker(one.ink.marker, cx, cy)}</g>")
    for spot in one.spots:
        if (spot.broken or not math.isfinite(spot.y)) and math.isfinite(spot.x):
            cx, cy = across(spot.x), TOP + 4
            seeds = ", in some seeds" if math.isfinite(spot.y) else ""
            label = f"<title>{escape(one.title)}: not finite{seeds}</title>"
            cross = f"M{cx - 4:.1f} {cy - 4}l8 8m-8 0l8 -8"
            parts.append(f'<g>{label}<path class="cross" d="{cross}"/></g>')
    return f'<g class="{one.ink.classes}"{_number(one.variant)}>{"".join(parts)}</g>'


def _marker(kind: int, cx: Real, cy: Real) -> str:
    """Circle, square, triangle, diamond, upside-down triangle, about eight units wide."""
    shapes = (
        "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        "m-3.5-3.5h7v7h-7z",
        "m0-4.5l4.3 7.5h-8.6z",
        "m0-5l5 5l-5 5l-5-5z",
        "m0 4.5l4.3-7.5h-8.6z",
    )
    return f'<path class="dot" d="M{cx:.1f} {cy:.1f}{shapes[kind % len(shapes)]}"/>'


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _number(variant: int | None) -> str:
    return "" if variant is None else f' data-v="{variant}"'


def _svg(body: str, said: str, wide: int, tall: int) -> Markup:
    opening = f'<svg class="chart" role="img" viewBox="0 0 {wide} {tall}" aria-label="{escape(said)}">'
    return Markup(f"{opening}{body}</svg>")
