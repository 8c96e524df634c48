"""The report is one honest page: it parses, escapes, loads nothing, stays small, and works by mouse, keys and paper."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from genobj import hub
from genobj.cli import report as cli
from genobj.metrics.records import Record
from genobj.studies import charts, report
from genobj.studies import gallery as pictures
from genobj.studies.charts import Scale, Series, Spot, Tile, heat, lines, short, thinned, ticks
from genobj.studies.collect import from_runs
from genobj.studies.courses import varying
from genobj.studies.figures import Figures
from genobj.studies.gallery import Gallery, Picture, Shown, gallery
from genobj.studies.results import Results
from genobj.studies.summary import duration, summary
from tests.reporting import NFE, make_run, matrix, record, study, three, two_sweeps

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
VOID = {"meta", "input", "img", "br", "use", "path", "rect", "link"}
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
    assert inside + len(labelled) == len(page.all("input"))
    assert labelled == {"shots-slider"}
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
    assert meanflow.difference.startswith("+")
    assert [head.counts for head in table.heads] == [["1 NFE", "2 NFE", "4 NFE", "32 NFE"]] * 2
    text = report.page(replace(results, cells=tuple(cells)), Gallery((), (), Picture()))
    assert "out of memory" in text
    assert "7 finished of 9" not in text
    assert "8 finished of 9" in text


def test_a_difference_is_better_or_worse_by_the_metrics_own_direction() -> None:
    results = study(three(), seeds=(0, 1, 2, 3, 4))
    up = [replace(c, records=tuple(replace(r, higher_is_better=True) for r in c.records)) for c in results.cells]
    for cells, word in ((results.cells, "worse"), (tuple(up), "better")):
        flipped = replace(results, cells=cells)
        assert summary(flipped, Figures(flipped)).lines[2].cells[0].word == word


def test_figures_follow_the_axes_of_groups() -> None:
    two = Figures(study(two_sweeps(), looks=2)).every()
    assert [figure.title for figure in two] == ["Against beta", "Against network evaluations", "During training"]
    assert [entry.title for entry in two[0].legend] == ["DuMo", "MeanFlow"]
    assert [entry.title for entry in two[1].legend] == ["DuMo beta=0 to beta=1", "MeanFlow beta=0 to beta=0.9"]
    assert [len(figure.plots) for figure in two] == [8, 2, 24]
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
    assert {plot.x for plot in figure.plots} == {"step", "seen", "time"}
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
    values = Figures(study(three()))._curve(study(three()).variants[0], "mmd", 1, "step", 1.0)
    assert all(value.low <= value.y <= value.high for value in values)


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
        1e-5: f"1e{charts.MINUS}5",
        -2.0: f"{charts.MINUS}2",
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


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    a, b = sorted((_luminance(one), _luminance(other)))
    return (b + 0.05) / (a + 0.05)


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
    assert all(_contrast(hue[theme], pairs["bg"]) >= 3 for hue in hues)


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
    assert "there is no" in gone.why
    assert "no run" in none.why
    assert bool(found)
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
    assert tab.locator("details:not([open])").count() == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details[open]").count() == 0
    assert complaints == []


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
