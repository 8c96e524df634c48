"""Charts as inline SVG: lines with a band over seeds, sweeps with their spread; see heatmaps for maps.

Drawn by hand, not by matplotlib: a chart takes a few kB instead of a hundred, follows the page's light or dark colours
through its style sheet (classes c0 to c6 for a hue, s0 to s4 for its shade), and can be read aloud.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from genobj.studies.axes import WIDE, Real, Scale, fitted, is_wide, short, spread, thinned, ticks
from genobj.studies.tags import LINE, shortest, spaced

WIDTH, HEIGHT = 460, 290
BROAD, TALL = 860, 430
"""Of a chart as wide as the page, for many lines."""
TOP, RIGHT, BOTTOM = 14, 16, 46
LETTER = 6.8
"""Width of a letter at the 12 units of labels, rather too wide than too narrow."""
HUES, SHADES = 7, 5
DASHES = ("", "7 3", "2 3", "8 3 2 3")
STEEP = 8.0
"""Ratio of largest to smallest value from which on the axis of curves is logarithmic."""
FAR = 10.0
"""Ratio to the next value from which on the largest ones of a sweep lie beyond the axis, as arrows."""
MARKERS = 80
"""Points of all curves up to which each has its marker."""
BANDS = 8
"""Lines up to which each has its band, and its name at its end in a small chart: more of them hide each other."""
TAG, LONG = 16, 24
"""Letters of a name at the end of a line at most, in small and in broad charts."""
LEAD = 16
"""Units from the end of a line to its name in broad charts, where names may stand off their lines."""
BESIDE = 3.2
"""Units between the bars of lines with a value at the same place."""


@dataclass(frozen=True)
class Ink:
    """How a series looks: told apart without colours, too, by dashes and markers."""

    hue: int = 0
    shade: int = 2
    """0 is pale, 2 the hue itself, 4 dark (in dark pages light)."""
    dash: int = 0
    marker: int = 0
    dim: bool = False
    """Grey, behind the others: one of many that is not picked out."""

    @property
    def classes(self) -> str:
        """Classes of the style sheet."""
        return "dim" if self.dim else f"c{self.hue % HUES} s{self.shade % SHADES}"


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
    lost: bool = False
    """Of a run that failed: a thin line that ends in a cross."""


def lines(
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    at: Sequence[Real] = (),
    names: Sequence[str] = (),
    log_x: bool | None = None,
    log_y: bool | None = None,
    span: tuple[Real, Real] | None = None,
    level: Real | None = None,
    style: Literal["curve", "sweep"] = "curve",
    cap: bool = False,
    broad: bool = False,
) -> Markup:
    """A chart of lines; x, y: titles of the axes; at: where the x axis has ticks, `names` in place of their numbers.

    log_y: whether the y axis is logarithmic (None: if its values span enough); span: its ends (None: those of the
    values). level: what real data score, a dotted line, or words where it is far away. style: curve (bands) or sweep
    (markers with bars). cap: few values far above all others are arrows at the top. A value of a logarithmic axis that
    is not positive lies on its lower edge, one that is not finite is a cross at the top. broad: as wide as the page,
    with a name at the end of every line.
    """
    width, height = (BROAD, TALL) if broad else (WIDTH, HEIGHT)
    series = sorted(series, key=lambda one: not one.ink.dim)  # grey ones lie behind
    spots = [spot for one in series for spot in one.spots]
    most = _most(spots) if cap else math.inf
    values = [v for s in spots if not s.y > most for v in (s.y, s.low, s.high) if math.isfinite(v)]
    log = is_wide(values, STEEP if style == "curve" else WIDE) if log_y is None else log_y
    bottom, top = span or fitted(values, log, level)
    down = Scale(bottom, top, height - BOTTOM, TOP, log)
    marks = ticks(bottom, top, log=log, most=5)
    left = 30 + max((LETTER * len(short(mark)) for mark in marks), default=0)
    tags = _tags(series, down, most, broad=broad) if style == "curve" else []
    lead = LEAD if broad else 6
    right = width - RIGHT - (max(LETTER * len(tag.word) for tag in tags) + lead if tags else 0)
    across = spread([s.x for s in spots], at, log_x, left, right)
    body = [_frame(down, across, marks, at, names, left, right, x, y, log)]
    if level is not None:
        body.append(_level(level, down, left, right))
    bars = BESIDE if style == "sweep" else 0.0
    bands, markers = style == "curve" and len(series) <= BANDS, style == "sweep" or len(spots) <= MARKERS
    body += [
        _series(one, across, down, bands=bands, bars=bars, markers=markers, most=most, shift=shift)
        for one, shift in zip(series, _shifts(series, bars), strict=True)
    ]
    for tag in tags:
        start = (across(tag.end.x) + 6, down(tag.end.y)) if broad else None
        body.append(_tag(tag, right + lead, start))
    said = "; ".join(f"{one.title}: {short(one.spots[-1].y)}" for one in series[-12:] if one.spots)
    return svg("".join(body), f"{title}. {y} against {x}. Last values: {said}", width, height)


def _most(spots: Sequence[Spot]) -> Real:
    """Value above which points of a sweep are arrows; infinite where none is far above all others."""
    ys = sorted((spot.y for spot in spots if math.isfinite(spot.y)), reverse=True)
    for i in range(min(max(len(ys) // 4, 1), len(ys) - 1)):
        if ys[i] > FAR * ys[i + 1] > 0:
            return ys[i + 1]
    return math.inf


def _shifts(series: Sequence[Series], by: Real) -> list[Real]:
    """How far to the side every line's points are drawn, so that bars at the same place do not hide each other."""
    return [by * (i - (len(series) - 1) / 2) if len(series) <= BANDS else 0.0 for i in range(len(series))]


class _Tag(NamedTuple):
    """A name at the end of a line."""

    one: Series
    word: str
    end: Spot
    place: Real
    """How far down it stands."""


def _tags(series: Sequence[Series], down: Scale, most: Real, *, broad: bool) -> list[_Tag]:
    """Names for the ends of lines, of all that a broad chart has room for and of few in a small one."""
    ends = list[tuple[Series, Spot]]()
    for one in series:
        last = next((s for s in reversed(one.spots) if math.isfinite(s.y) and not s.y > most), None)
        if last is not None and not one.lost:
            ends.append((one, last))
    room = int((down.start - TOP) / LINE)
    if broad and len(ends) > room:
        ends = [(one, last) for one, last in ends if not one.ink.dim]
    if not 1 < len(ends) <= (room if broad else BANDS):
        return []
    ends.sort(key=lambda end: down(end[1].y))
    words = shortest([one.title for one, _ in ends], LONG if broad else TAG)
    places = spaced([down(last.y) + 4 for _, last in ends], TOP + 4, down.start + 4)
    return [_Tag(one, word, end, place) for (one, end), word, place in zip(ends, words, places, strict=True)]


def _tag(tag: _Tag, left: Real, start: tuple[Real, Real] | None) -> str:
    """The name, from `left` on; start: the end of its line, from which a thin line leads to it (None: nothing does)."""
    look, known = tag.one.ink.classes, numbered(tag.one.variant)
    lead = "" if start is None else f"M{start[0]:.1f} {start[1]:.1f}L{left - 3:.0f} {tag.place - 4:.1f}"
    drawn = f'<path class="lead {look}" d="{lead}"{known}/>' if lead else ""
    return f'{drawn}<text class="tag {look}" x="{left:.0f}" y="{tag.place:.1f}"{known}>{escape(tag.word)}</text>'


def _level(level: Real, down: Scale, left: Real, right: Real) -> str:
    """What real data score: a line, or words where it lies beyond the axis."""
    if down.low <= level <= down.high:
        return f'<path class="level" d="M{left:.0f} {down(level):.1f}H{right:.0f}"/>'
    side = "below" if level < down.low else "above"
    return f'<text class="end" x="{right:.0f}" y="11">real data {escape(short(level))}, {side}</text>'


def swatch(ink: Ink) -> Markup:
    """A piece of a line for a legend."""
    dash = DASHES[ink.dash % len(DASHES)]
    line = f'<path class="line" d="M1 7H31"{_dashed(dash)}/>{_marker(ink.marker, 16, 7)}'
    return Markup(f'<svg class="swatch {ink.classes}" viewBox="0 0 32 14" aria-hidden="true">{line}</svg>')


def ramp(ink: Ink) -> Markup:
    """All shades of a hue from pale to dark, for a legend of many lines."""
    parts = [f'<path class="line c{ink.hue % HUES} s{shade}" d="M{1 + 9 * shade} 7h9"/>' for shade in range(SHADES)]
    return Markup(f'<svg class="swatch long" viewBox="0 0 47 14" aria-hidden="true">{"".join(parts)}</svg>')


def _frame(
    down: Scale,
    across: Scale,
    marks: Sequence[Real],
    at: Sequence[Real],
    names: Sequence[str],
    left: Real,
    right: Real,
    x: str,
    y: str,
    log: bool,
) -> str:
    """Grid, ticks, titles of the axes."""
    parts, floor = [], down.start
    for mark in marks:
        place = down(mark)
        parts.append(f'<path class="grid" d="M{left:.0f} {place:.1f}H{right:.0f}"/>')
        parts.append(f'<text class="end" x="{left - 5:.0f}" y="{place + 4:.1f}">{escape(short(mark))}</text>')
    stops = list(at) or ticks(across.low, across.high, log=across.log, most=6)
    words = list(names) or [short(stop) for stop in stops]
    for i in thinned([across(stop) for stop in stops], [LETTER * len(word) for word in words]):
        place = across(stops[i])
        parts.append(f'<path class="grid" d="M{place:.1f} {floor:.0f}v4"/>')
        parts.append(f'<text x="{place:.1f}" y="{floor + 17:.0f}">{escape(words[i])}</text>')
    parts.append(f'<path class="frame" d="M{left:.0f} {TOP}V{floor:.0f}H{right:.0f}"/>')
    middle = (left + right) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{floor + BOTTOM - 8:.0f}">{escape(x)}</text>')
    parts.append(upright(y + (", logarithmic" if log else ""), (TOP + floor) / 2))
    return "".join(parts)


def upright(text: str, middle: Real) -> str:
    """Title of a y axis around this height."""
    return f'<text class="axis" transform="translate(13 {middle:.0f}) rotate(-90)">{escape(text)}</text>'


def _series(
    one: Series, across: Scale, down: Scale, *, bands: bool, bars: Real, markers: bool, most: Real, shift: Real
) -> str:
    """A line, its band or bars, its markers, its arrows and its crosses."""
    kept = [spot for spot in one.spots if math.isfinite(spot.y) and math.isfinite(spot.x)]
    joined = [spot for spot in kept if not spot.apart]
    parts = [f"<title>{escape(one.title)}</title>"]
    if bands and len(joined) > 1 and any(spot.low < spot.high for spot in joined):
        there = [f"{across(s.x):.1f} {down(s.high):.1f}" for s in joined]
        back = [f"{across(s.x):.1f} {down(s.low):.1f}" for s in reversed(joined)]
        parts.append(f'<path class="band" d="M{"L".join(there + back)}Z"/>')
    if len(near := [spot for spot in joined if not spot.y > most]) > 1:
        way = "L".join(f"{across(s.x) + shift:.1f} {down(s.y):.1f}" for s in near)
        parts.append(f'<path class="line" d="M{way}"{_dashed(DASHES[one.ink.dash % len(DASHES)])}/>')
    for spot in kept if markers and not one.lost else [s for s in kept if s.apart]:
        parts.append(_point(spot, one.ink.marker, across(spot.x) + shift, down, bars=bool(bars), far=spot.y > most))
    for spot in one.spots:
        if (spot.broken or not math.isfinite(spot.y)) and math.isfinite(spot.x):
            seeds = ", in some seeds" if math.isfinite(spot.y) else ""
            parts.append(_cross(f"{one.title}: not finite{seeds}", across(spot.x), TOP + 4))
    if one.lost and kept:
        parts.append(_cross(f"{one.title}: failed", across(kept[-1].x), down(kept[-1].y)))
    lost = " lost" if one.lost else ""
    return f'<g class="{one.ink.classes}{lost}"{numbered(one.variant)}>{"".join(parts)}</g>'


def _point(spot: Spot, marker: int, cx: Real, down: Scale, *, bars: bool, far: bool) -> str:
    """A marker with its bar; an arrow with its value where it lies far above the axis."""
    label = f"<title>{escape(spot.label)}</title>" if spot.label else ""
    if far:
        end = cx > WIDTH - RIGHT - 45
        place = f'class="far{" end" if end else ""}" x="{cx - 8 if end else cx + 8:.1f}"'
        arrow = f'<path class="arrow" d="M{cx:.1f} {TOP + 14}v-12m-4 5l4-5l4 5"/>'
        return f'<g>{label}{arrow}<text {place} y="{TOP + 8}">{escape(short(spot.y))}</text></g>'
    cy, opening = down(spot.y), '<g class="apart">' if spot.apart else "<g>"
    bar = f'<path class="bar" d="M{cx:.1f} {down(spot.low):.1f}V{down(spot.high):.1f}"/>'
    return f"{opening}{label}{bar if bars and spot.low < spot.high else ''}{_marker(marker, cx, cy)}</g>"


def _cross(label: str, cx: Real, cy: Real) -> str:
    shape = f"M{cx - 4:.1f} {cy - 4:.1f}l8 8m-8 0l8 -8"
    return f'<g><title>{escape(label)}</title><path class="cross" d="{shape}"/></g>'


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


def numbered(variant: int | None) -> str:
    """What the page knows a variant's mark by."""
    return "" if variant is None else f' data-v="{variant}"'


def svg(body: str, said: str, wide: int, tall: int) -> Markup:
    """A whole drawing; said: what it shows, for those who cannot see it."""
    opening = f'<svg class="chart" role="img" viewBox="0 0 {wide} {tall}" aria-label="{escape(said)}">'
    return Markup(f"{opening}{body}</svg>")
