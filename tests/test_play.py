"""genobj play: controls made of a sampler's fields, samples equal to their command line, the page in a browser."""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from genobj import hub
from genobj.cli import play
from genobj.cli.main import run
from genobj.config.base import Pick
from genobj.evaluation import Generator
from genobj.parts import GRIDS, SAMPLERS
from genobj.play import figures, knobs, page, server
from genobj.play.players import Answer, Noise, Player, cloud, fit, titles
from genobj.samplers.base import Flow, Sampler
from genobj.samplers.grids import Grid, Uniform
from genobj.samplers.restart import Restart
from genobj.types import Horizon
from tests.sharing import make_run

CPU = torch.device("cpu")
ONE = Noise(nfe=2, seed=3, count=12, label=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs_to_play_with")
    make_run(place / "digits")
    make_run(place / "own", "evaluation.sampler.kind=restart", "evaluation.sampler.kappa=0.25")
    make_run(place / "moons", data="moons")
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def player(name: str) -> Player:
    return Player(name, Path(name), CPU)


class Turning(Sampler):
    """A sampler of somebody else."""

    stochasticity: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of noise."""
    turns: Annotated[int, Field(ge=1)] = 3
    """How often."""
    order: Literal[1, 2] = 2
    quick: bool = False
    gaps: tuple[float, float] = (0.001, 0.5)
    note: str | None = None
    second: Annotated[Grid, Pick(GRIDS, "uniform")] = Uniform()

    @property
    def answers(self) -> tuple[Horizon, ...]:
        return ("instant",)

    def step(self, flow: Flow, x_t: Tensor, t: float, r: float, fresh: Callable[[], Tensor]) -> Tensor:
        return x_t - (t - r) * self.stochasticity * flow.velocity(x_t, t)


@pytest.fixture
def turning() -> Iterator[str]:
    SAMPLERS.register("turning")(Turning)
    yield "turning"
    SAMPLERS.unregister("turning")


def test_fields_of_a_sampler_become_controls(turning: str) -> None:
    kappa, sigma_min, told = knobs.extra(Restart(), "restart", Sampler)
    assert (kappa.key, kappa.value, kappa.low, kappa.high, kappa.step) == (("restart", "kappa"), 1.0, 0, 1, 0.01)
    assert kappa.help == "Share of fresh noise in the variance that is put back; 0 is deterministic (DDIM)."
    assert sigma_min.high == 1  # no upper bound, and nothing to guess it from
    assert told.choices == ("data", "next")
    made = {one.key[1]: one for one in knobs.extra(Turning(), turning, Sampler)}
    assert (made["stochasticity"].low, made["stochasticity"].high) == (0.01, 0.99)  # the bounds are excluded
    assert (made["turns"].low, made["turns"].high, made["turns"].step, made["turns"].value) == (1, 24, 1, 3)
    assert (made["order"].choices, made["quick"].choices) == ((1, 2), (True, False))
    assert (made["gaps"].value, made["note"].value) == ("[0.001, 0.5]", "")
    assert (made["second"].value, "karras" in made["second"].choices) == ("uniform", True)
    assert knobs.read({one.key: one.value for one in made.values()}, Turning(), turning) == {}
    own = Restart(guidance=12, head="u")
    told = {one.key[1]: one for one in knobs.shared(own, {"v": "instant", "u": "data"}, 0.0)}
    assert (told["guidance"].value, told["guidance"].high, told["head"].choices) == (12, 12, ("v", "u"))
    fed = {one.key[1]: one for one in knobs.shared(Restart(), {"u": "data"}, 5.0)}
    assert (fed["guidance"].low, fed["guidance"].high, fed["head"].choices) == (1, 5, ("auto", "u"))


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_controls_that_nobody_touched_change_nothing(name: str) -> None:
    base = SAMPLERS.get(name)(steps=2)
    made = [*knobs.shared(base, {"v": "instant", "u": "interval"}, 0.0), *knobs.extra(base, name, Sampler)]
    made += [one for grid, part in knobs.grids().items() for one in knobs.extra(part, f"grid {grid}")]
    assert knobs.read({one.key: one.value for one in made}, base, name) == {}
    for one in made:
        if one.high is not None:
            assert one.low <= one.value <= one.high
            assert (one.value - one.low) / one.step == pytest.approx(round((one.value - one.low) / one.step))
        assert one.help


def test_controls_become_settings_and_words(turning: str) -> None:
    shown = {
        ("", "guidance"): 1.2000000000000002,
        ("", "interval"): "[0.1, 0.9]",
        ("", "grid"): "karras",
        ("", "head"): "v",
        ("grid karras", "rho"): 5,
        ("grid karras", "sigma_max"): 80.0,
        ("grid shifted", "shift"): 9.0,
        ("turning", "gaps"): "[0.1, 0.2]",
        ("turning", "note"): "",
        ("turning", "quick"): True,
        ("turning", "second"): "shifted",
        ("restart", "kappa"): 0.1,
    }
    table = knobs.read(shown, Turning(), turning)
    grid = {"kind": "karras", "rho": 5}
    usual = {"guidance": 1.2, "interval": [0.1, 0.9], "head": "v"}
    assert table == {**usual, "gaps": [0.1, 0.2], "quick": True, "second": "shifted", "grid": grid}
    assert knobs.words(table)[-2:] == ["grid=karras", "grid.rho=5"]
    assert Turning.model_validate(table).quick
    assert knobs.read(shown, Restart(), None) == {**usual, "grid": grid}  # the usual sampler has no controls of its own
    assert [knobs.literal(value) for value in ("u", "12", 0.5, [1.0], True)] == ["u", '"12"', "0.5", "[1.0]", "true"]


def test_only_samplers_that_the_heads_can_answer_are_offered() -> None:
    assert [*knobs.offered({"v": "instant"})] == ["edm", "euler", "heun", "midpoint", "ode"]
    assert [*knobs.offered({"u": "data"})] == ["flow_map", "restart", "unified"]
    every = ["edm", "euler", "flow_map", "heun", "midpoint", "ode", "restart", "unified"]
    assert [*knobs.offered({"u": "interval"})] == every


@pytest.mark.parametrize(
    ("name", "noise", "weights", "sampler", "controls"),
    [
        ("digits", ONE, "ema", None, {}),
        ("digits", replace(ONE, label=7, nfe=1), "live", "flow_map", {}),
        ("digits", ONE, "ema", "restart", {("restart", "kappa"): 0.3, ("", "guidance"): 2.5}),
        ("digits", ONE, "ema", "euler", {("", "grid"): "kumaraswamy", ("grid kumaraswamy", "a"): 1.5}),
        ("digits", ONE, "ema", None, {("", "interval"): "[0.2, 0.8]", ("", "guidance"): 3}),
        ("own", ONE, "ema", None, {("restart", "kappa"): 1.0}),
        ("own", ONE, "ema", "restart", {("", "grid"): "listed", ("grid listed", "points"): "[1.0, 0.4]"}),
        ("moons", ONE, "ema", "heun", {("", "head"): "v"}),
    ],
)
def test_the_command_makes_the_same_samples(
    name: str, noise: Noise, weights: str, sampler: str | None, controls: dict[knobs.Key, Any], tmp_path: Path
) -> None:
    answer = player(name).answer(noise, weights, sampler, controls)
    words = shlex.split(answer.command)
    assert words[:2] == ["genobj", "sample"]
    assert run([*words[1:], "--raw", "--out", str(tmp_path / "x.npz")]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], answer.x.numpy())


def test_samples_are_those_of_the_generator_with_the_settings_of_the_controls() -> None:
    loaded = hub.load(Path("own"), "live")
    expected, nfe = Generator(loaded.model, loaded.settings, CPU)(Restart(steps=2, kappa=0.25, guidance=2), 12, 3)
    answer = player("own").answer(ONE, "live", None, {("", "guidance"): 2.0})
    assert torch.equal(answer.x, expected.x)
    assert (answer.nfe, nfe, answer.sampler, answer.head, answer.weights) == (4, 4, "restart", "u", "live")
    plain = player("own").answer(ONE, "live", "restart", {})  # by name it has its usual settings, as --sampler says
    assert not torch.equal(plain.x, player("own").answer(ONE, "live", None, {}).x)


def test_weights_and_exported_folders(tmp_path: Path) -> None:
    assert player("digits").weights() == ["ema", "live"]
    (Path("digits") / "ema_width_0.1.safetensors").write_bytes(Path("digits/ema_0.9.safetensors").read_bytes())
    assert player("digits").weights() == ["ema", "live", "width_0.1"]
    assert run(["export", "digits", "--to", str(tmp_path / "shared")]) == 0
    shared = player(str(tmp_path / "shared"))
    assert shared.weights() == ["ema"]
    assert torch.equal(shared.answer(ONE, "ema", None, {}).x, player("digits").answer(ONE, "width_0.1", None, {}).x)


def test_what_does_not_go_is_a_sentence_and_the_other_model_is_drawn() -> None:
    both = page.Page([player("digits"), player("own")])
    refused, drawn = both.draw(replace(ONE, nfe=1), [("ema", "heun", {}), ("ema", "auto", {})])
    assert "heun costs 2 evaluations a step, not nfe=1 in all: type nfe=2" in refused
    assert 'role="alert"' in refused
    assert "1 NFE" in drawn
    for chosen, says in {
        ("ema", "flow_map"): "needs a head that jumps between times",
        ("0.5", "auto"): "has no weights &#x27;0.5&#x27;; choose from",
    }.items():
        assert says in both.draw(ONE, [(*chosen, {}), ("ema", "auto", {})])[0]
    wrong = both.draw(ONE, [("ema", "auto", {("", "interval"): "[0.2"}), ("ema", "auto", {})])[0]
    assert "interval" in wrong
    assert "Traceback" not in wrong


def test_a_picture_tells_what_it_shows() -> None:
    model = page.Page([player("digits")])
    (html,) = model.draw(ONE, [("ema", "auto", {})])
    assert 'alt="12 samples of digits, 2 NFE"' in html
    assert html.count("<span>") == 10  # a class above every column
    assert "genobj sample digits --nfe 2 --count 12 --seed 3</pre>" in html
    (html,) = model.draw(replace(ONE, label=4), [("ema", "auto", {})])
    assert "<span>" not in html
    points = page.Page([player("moons")], cloud(player("moons")))
    (html,) = points.draw(replace(ONE, count=500), [("ema", "auto", {})])
    assert html.count("<path") == 2
    assert cloud(player("digits")) is None
    lost = Answer(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), 1, 0.5, "<b>", "u", "ema", "genobj")
    html = figures.figure(lost, "a", limit=figures.limit([lost.x]))
    assert "1 samples are not finite" in html
    assert "<b>, " not in html
    assert html.count("h0") == 1


def test_models_of_other_data_share_no_noise() -> None:
    fit([player("digits"), player("own")])
    with pytest.raises(ValueError, match=r"digits draws \(1, 8, 8\) with 10 classes and moons draws \(2,\)"):
        fit([player("digits"), player("moons")])


def test_addresses() -> None:
    assert server.place("127.0.0.1", None)[1] >= server.FIRST_PORT
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {number} is not free; type another"):
            server.place("127.0.0.1", number)
    with pytest.raises(ValueError, match="this machine has no such address; leave it out"):
        server.place("192.0.2.1", None)
    assert server.loopback("127.0.0.1")
    assert server.loopback("[::1]")
    assert not server.loopback("0.0.0.0")


def asked(
    host: str, path: str = "/config", hosts: frozenset[str] = server.HERE, kind: str = "http"
) -> list[dict[str, Any]]:
    """What the page's gate sends for a request; the page behind it answers 200."""
    sent = list[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    scope = {"type": kind, "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(server.Closed(page, hosts)(scope, None, send))
    return sent


def test_strangers_are_turned_away() -> None:
    for host in ("127.0.0.1:7860", "localhost", "LOCALHOST:7861", "[::1]:7860", "[::1]"):
        assert asked(host)[0]["status"] == 200
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost:x"):
        assert [message.get("status") for message in asked(host)] == [403, None]
        assert asked(host, hosts=frozenset())[0]["status"] == 200  # where the network was let in
    assert asked("evil.example", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    for path in ("/gradio_api/upload", "/upload", "/gradio_api/Upload/"):
        assert asked("localhost", path, frozenset())[0]["status"] == 403
    assert asked("localhost", "/assets/Upload-1a2b.js")[0]["status"] == 200
    headers = dict(asked("localhost")[0]["headers"]) | dict(asked("evil.example")[0]["headers"])
    assert headers[b"content-security-policy"].endswith(b"; frame-ancestors 'none'")


def test_headings_are_short_and_the_command_has_the_path() -> None:
    assert titles(["runs/a/digits"]) == ["digits"]
    assert titles(["/x/a/digits", "/x/b/digits"]) == ["a/digits", "b/digits"]
    assert titles(["digits", "runs/digits"]) == ["digits", "runs/digits"]
    assert titles(["runs/digits", "runs/digits"]) == ["digits", "digits"]
    assert titles(["/"]) == ["/"]
    deep = Player(str(Path("digits").resolve()), Path("digits"), CPU, (), "digits")
    (html,) = page.Page([deep]).draw(ONE, [("ema", "auto", {})])
    assert "<b>digits</b>" in html
    assert f"genobj sample {Path('digits').resolve()} " in html


def test_mistakes_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"needs gradio; type pip install 'genobj\[demo\]'"):
        play.command(Path("digits"))
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="5.50.0"))
    with pytest.raises(ValueError, match="needs gradio 6 or later"):
        play.command(Path("digits"))
    monkeypatch.setattr(server, "gradio", lambda: None)
    with pytest.raises(ValueError, match="there is no nowhere here"):
        play.command(Path("nowhere"))
    with pytest.raises(ValueError, match="name two models of the same data"):
        play.command(Path("digits"), Path("moons"))


def test_nothing_of_a_stranger_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "gradio", lambda: None)
    assert run(["export", "moons", "--to", str(tmp_path / "theirs")]) == 0
    trap = tmp_path / "theirs" / "trap.py"
    trap.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'sprung')!r}).touch()\n")
    (tmp_path / "theirs" / "config.toml").write_text(f"plugins = [{str(trap)!r}]\n")
    with pytest.raises(ValueError, match="same data"):
        play.command(tmp_path / "theirs", Path("digits"))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="same data"):
        play.command(tmp_path / "theirs", Path("digits"), plugin=[str(trap)])  # but if somebody trusts it
    assert (tmp_path / "sprung").exists()


@pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs gradio")
def test_the_controls_of_the_page_reach_their_model(folder: Path) -> None:
    """In a process of its own: gradio leaves an event loop open, of which Python would warn in some other test."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    line = "from tests.test_play import controls_reach_their_model as check; check()"
    subprocess.run([sys.executable, "-c", line], cwd=folder, env=environment, check=True)


def controls_reach_their_model() -> None:
    blocks = page.Page([player("digits"), player("own")]).build()
    (drawn,) = [one for one in blocks.fns.values() if one.name == "drawn"]
    values, labels = [one.value for one in drawn.inputs], [one.label for one in drawn.inputs]
    assert labels[:4] == ["NFE", "Seed", "Samples", "Class"]
    assert labels[-1] == "shift"  # of the second model's last time grid
    before = drawn.fn(*values)
    assert all("--nfe 1 --count 40 --seed 0</pre>" in html for html in before)
    values[:4] = [4, 7, 20, "3"]
    values[labels.index("Sampler of own")] = "restart"
    values[labels.index("kappa", labels.index("Sampler of own"))] = 0.5
    first, second = drawn.fn(*values)
    assert "genobj sample digits --nfe 4 --count 20 --seed 7 --label 3</pre>" in first
    assert "genobj sample own --nfe 4 --count 20 --seed 7 --label 3 --sampler restart kappa=0.5</pre>" in second
    follows = [one.fn for one in blocks.fns.values() if one.name == "changes"]
    assert len(follows) == 2  # time grids
    assert [change["visible"] for change in follows[0]("karras")] == [True, False, False, False]
    takes = [one.fn for one in blocks.fns.values() if one.name == "taken"]
    assert [sum(change["visible"] for change in one("restart", 1)) for one in takes] == [1, 1]  # its own settings alone
    usual = [player(name).usual(1) == "restart" for name in ("digits", "own")]
    assert [any(change["visible"] for change in one("auto", 1)) for one in takes] == usual
    assert usual[1]  # its own sampler
    assert not any(change["visible"] for change in takes[1]("euler", 2))
    values[labels.index("Sampler of own")] = "auto"
    chooses = [one for one in blocks.fns.values() if one.name == "chooses" and one.outputs[0].label == "Sampler of own"]
    assert [one.fn() for one in chooses].count("restart") == 3  # kappa and its neighbours
    kappas = [one.value for one in drawn.inputs if one.label == "kappa"]
    assert 0.25 in kappas  # what its own sampler says
    values[1] = -3
    assert all("seed -3: type 0 or more" in html and "<img" not in html for html in drawn.fn(*values))


CHROMIUM = Path("/usr/bin/chromium")
COMMAND = """
import socket, typer
from genobj.cli.play import command
connect = socket.socket.connect
def watched(self, address):
    print("connects to", address[0] if isinstance(address, tuple) else "a file")
    return connect(self, address)
socket.socket.connect = watched
typer.run(command)
"""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]


def answered(request: Request) -> int:
    """Status of a request, past any proxy."""
    try:
        with build_opener(ProxyHandler({})).open(request) as answer:
            return answer.status
    except HTTPError as error:
        with error:
            return error.code


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """The page of two models, in a process of its own that Ctrl-C must end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HTTP_PROXY": "http://192.0.2.1:9"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", COMMAND, "digits", "own"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list[str]()
        while not lines or not lines[-1].startswith("http"):
            lines.append(process.stdout.readline())
            assert lines[-1], "the page ended before it was served"
        try:
            yield lines[-1].split()[0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        told = {line.split()[-1] for line in [*lines, *process.stdout] if line.startswith("connects")}
        assert told == {"127.0.0.1"}  # gradio looks whether its page is there, past the proxy


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs gradio")
@pytest.mark.skipif(find_spec("playwright") is None, reason="playwright drives the page")
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
def test_the_page_in_a_browser(served: str) -> None:
    """One browser for all of it: starting one, and the server, takes most of the time."""
    from playwright import sync_api

    requests, errors = list[str](), list[str]()
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        answer = tab.goto(served)
        assert answer is not None
        assert answer.headers["content-security-policy"].startswith("default-src 'self' ")
        tab.wait_for_selector(".drawn figcaption")

        def pictures() -> list[str]:
            return tab.eval_on_selector_all(".drawn img", "all => all.map(one => one.src)")

        def until(text: str, count: int = 1) -> None:
            tab.wait_for_function(
                "([text, count]) => [...document.querySelectorAll('.drawn')]"
                ".filter(one => one.innerText.includes(text)).length >= count",
                arg=[text, count],
            )

        before = pictures()
        assert len(before) == 2
        ends = "all => [all[0].getBoundingClientRect().bottom, all[1].getBoundingClientRect().top]"
        bottom, top = tab.eval_on_selector_all(".drawn img", ends)
        assert bottom <= top  # below each other on a phone
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        slider = tab.get_by_role("slider").first
        slider.focus()
        slider.press("ArrowRight")
        until("--nfe 2 ", 2)
        after = pictures()
        assert after[0] != before[0]
        tab.get_by_role("button", name="New noise").click()
        until("--seed 1", 2)
        assert not {*after} & {*pictures()}
        tab.get_by_label("Sampler of digits").click()
        tab.get_by_role("option", name="restart").click()
        until("--sampler restart")
        kappa = tab.get_by_label("kappa").first
        kappa.fill("0.5")
        kappa.press("Enter")
        until("kappa=0.5")
        own = tab.get_by_label("kappa").last  # seen although its sampler is `auto`
        own.fill("0.75")
        own.press("Enter")
        until("genobj sample own --nfe 2 --count 40 --seed 1 --sampler restart kappa=0.75")
        for host, path, status in (("evil.example", "", 403), ("localhost", "gradio_api/upload", 403), ("", "", 200)):
            request = Request(f"{served}{path}", b"" if path else None, {"Host": host} if host else {})
            assert answered(request) == status
        tab.get_by_label("Sampler of digits").click()
        tab.get_by_role("option", name="heun").click()
        slider.focus()
        slider.press("ArrowRight")
        until("heun costs 2 evaluations a step, not nfe=3")
        assert len(pictures()) == 1
        browser.close()
    assert not errors
    assert all(url.startswith((served, "data:", "blob:")) for url in requests)
