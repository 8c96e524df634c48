"""The report is one honest page: it parses, escapes, loads nothing, stays small, and works by mouse, keys and paper."""

import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from genobj import hub
from genobj.cli import report as cli
from genobj.cli.scores import scores
from genobj.metrics.records import Record
from genobj.studies import axes, charts, report, tables, tags
from genobj.studies import gallery as pictures
from genobj.studies.axes import Scale, short, thinned, ticks
from genobj.studies.charts import Series, Spot, lines
from genobj.studies.collect import from_runs, located
from genobj.studies.condensed import condensed
from genobj.studies.contrast import common, differing
from genobj.studies.courses import varying
from genobj.studies.curves import Curves
from genobj.studies.figures import Figures
from genobj.studies.floors import beyond, excess
from genobj.studies.gallery import Gallery, Picture, Shown, gallery
from genobj.studies.heatmaps import Tile, heat
from genobj.studies.results import Results
from genobj.studies.styles import Styles
from genobj.studies.summary import duration, summary
from genobj.studies.words import one_line
from tests.reporting import NFE, make_run, matrix, record, study, three, two_sweeps

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
VOID = {"meta", "input", "img", "br", "wbr", "use", "path", "rect", "link"}
CSS = (report.TEMPLATES / "report.css").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page holds; unbalanced tags fail."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words = list[str](), list[tuple[str, dict[str, str]]](), list[str]()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def cloud(points: int) -> str:
    return pictures._path(torch.randn(points, 2), 3.0)


def shown(results: Results, points: int = 100) -> Gallery:
    path = cloud(points)
    every = [Shown(v.name, {nfe: Picture(path=path) for nfe in NFE}) for v in results.variants]
    return Gallery(every, NFE, Picture(path=path))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a0 and a1 differ in the seed, b0 in beta, c0 is not finished, d0 is of digits."""
    place = tmp_path_factory.mktemp("runs_of_report")
    make_run(place / "a0")
    make_run(place / "a1", seed=1)
    make_run(place / "b0", "objectives.fm.weight=0.9", "objectives.cm.weight=0.1", speed=False)
    (make_run(place / "c0") / "results.json").unlink()
    make_run(place / "d0", data="digits", recipe="dumo-digits")
    return place


@pytest.mark.parametrize("groups", [three(), matrix(), {"DuMo": [({}, 1.0)]}])
def test_the_page_parses_and_loads_nothing(groups: dict[str, Any]) -> None:
    results = study(groups)
    text = report.page(results, shown(results))
    page = Page(text)
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    addresses = [a[key] for _, a in page.tags for key in ("href", "src", "xlink:href") if key in a]
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in addresses)
    named = {a["id"] for _, a in page.tags if "id" in a}
    assert {address[1:] for address in addresses if address.startswith("#")} <= named
    assert len([a for _, a in page.tags if "id" in a]) == len(named)


def test_everything_has_a_name_for_those_who_cannot_see_it() -> None:
    results = study(matrix(), metrics=("mmd",), looks=2)
    text = report.page(results, shown(results))
    page = Page(text)
    for attributes in page.all("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    labelled = {a["for"] for a in page.all("label") if "for" in a}
    inside = len(re.findall(r"<label><input", text))
    assert inside + len(labelled) == len(page.all("input")) + len(page.all("select"))
    assert labelled == {"shots-slider", "highlight"}
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1


def test_words_from_outside_stay_words() -> None:
    evil = "<script>alert(1)</script>&\"'"
    results = study({evil: [({evil: 0.5}, 1.0), ({evil: 1.0}, 2.0)], "b": [({}, 2.0)]}, title=evil, question=evil)
    cells = [replace(results.cells[0], state="failed", error=evil), *results.cells[1:]]
    noted = replace(results, cells=tuple(cells), environment={evil: evil}, study=results.study | {"notes": [evil]})
    every = [Shown(v.name, {1: Picture(why=evil)}, why=evil) for v in results.variants]
    page = Page(report.page(noted, Gallery(every, (1,), Picture())))
    assert len(page.all("script")) == 2  # our own
    assert sum(evil in "".join(words) for words in page.words) > 5


def test_twenty_one_variants_stay_below_a_megabyte() -> None:
    results = study(two_sweeps(), seeds=(0, 1), looks=25)
    text = report.page(results, shown(results, pictures.TOTAL // (21 * len(NFE))))
    assert len(text.encode()) < 1_000_000
    assert text.count('class="points"') == 84


def test_the_summary_tells_means_seeds_differences_and_trouble_apart() -> None:
    results = study(three())
    broken = [replace(r, value=math.nan) for r in results.cells[8].records]
    cells = list(results.cells)
    cells[5] = replace(cells[5], state="failed", error="out of memory", records=())
    cells[8] = replace(cells[8], records=tuple(broken))
    table = summary(replace(results, cells=tuple(cells)), Figures(results))
    assert [line.seeds for line in table.lines] == [3, 2, 3]
    dumo, meanflow, flow = (line.cells[0] for line in table.lines)
    assert (dumo.best, dumo.difference, dumo.word) == (True, "baseline", "")
    assert table.lines[1].trouble == "1 failed"
    assert flow.broken == "1 of 3 diverged"
    assert flow.sort is None
    assert meanflow.difference.startswith("×")  # noqa: RUF001 - a ratio
    assert float(meanflow.difference[2:]) > 1.5
    assert [head.counts for head in table.heads] == [["1 NFE", "2 NFE", "4 NFE", "32 NFE"]] * 2
    text = report.page(replace(results, cells=tuple(cells)), Gallery((), (), Picture()))
    assert "out of memory" in text
    assert "7 finished of 9" not in text
    assert "8 finished of 9" in text


def test_a_difference_is_better_or_worse_by_the_metrics_own_direction() -> None:
    results = study(three(), seeds=(0, 1, 2, 3, 4))
    more: dict[str, Any] = {"higher_is_better": True, "floor": None}
    up = [replace(c, records=tuple(replace(r, **more) for r in c.records)) for c in results.cells]
    for cells, word in ((results.cells, "worse"), (tuple(up), "better")):
        flipped = replace(results, cells=cells)
        assert summary(flipped, Figures(flipped)).lines[2].cells[0].word == word


def test_figures_follow_the_axes_of_groups() -> None:
    two = Figures(study(two_sweeps(), looks=2)).every()
    assert [figure.title for figure in two] == ["Against beta", "Against network evaluations", "During training"]
    assert [entry.title for entry in two[0].legend] == ["DuMo", "MeanFlow"]
    assert [entry.title for entry in two[1].legend] == ["DuMo beta=0 to beta=1", "MeanFlow beta=0 to beta=0.9"]
    assert [len(figure.plots) for figure in two] == [8, 2, 32]
    grid = Figures(study(matrix(), looks=1))
    assert [len(figure.plots) for figure in grid.heats()] == [8]
    assert not grid.sweeps()
    diagonal = study({"DuMo": [({"a": x, "b": 1 - x}, 1.0) for x in (0.2, 0.5, 0.8)]})
    assert not Figures(diagonal).heats()  # no grid
    words = study({"DuMo": [({"kind": k}, 1.0 + i) for i, k in enumerate(("linear", "cosine"))], "x": [({}, 3.0)]})
    chart = Figures(words).sweeps()[0].plots[0].svg
    assert "linear</text>" in chart
    assert "cosine</text>" in chart
    assert varying(words.group("x")) == []


def test_curves_join_their_end_only_where_it_was_measured_alike() -> None:
    results = study({"DuMo": [({}, 1.0)]})
    figure = Figures(results).over_training()[0]
    assert "stand apart" in figure.note
    assert {plot.x for plot in figure.plots} == {"step", "seen", "passes", "time"}
    alike = tuple(
        replace(c, curve=tuple(replace(k, records=tuple(replace(r, n=4096) for r in k.records)) for k in c.curve))
        for c in results.cells
    )
    joined = Figures(replace(results, cells=alike)).over_training()[0]
    assert "stand apart" not in joined.note
    assert joined.plots[0].svg.count('class="apart"') == 0
    bare = tuple(replace(c, curve=()) for c in results.cells)
    assert Figures(replace(results, cells=bare)).over_training() == []


def test_a_value_that_is_not_finite_is_a_cross_and_changes_no_mean() -> None:
    spots = [Spot(1, 2.0, 2.0, 2.0), Spot(2, math.nan, math.nan, math.nan, "", True), Spot(3, 4.0, 4.0, 4.0, "", True)]
    chart = lines([Series("a", spots)], title="t", x="x", y="y")
    assert chart.count('class="cross"') == 2
    assert "nan" not in chart
    values = Curves(Styles(study(three()))).spots(study(three()).variants[0], "mmd", 1, "step", 1.0)
    assert all(value.low <= value.y <= value.high for value in values)


def spots(*values: float) -> list[Spot]:
    return [Spot(i, value, value, value, str(value)) for i, value in enumerate(values)]


def test_cosines_keep_their_sign() -> None:
    cosines = [0.9, 0.01] * 10
    cosines[7] = -0.4
    series = [Series("a", spots(*cosines))]
    chart = lines(series, title="t", x="x", y="cosine", level=0.0, log_y=False, span=(-1.0, 1.0))
    assert "logarithmic" not in chart
    assert chart.count('class="level"') == 1
    zero = float(re.findall(r'class="level" d="M\d+ ([\d.]+)H', chart)[0])
    heights = [float(y) for y in re.findall(r'class="dot" d="M[\d.]+ ([\d.]+)m', chart)]
    assert [i for i, y in enumerate(heights) if y > zero] == [7]
    assert "logarithmic" in lines(series, title="t", x="x", y="cosine")  # as it would be by itself


def test_real_data_far_away_are_told_in_words() -> None:
    series = [Series("a", spots(2.0, 4.0, 100.0))]
    for level, told in ((1.0, ""), (0.5, "real data 0.5, below"), (1000.0, "real data 1000, above")):
        chart = lines(series, title="t", x="x", y="y", level=level, style="sweep")
        assert ('class="level"' in chart) == (not told)
        assert told in chart
        assert ("100</text>" in chart) or level < 1


def test_one_value_far_above_all_others_is_an_arrow() -> None:
    rest = (2.46, 2.6, 3.0, 3.4, 3.7, 4.19)
    chart = lines([Series("a", spots(*rest, 517.0))], title="t", x="x", y="y", style="sweep", cap=True)
    assert chart.count('class="arrow"') == 1
    assert ">517</text>" in chart
    assert re.findall(r'class="line" d="([^"]+)"', chart)[0].count("L") == len(rest) - 1  # no line leads to it
    assert "logarithmic" not in chart
    heights = [float(y) for y in re.findall(r'class="dot" d="M[\d.]+ ([\d.]+)m', chart)]
    assert len(heights) == len(rest)
    assert max(heights) - min(heights) > 60  # what the others are is seen
    assert 'class="arrow"' not in lines([Series("a", spots(*rest, 40.0))], title="t", x="x", y="y", cap=True)
    assert 'class="arrow"' not in lines([Series("a", spots(2.0))], title="t", x="x", y="y", cap=True)


def test_few_lines_have_names_at_their_ends_that_do_not_touch() -> None:
    names = ["tri-head: FM + MeanFlow + CM", "tri-head: FM + Shortcut + CM", "CM"]
    chart = lines([Series(name, spots(1.0, 1.1), variant=i) for i, name in enumerate(names)], title="t", x="x", y="y")
    names = re.findall(r'class="tag \w+ \w+" x="\d+" y="([\d.]+)" data-v="\d">([^<]+)<', chart)
    assert {word for _, word in names} == {"…+ MeanFlow + CM", "…+ Shortcut + CM", "CM"}
    heights = sorted(float(y) for y, _ in names)
    assert all(b - a >= 12.9 for a, b in pairwise(heights))
    many = [Series(str(i), spots(1.0, 2.0)) for i in range(9)]
    assert 'class="tag' not in lines(many, title="t", x="x", y="y")


def test_bars_at_one_place_stand_side_by_side() -> None:
    points = [Spot(i, 2.0, 1.0, 3.0) for i in (1, 2)]
    chart = lines([Series(str(i), points) for i in range(3)], title="t", x="x", y="y", style="sweep")
    assert len(set(re.findall(r'class="bar" d="M([\d.]+) ', chart))) == 6


def test_axes_that_a_study_calls_together_share_a_chart() -> None:
    groups = {"DuMo": [({"beta": b}, 1 + b) for b in (0.1, 0.5, 0.9)]}
    groups |= {"MeanFlow": [({"rho": r}, 2 + r) for r in (0.0, 0.5, 0.75)]}
    assert [f.title for f in Figures(study(groups)).sweeps()] == ["Against beta", "Against rho"]
    (figure,) = Figures(study(groups, together=[["beta", "rho"]])).sweeps()
    assert figure.title == "Against beta and rho"
    assert [entry.title for entry in figure.legend] == ["DuMo (beta)", "MeanFlow (rho)"]
    assert figure.plots[0].svg.count('class="dot"') == 6
    assert "0.75</text>" in figure.plots[0].svg


def test_real_data_beside_a_curve_are_as_many_as_its_samples() -> None:
    def floors(at_looks: float | None) -> list[int]:
        results = study(three(), metrics=("mmd",))
        curves = [
            tuple(replace(k, records=tuple(replace(r, floor=at_looks) for r in k.records)) for k in c.curve)
            for c in results.cells
        ]
        cells = tuple(replace(c, curve=curve) for c, curve in zip(results.cells, curves, strict=True))
        (figure,) = Figures(replace(results, cells=cells)).over_training()
        return [int("real data 0.4" in plot.svg or 'class="level"' in plot.svg) for plot in figure.plots]

    assert set(floors(0.0004)) == {1}
    assert set(floors(None)) == {0}  # the end's is of four times as many


def test_runs_that_failed_change_no_curve() -> None:
    results = study({"DuMo": [({}, 1.0)]}, metrics=("mmd",))
    curve = tuple(
        replace(k, records=tuple(replace(r, value=9.0) for r in k.records)) for k in results.cells[2].curve[:3]
    )
    cells = (*results.cells[:2], replace(results.cells[2], state="failed", error="nan", records=(), curve=curve))
    without = Figures(replace(results, cells=cells[:2]))
    failed = Figures(replace(results, cells=cells))
    variant = results.variants[0]
    assert Curves(failed).spots(variant, "mmd", 1, "step", 1.0) == Curves(without).spots(variant, "mmd", 1, "step", 1.0)
    (figure,) = failed.over_training()
    assert "runs that failed" in figure.note
    assert figure.plots[0].svg.count(' lost"') == 1
    assert "DuMo, seed 2: failed</title>" in figure.plots[0].svg
    assert ' lost"' not in without.over_training()[0].plots[0].svg


def test_time_is_a_median_and_passes_compare_costs() -> None:
    results = study(three())
    cells = [replace(c, seconds=s) for c, s in zip(results.cells[:3], (111.0, 37.0, 29.0), strict=True)]
    table = summary(replace(results, cells=(*cells, *results.cells[3:])), Figures(results))
    assert table.costs == ["Steps", "Samples", "Passes", "Time"]
    assert table.lines[0].costs[3] == ("37 s", 37.0, "29 s to 1 min 51 s")
    assert "passes compare what methods cost" in table.legend
    assert "passes compare what methods cost" in Figures(results).over_training()[0].note
    bare = replace(results, variants=tuple(replace(v, passes=0.0) for v in results.variants))
    assert {plot.x for plot in Figures(bare).over_training()[0].plots} == {"step", "seen", "time"}


def test_the_legend_names_the_test_and_the_facts_what_is_not_equal() -> None:
    shares = {"DuMo": {"share": 1.0}, "MeanFlow": {"share": 2.0, "title": "MeanFlow"}}
    results = study(three(), variants=shares)
    text = report.page(results, Gallery((), (), Picture()))
    for words in ("bootstrap", "Student", "of twenty that are equal", "MeanFlow gets 2 times as much"):
        assert words in text
    assert "env.json" in text
    assert "env.json" not in report.page(study(three()), Gallery((), (), Picture()))
    there = results.environment | {"folder": "/home/me", "command": ["genobj", "compare", "a", "--out", "b c", "-x"]}
    text = report.page(replace(results, environment=there), Gallery((), (), Picture()))
    assert "/home/me" not in text
    assert ">genobj compare a -x</code>" in text


def test_what_differs_is_told_in_few_rows() -> None:
    parts = {"mf": {"kind": "mf", "weight": 1.0, "head": "w"}, "fm": {"kind": "fm", "weight": 0.5, "head": "v"}}
    results = study({"a": [({"beta": 0.1}, 1.0), ({"beta": 0.9}, 2.0)], "b": [({}, 3.0)]})
    trees = [
        {"name": "x", "lr": 1, "objectives": {"fm": parts["fm"] | {"weight": 0.1}}},
        {"name": "x", "lr": 1, "objectives": {"fm": parts["fm"] | {"weight": 0.9}}},
        {"name": "y", "lr": 1, "objectives": {"mf": parts["mf"]}, "batch": 2},
    ]
    axis = {"axes": {"beta": {"settings": ["objectives.fm.weight"], "complement": []}}}
    made = tuple(replace(v, settings=tree) for v, tree in zip(results.variants, trees, strict=True))
    results = replace(results, variants=made, study=results.study | {"variants": {"a": axis}})
    found = differing(results, ["a1", "a2", "b"])
    assert found.columns == ["a1", "a2", "b"]
    assert found.rows == [
        ("objectives.fm", ["fm", "fm", "–"]),  # noqa: RUF001
        ("objectives.fm.weight", ["0.1", "0.9", "–"]),  # noqa: RUF001
        ("batch", ["–", "–", "2"]),  # noqa: RUF001
        ("objectives.mf", ["–", "–", "mf"]),  # noqa: RUF001
    ]
    assert common(results) == [("lr", "1")]
    many = replace(results, variants=made * 3)
    turned = differing(many, [str(i) for i in range(9)])
    assert turned.columns == ["objectives.fm", "objectives.fm.weight", "batch", "objectives.mf"]
    assert turned.rows[1] == ("1", ["fm", "0.9", "–", "–"])  # noqa: RUF001


def family(results: Results, settings: Sequence[dict[str, Any]]) -> Results:
    """The same results of variants with other settings."""
    made = [replace(v, settings=tree) for v, tree in zip(results.variants, settings, strict=True)]
    return replace(results, variants=tuple(made))


def test_many_settings_become_few_columns() -> None:
    kinds = [f"o{i}" for i in range(20)]
    results = study({kind: [({}, 1.0)] for kind in kinds}, seeds=(0,), looks=1)
    settings = [
        {
            "objectives": {"fm": {"kind": "fm", "weight": 1.0 + i % 2}} | {kind: {"kind": kind, "power": i}},
            "heads": {"v": {"kind": "projection"}}
            | ({"u": {"kind": "critic" if i else "projection"}} if i < 9 else {}),
            "train": {"steps": 100 * i},
        }
        for i, kind in enumerate(kinds)
    ]
    every = family(results, settings)
    found = condensed(every, differing(every, kinds))
    assert found.columns == ["objectives", "heads", "heads.u", "objectives.fm.weight", "train.steps"]
    assert found.rows[1] == ("o1", ["fm + o1", "v + u", "critic", "2.0", "100"])
    assert found.rows[12] == ("o12", ["fm + o12", "v", axes.DASH, "1.0", "1200"])
    assert found.left_out == 0  # that an objective is there stands in the first column
    rare = family(results, [tree | ({"ema": {"decay": 0.5}} if i < 2 else {}) for i, tree in enumerate(settings)])
    assert condensed(rare, differing(rare, kinds)).left_out == 1
    few = differing(every, kinds)._replace(columns=["a"], rows=[(kind, ["1"]) for kind in kinds])
    assert condensed(every, few) == (["a"], few.rows, 0)
    assert '<th scope="col">objectives.<wbr>fm.<wbr>weight</th>' in report.page(every, Gallery((), (), Picture()))


def accurate(*means: float) -> Results:
    """Variants by their accuracy; real data have .98."""
    results = study({f"a{i}": [({}, 1.0)] for i in range(len(means))}, metrics=("mmd",), looks=1, nfe=[1])
    about: dict[str, Any] = {"metric": "accuracy", "kind": "accuracy", "title": "accuracy", "factor": 1.0}
    about |= {"floor": 0.98, "higher_is_better": True}
    cells = [
        replace(c, records=(replace(c.records[0], value=means[i // 3] + 0.001 * (i % 3), **about),))
        for i, c in enumerate(results.cells)
    ]
    return replace(results, cells=tuple(cells))


def test_samples_that_are_too_typical_are_not_the_best() -> None:
    results = accurate(0.95, 0.9, 0.995, 0.947)
    scores = [row.scores["accuracy", 1] for row in tables.rows(results)]
    assert [(s.best, s.close, s.beyond) for s in scores] == [
        (True, False, False),
        (False, False, False),
        (False, False, True),
        (False, False, False),
    ]
    told = tables.markdown(results)
    assert "| a2 | 0.996 +- 0.001 ‡ |" in told
    assert "| a0 | **0.951 +- 0.001** |" in told
    assert "‡: above real data's: samples that are too typical" in told
    table = summary(results, Figures(results))
    assert [bool(line.cells[0].beyond) for line in table.lines] == [False, False, True, False]
    assert table.lines[2].cells[0].word == ""  # a0, the baseline, is not worse
    assert "too typical" in table.legend
    every = accurate(0.99, 0.995)
    assert not any(row.scores["accuracy", 1].best or row.scores["accuracy", 1].close for row in tables.rows(every))
    assert "too typical" not in summary(accurate(0.9, 0.95), Figures(results)).legend
    below = study(three())  # distances below real data's are as good as any
    assert not any(score.beyond for row in tables.rows(below) for score in row.scores.values())


def test_what_lies_above_real_data_is_told_by_metric(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = replace(accurate(0.5).cells[0].records[0], value=0.991)
    recall = replace(accuracy, metric="prdc.recall", kind="prdc")
    assert excess([accuracy]) == "above real data's: samples that are too typical"
    assert excess([recall]) == "above real data's: samples that are spread too widely"
    assert excess([recall, accuracy]).endswith("too typical or spread too widely")
    assert not beyond(replace(accuracy, higher_is_better=False), 0.991)
    assert not beyond(replace(accuracy, floor=None), 0.991)
    scores([accuracy, replace(accuracy, value=0.97, nfe=2)])
    told = capsys.readouterr().out
    assert "0.991^" in told
    assert "0.97^" not in told
    assert "^  above real data's: samples that are too typical" in told
    scores([replace(accuracy, value=0.97)])
    assert "above real data" not in capsys.readouterr().out


def test_a_map_frames_none_above_real_data() -> None:
    tiles = {(i, 0): Tile(value, short(value), "", i) for i, value in enumerate((0.9, 0.95, 0.99))}
    framed = heat(tiles, "abc", ["r"], title="t", x="x", y="y", up=True, most=0.98)
    assert re.findall(r'class="tile (\w+) best" data-v="(\d)"', framed) == [("h3", "1")]


def test_commands_are_one_line() -> None:
    told = one_line("genobj train -r scm-moons 'evaluation.nfe=[\n    1,\n    2,\n    32,\n]' --seed 0")
    assert told == "genobj train -r scm-moons 'evaluation.nfe=[1,2,32]' --seed 0"
    assert one_line("genobj train 'a=[1,  ]'") == "genobj train 'a=[1,  ]'"
    results = study(three())
    assert "Commands that name a file" not in report.page(results, Gallery((), (), Picture()))
    made = tuple(replace(v, command="genobj train -r runs/x.toml") for v in results.variants)
    assert "Commands that name a file" in report.page(replace(results, variants=made), Gallery((), (), Picture()))


def test_a_verdict_that_is_open_says_what_it_is() -> None:
    results = study(three(), looks=1)
    for text in (report.page(results, Gallery((), (), Picture())), tables.markdown(results)):
        assert text.count("these seeds cannot tell") == 1
    sure = replace(results, verdicts=results.verdicts[:2])
    assert "seeds cannot tell" not in report.page(sure, Gallery((), (), Picture()))


def test_only_what_some_figure_depends_on_can_be_chosen() -> None:
    page = Page(report.page(study(three(), looks=1), Gallery((), (), Picture())))
    assert {a["name"] for a in page.all("input", type="radio")} == {"metric"}


def test_one_run_has_no_spread_and_no_best() -> None:
    one = study({"DuMo": [({}, 1.0)]}, seeds=(0,), looks=3)
    assert {figure.note.partition(".")[0] for figure in Figures(one).every()} == {"One seed"}
    assert summary(one, Figures(one)).legend == "Arrows beside metrics point to their better side."
    seeds = study({"DuMo": [({}, 1.0)]}, looks=3)
    assert "lowest to the highest" in Figures(seeds).by_evaluations()[0].note
    assert "Bold" not in summary(seeds, Figures(seeds)).legend
    methods = study(three(), seeds=(0,), looks=1)
    table = summary(methods, Figures(methods))
    assert "Bold: the best value" in table.legend
    assert "†" not in table.legend
    assert not any(cell.close for line in table.lines for cell in line.cells)


def test_of_many_methods_the_best_have_colours_and_all_have_names() -> None:
    results = study({f"method {i}": [({}, 1.0 + i)] for i in range(20)}, looks=2, baseline="method 11")
    art = Figures(results)
    assert art.picked == ["method 0", "method 1", "method 2", "method 3", "method 4", "method 11"]
    assert len({art.inks[name].classes for name in art.picked}) == 6
    (figure, training) = art.every()
    assert figure.broad
    assert training.broad
    assert [entry.title for entry in figure.legend] == [*art.picked, "all others"]
    chart = figure.plots[0].svg
    assert f'viewBox="0 0 {charts.BROAD} {charts.TALL}"' in chart
    heights = [float(y) for y in re.findall(r'class="tag [\w ]+" x="\d+" y="([\d.]+)"', chart)]
    assert len(heights) == chart.count('class="lead') == 20
    assert all(b - a >= tags.LINE - 0.11 for a, b in pairwise(sorted(heights)))
    assert chart.index('class="dim"') < chart.index('class="c0 s2"')  # grey ones lie behind
    assert "the baseline" in figure.note
    points = study({f"g{i}": [({"beta": b}, 1.0 + i) for b in (0.1, 0.9)] for i in range(8)}, looks=1)
    (sweep,) = Figures(points).sweeps()
    assert len({entry.swatch for entry in sweep.legend}) == 8
    assert 'class="dim' not in sweep.plots[0].svg
    assert not Figures(study(two_sweeps(), looks=1)).picked  # shades tell their points apart


@pytest.mark.parametrize("wanted", [[20.0] * 5, [20.0, 21.0, 90.0, 91.0, 99.0], [0.0, 50.0], [99.0] * 6])
def test_names_stand_apart_and_inside(wanted: list[float]) -> None:
    found = tags.spaced(wanted, 10.0, 100.0)
    assert all(b - a >= tags.LINE - 1e-9 for a, b in pairwise(found))
    assert found[0] >= 10.0
    assert found[-1] <= 100.0


def test_names_that_touch_share_the_middle() -> None:
    assert tags.spaced([20.0, 21.0, 90.0], 10.0, 100.0) == [14.0, 27.0, 90.0]


def test_a_study_finds_its_runs_from_anywhere(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old" / "runs" / "study").mkdir(parents=True)
    shutil.copytree(runs / "a0", tmp_path / "old" / "runs" / "cells" / "a0")
    cells = study(three(), seeds=(0,), nfe=[1], folders=[Path("runs/cells/a0")] * 3)
    plain = replace(cells, environment={"folder": str(tmp_path / "old")})
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    expected = str(tmp_path / "old" / "runs" / "cells" / "a0")
    assert {c.folder for c in located(plain, tmp_path / "far").cells} == {expected}  # where it ran
    moved = shutil.move(tmp_path / "old", tmp_path / "new")
    beside = located(plain, Path(moved) / "runs" / "study")
    assert {c.folder for c in beside.cells} == {str(tmp_path / "new" / "runs" / "cells" / "a0")}
    monkeypatch.chdir(moved)
    assert located(plain, tmp_path / "far").cells == plain.cells  # from here
    monkeypatch.chdir(tmp_path / "far")
    asked = tuple(replace(v, settings=v.settings | {"diagnose": {"every": 20}}) for v in plain.variants)
    report.write(replace(plain, variants=asked), tmp_path / "far" / "page.html")
    text = (tmp_path / "far" / "page.html").read_text(encoding="utf-8")
    assert "Of 3 of 3 variants the runs are not at hand: no samples." in text
    assert "3 of 3 runs that measured them are not at hand: their cosines are not drawn." in text
    report.write(replace(beside, variants=asked), tmp_path / "far" / "page.html")
    text = (tmp_path / "far" / "page.html").read_text(encoding="utf-8")
    assert "not at hand" not in text
    assert "Pictures and the scores below them are those of seed 0." in text


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (-3, 7e5, False), (0.02, 900, True), (1e-9, 1e9, True)]
)
def test_ticks_are_few_and_inside(low: float, high: float, log: bool) -> None:
    found = ticks(low, high, log=log)
    assert 2 <= len(found) <= 9
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in found)
    assert found == sorted(set(found))


def test_labels_never_touch() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        places = sorted((torch.rand(12, generator=generator) * 400).tolist())
        sizes = (torch.rand(12, generator=generator) * 60 + 5).tolist()
        kept = thinned(places, sizes)
        assert kept
        for a, b in pairwise(kept):
            assert places[a] + sizes[a] / 2 < places[b] - sizes[b] / 2
    chart = lines([Series("a", [Spot(10.0**i, 1, 1, 1) for i in range(6)])], title="t", x="x", y="y", log_x=True)
    assert Page(chart).all("svg")


def test_numbers_are_short() -> None:
    told = {
        1000.0: "1000",
        12_000.0: "12k",
        3e6: "3M",
        0.05: "0.05",
        1e-5: f"1e{axes.MINUS}5",
        -2.0: f"{axes.MINUS}2",
        math.inf: "not finite",
    }
    assert {value: short(value) for value in told} == told
    assert [duration(s) for s in (4.2, 48, 200, 18_720)] == ["4.2 s", "48 s", "3 min 20 s", "5 h 12 min"]
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)


def test_heat_maps_grade_from_worst_to_best() -> None:
    tiles = {(i, 0): Tile(value, short(value), "", i) for i, value in enumerate((1.0, 2.0, 4.0, math.nan))}
    down = heat(tiles, "abcd", ["r"], title="t", x="x", y="y", up=False)
    up = heat(tiles, "abcd", ["r"], title="t", x="x", y="y", up=True)
    assert re.findall(r'class="tile (\w+) best" data-v="(\d)"', down) == [("h6", "0")]
    assert re.findall(r'class="tile (\w+) best" data-v="(\d)"', up) == [("h6", "2")]
    assert 'class="tile broken" data-v="3"' in down
    shared = heat(tiles, "abcd", ["r"], title="t", x="x", y="y", up=False, among=(0.01, 1.0, 2.0, 4.0, 5.0))
    assert re.findall(r'class="tile (\w+) best" data-v="(\d)"', shared) == [("h2", "0")]
    assert "logarithmic, shared by all maps" in shared
    assert "colours" not in down


def test_heat_maps_of_one_measure_share_their_colours() -> None:
    groups = matrix() | {"MeanFlow": [({**point}, 50 * level) for point, level in matrix()["DuMo"]]}
    good, bad = Figures(study(groups, metrics=("mmd",))).heats()
    assert "shared by all maps" in bad.plots[0].svg
    assert "tile h6" in good.plots[0].svg
    assert "tile h6" not in bad.plots[0].svg
    assert re.search(r"<title>DuMo [^<]*: [\d.]+ ± [\d.]+, 3 seeds", good.plots[0].svg)


OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)


def _linear(colour: str) -> torch.Tensor:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    whole = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return torch.tensor(whole, dtype=torch.float64)


def _light(linear: torch.Tensor) -> float:
    return (linear * torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)).sum().item()


def _mixed(one: str, other: str, share: float) -> float:
    """Luminance of a browser's color-mix(in oklab, one share, other)."""
    lms, lab = torch.tensor(LMS, dtype=torch.float64), torch.tensor(OKLAB, dtype=torch.float64)
    a, b = (lab @ (lms @ _linear(colour)) ** (1 / 3) for colour in (one, other))
    mixed = torch.linalg.solve(lms, torch.linalg.solve(lab, share * a + (1 - share) * b) ** 3)
    return _light(mixed.clamp(0, 1))


def _apart(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)


def _contrast(one: str, other: str) -> float:
    return _apart(_light(_linear(one)), _light(_linear(other)))


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read_in_light_and_dark(theme: int) -> None:
    pairs = {
        name: found[theme] for name, *found in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", CSS.split("}")[0])
    }
    for ink in ("ink", "soft", "link", "good", "bad", "open"):
        assert _contrast(pairs[ink], pairs["bg"]) >= 4.5, ink
        assert _contrast(pairs[ink], pairs["card"]) >= 4.5, ink
    levels = re.findall(r"\.h\d \{ --f: light-dark\((#\w+), (#\w+)\); --t: light-dark\((#\w+), (#\w+)\); \}", CSS)
    assert len(levels) == 7
    assert all(_contrast(level[theme], level[2 + theme]) >= 4.5 for level in levels)
    hues = re.findall(r"\.c\d \{ --c: light-dark\((#\w+), (#\w+)\); \}", CSS)
    assert len(hues) == charts.HUES
    shades = {
        name: (int(share) / 100, other)
        for name, share, other in re.findall(
            r"\.(s\d) \{ --k: color-mix\(in oklab, var\(--c\) (\d+)%, var\(--(\w+)\)\)", CSS
        )
    }
    assert len(shades) == charts.SHADES - 1
    (grey,) = re.findall(r"\.dim \{ --k: color-mix\(in oklab, var\(--soft\) (\d+)%, var\(--bg\)\)", CSS)
    assert _apart(_mixed(pairs["soft"], pairs["bg"], int(grey) / 100), _light(_linear(pairs["bg"]))) >= 3
    for hue in hues:
        for share, other in [*shades.values(), (1.0, "bg")]:
            assert _apart(_mixed(hue[theme], pairs[other], share), _light(_linear(pairs["bg"]))) >= 3, (hue, other)


def test_seeds_become_one_variant_and_differences_axes(runs: Path) -> None:
    results = from_runs([runs / "a0", runs / "b0", runs / "a1", runs / "a0"])
    assert [v.point for v in results.variants] == [{"fm.weight": 0.5}, {"fm.weight": 0.9}]  # cm.weight follows from it
    assert [(c.variant[-4:], c.seed, c.state) for c in results.cells] == [
        ("0.5]", 0, "done"),
        ("0.5]", 1, "done"),
        ("0.9]", 0, "done"),
    ]
    assert [(c.steps, c.seen, c.seconds) for c in results.cells] == [(100, 1600, 10.0)] * 3  # one log has speeds only
    assert [look.step for look in results.cells[0].curve] == [20, 50]
    assert results.environment == {"python": "3.11.7", "torch": "2.15.0"}
    assert results.variants[0].command == f"genobj train -r {runs / 'a0' / 'config.toml'}"


def test_an_unfinished_run_is_said_and_a_wrong_folder_refused(runs: Path, tmp_path: Path) -> None:
    results = from_runs([runs / "a0", runs / "c0"])
    assert [c.state for c in results.cells] == ["done", "missing"]
    assert f"genobj train --resume {runs / 'c0'}" in results.cells[1].error
    with pytest.raises(ValueError, match="is not finished"):
        from_runs([runs / "c0"])
    with pytest.raises(ValueError, match="there is no"):
        from_runs([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="not a run folder"):
        from_runs([tmp_path])
    with pytest.raises(ValueError, match=r"results.json is a file; name the run's folder"):
        from_runs([runs / "a0" / "results.json"])
    with pytest.raises(ValueError, match="name the folders"):
        from_runs([])


def test_values_that_do_not_compare_get_columns_of_their_own(runs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs / "b0", tmp_path / "b0")
    found = [record("mmd", n, 0.1, 64).as_dict() for n in (1, 2)]
    (other / "results.json").write_text(json.dumps(found))
    results = from_runs([runs / "a0", other])
    assert results.measures() == [("mmd", 1), ("mmd", 2), ("mmd (2)", 1), ("mmd (2)", 2)]
    assert "samples is 4096 in one and 64 in the other" in results.study["notes"][0]
    assert "do not compare" in report.page(results, Gallery((), (), Picture()))
    assert from_runs([runs / "a0", runs / "b0"]).study["notes"] == []


def test_a_damaged_curve_is_named(runs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs / "a0", tmp_path / "a0")
    with (other / "scores.jsonl").open("a") as file:
        file.write('{"step": "many"}\n')
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 3"):
        from_runs([other])


def test_points_are_kept_and_drawn_again_when_weights_change(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = from_runs([runs / "a0", runs / "b0"])
    same = replace(results, study=results.study | {"nfe": [1, 2]})
    first = gallery(same, tmp_path)
    assert [list(one.pictures) for one in first.variants] == [[1, 2], [1, 2]]
    # equal weights, the same noise, samplers that do not depend on beta: equal pictures
    assert first.variants[0].pictures[1] == first.variants[1].pictures[1]
    assert first.variants[0].pictures[1] != first.variants[0].pictures[2]
    assert first.data.path.startswith("M")
    with monkeypatch.context() as patched:
        patched.setattr(hub, "load", lambda *_: pytest.fail("a kept picture needs no model"))
        assert gallery(same, tmp_path) == first
        elsewhere = [shutil.copytree(runs / name, tmp_path / "elsewhere" / name) for name in ("a0", "b0")]
        gone = tuple(replace(c, folder=str(f)) for c, f in zip(same.cells, elsewhere, strict=True))
        assert gallery(replace(same, cells=gone), tmp_path) == first  # a study that moves keeps its pictures
    moved = shutil.copytree(runs / "a0", tmp_path / "moved")
    (moved / "ema_0.9.safetensors").write_bytes((runs / "a1" / "ema_0.9.safetensors").read_bytes())
    cells = (replace(same.cells[0], folder=str(moved)), same.cells[1])
    again = gallery(replace(same, cells=cells), tmp_path)
    assert again.variants[0].pictures[1].path not in ("", first.variants[0].pictures[1].path)


def test_images_become_small_webp_and_a_broken_folder_leaves_its_reason(runs: Path, tmp_path: Path) -> None:
    cells = [("DuMo", runs / "d0"), ("MeanFlow", tmp_path / "gone"), ("Flow matching", None)]
    results = study(three(), seeds=(0,), nfe=[1, 4])
    placed = [replace(c, folder=str(f or "")) for c, (_, f) in zip(results.cells, cells, strict=True)]
    found = gallery(replace(results, cells=tuple(placed)), tmp_path / "study")
    one, gone, none = found.variants
    assert all(p.data.startswith("data:image/webp;base64,") and p.small for p in one.pictures.values())
    assert sum(len(p.data) for p in one.pictures.values()) < 2 * pictures.LARGEST * 1.4
    assert found.data.data
    assert gone.why == f"its run {tmp_path / 'gone'} is not at hand"
    assert (gone.gone, none.gone, one.gone) == (True, True, False)
    assert found.note == "Of 2 of 3 variants the runs are not at hand: no samples."
    assert bool(found)
    failed = replace(results, cells=tuple(replace(c, state="failed") for c in results.cells))
    nothing = gallery(failed, None)
    assert {one.why for one in nothing.variants} == {"no run of this variant is finished"}
    assert nothing.note == ""
    assert len(list((tmp_path / "study" / "pictures").glob("*.webp"))) == 3


def test_pictures_during_training_are_shown_where_the_study_asks(runs: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = shutil.copytree(runs / "a0", tmp_path / "a0")
    for step in range(0, 1100, 100):
        noise = (torch.rand(30, 100, 3) * 255).byte().numpy()
        Image.fromarray(noise).save(folder / "samples" / f"step_{step:08d}.png")
    results = from_runs([folder])
    assert gallery(results, None).variants[0].steps is None
    asked = replace(results, study=results.study | {"pictures": 11, "nfe": [1]})
    steps = gallery(asked, None).variants[0].steps
    assert steps is not None
    assert len(steps) == pictures.STEPS
    assert {0, 1000} <= set(steps)
    assert max(len(p.data) for p in steps.values()) < pictures.LARGEST * 1.4
    page = Page(report.page(asked, gallery(asked, None)))
    assert page.all("input", id="stages-slider")[0]["max"] == "8"


def test_a_picture_shrinks_until_it_fits() -> None:
    from PIL import Image

    noise = Image.fromarray((torch.rand(150, 150, 3) * 255).byte().numpy())
    made = pictures._webp(noise, 4000)
    assert len(made.data) * 3 / 4 < 4100
    assert made.wide < 150


def test_the_command_prints_where_and_what(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    cli.command([runs / "a0", runs / "a1", runs / "b0", runs / "c0"], out=out, title="Three runs")
    told = capsys.readouterr().out
    assert f"report    {out}" in told
    assert "4.59 +- 1.60" in told
    assert "is not finished" in told
    page = Page(out.read_text())
    assert "Three runs" in "".join(page.words)
    assert page.all("section", id="gradients")
    gradients = out.read_text().partition('id="gradients"')[2].partition("</section>")[0]
    assert "cosine, logarithmic" not in gradients
    assert f">{axes.MINUS}1</text>" in gradients  # all pairs from -1 to 1
    assert gradients.count('class="level"') == 1
    with pytest.raises(ValueError, match="ends in"):
        cli.command([runs / "a0"], out=tmp_path / "page.pdf")


def test_the_command_takes_the_folder_of_a_study(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    results = study(three(), seeds=(0,), nfe=[1], folders=[runs / "a0"] * 3)
    results.save(tmp_path / "study" / "results.json")
    cli.command([tmp_path / "study"], question="Why?")
    text = (tmp_path / "study" / "report.html").read_text()
    assert "Why?" in text
    assert "A study of nothing" in text
    assert list((tmp_path / "study" / "pictures").glob("*.path"))
    with pytest.raises(ValueError, match="is a study"):
        from_runs([tmp_path / "study", runs / "a0"])


def test_speeds_without_evaluations_have_no_choice_of_them() -> None:
    speed = Record(**(record("mmd", 0, 5.0).as_dict() | {"metric": "speed", "title": "samples/s", "floor": None}))
    results = study(three(), looks=1, measure="speed", nfe=[])
    cells = tuple(replace(c, records=(speed,), curve=()) for c in results.cells)
    text = report.page(replace(results, cells=cells), Gallery((), (), Picture()))
    assert "0 NFE" not in text
    assert "samples/s" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed", exc_type=ImportError)
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with sync.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pages")
    for name, groups in {"three": three(), "sweeps": two_sweeps()}.items():
        results = study(groups, looks=4)
        (place / f"{name}.html").write_text(report.page(results, shown(results)), encoding="utf-8")
    return place


def opened(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    tab, complaints = browser.new_context(**options).new_page(), list[str]()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    tab.goto(file.as_uri())
    return tab, complaints


def test_sorting_and_sliding_in_a_browser(browser: Any, pages: Path) -> None:
    tab, complaints = opened(browser, pages / "three.html")
    button = tab.get_by_role("button", name="sliced W2 ↓, 4 NFE")
    order = "[...document.querySelectorAll('#scores tbody tr')].map(r => r.dataset.v).join('')"
    way = "e => e.closest('th').getAttribute('aria-sort')"
    button.press("Enter")
    assert (tab.evaluate(order), button.evaluate(way)) == ("012", "ascending")
    button.press("Space")
    assert (tab.evaluate(order), button.evaluate(way)) == ("210", "descending")
    tab.get_by_role("button", name="Variant", exact=True).click()
    assert (tab.evaluate(order), button.evaluate(way)) == ("012", "none")
    tab.get_by_role("button", name="Time", exact=True).click()
    seconds = "[...document.querySelectorAll('#scores tbody tr')].map(r => +r.lastElementChild.dataset.sort)"
    found = tab.evaluate(seconds)
    assert found == sorted(found)
    slider = tab.locator("#shots-slider")
    visible = "[...document.querySelectorAll('#shots .slide')].filter(s => s.offsetParent).map(s => s.dataset.slide)"
    assert tab.evaluate(visible) == ["0"] * 3
    slider.press("End")
    assert tab.evaluate(visible) == ["3"] * 3
    slider.press("ArrowLeft")
    assert tab.evaluate(visible) == ["2"] * 3
    assert slider.get_attribute("aria-valuetext") == "4"
    charts_shown = """[...document.querySelectorAll('.chart-box')].map(
        f => [...f.children].filter(c => c.tagName == 'DIV' && c.offsetParent).length)"""
    assert tab.evaluate(charts_shown) == [1, 1]
    tab.get_by_role("radio", name="sliced W2 ↓").press("ArrowLeft")
    tab.get_by_role("radio", name="time").check()
    assert tab.evaluate(charts_shown) == [1, 1]
    assert tab.locator("[data-metric='0'][data-nfe='0'][data-x='time']").is_visible()
    tab.emulate_media(media="print")
    assert tab.evaluate(visible) == ["0", "1", "2", "3"] * 3
    assert not tab.locator("nav").is_visible()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details.common[open]").count() == 1
    assert tab.locator("pre:visible").count() == 1  # not the settings of every variant
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details[open]").count() == 0
    assert complaints == []


def test_paper_holds_wide_tables_and_large_pictures(browser: Any, tmp_path: Path) -> None:
    variants = {f"{i} of them": [({}, 1.0 + i)] for i in range(14)}
    results = study(variants, looks=1)
    settings = [
        {**v.settings, f"part{i // 2}": {"a_rather_long_name": i, "b": 2}} for i, v in enumerate(results.variants)
    ]
    made = [replace(v, settings=tree) for v, tree in zip(results.variants, settings, strict=True)]
    picture = Picture(data="data:image/webp;base64,", wide=800, tall=300)
    every = [Shown(v.name, {1: picture}, steps={0: picture, 1: picture}) for v in made[:2]]
    page = report.page(replace(results, variants=tuple(made)), Gallery(every, (1,), Picture()))
    (tmp_path / "wide.html").write_text(page, encoding="utf-8")
    tab, _ = opened(browser, tmp_path / "wide.html", viewport={"width": 703, "height": 900})
    tab.emulate_media(media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") == 703
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('table')].map(t => t.offsetWidth))") <= 703
    shares = """[...document.querySelectorAll('#stages .slide')].map(
        s => s.offsetWidth / s.parentElement.offsetWidth)"""
    assert all(0.4 < share <= 0.5 for share in tab.evaluate(shares))


def test_a_phone_the_dark_the_filter_and_copies(browser: Any, pages: Path) -> None:
    tab, complaints = opened(
        browser, pages / "sweeps.html", viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    background = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(background)
    tab.locator("#theme").press("Enter")
    assert tab.evaluate(background) != dark
    tab.reload()
    assert tab.evaluate(background) != dark  # remembered
    tab.locator(".filter summary").press("Enter")
    tab.get_by_role("button", name="None").click()
    tab.get_by_role("checkbox", name="DuMo beta=0.6").check()
    assert tab.locator("#scores tbody tr:visible").count() == 1
    assert tab.locator("#shots .card:visible").count() == 1
    assert tab.locator("#shown").inner_text() == "1 of 21"
    tab.get_by_role("button", name="All").click()
    tab.get_by_label("Highlight").select_option("DuMo beta=0.6")
    thick = """[...document.querySelectorAll('[data-metric="0"][data-nfe="0"][data-x="step"] .chart g[data-v]')].filter(
        g => getComputedStyle(g).opacity == 1).map(g => g.dataset.v)"""
    assert tab.evaluate(thick) == ["6"]
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as where it is not allowed
    copy = tab.locator(".copy").first
    copy.press("Enter")
    tab.wait_for_function("document.querySelector('.copy').textContent != 'Copy'")
    assert copy.inner_text() in ("Copied", "Press Ctrl+C")
    assert tab.evaluate("getSelection().toString()") == "genobj compare 'a study.toml'"
    assert complaints == []


def test_without_scripts_everything_can_be_seen(browser: Any, pages: Path) -> None:
    tab, _ = opened(browser, pages / "three.html", java_script_enabled=False)
    assert tab.locator("#shots .slide:visible").count() == 12
    assert tab.locator(".needs-js:visible").count() == 0
    tab.get_by_role("radio", name="32", exact=True).check()
    assert tab.locator("[data-metric='0'][data-nfe='3'][data-x='step']").is_visible()
    assert not tab.locator("[data-metric='0'][data-nfe='0'][data-x='step']").is_visible()
