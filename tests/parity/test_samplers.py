"""Samplers against official implementations: every fixture of kind 'sampler' that a registered sampler can express."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from genobj.paths.base import Path
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.paths.random import Random
from genobj.paths.trig import Trig
from genobj.samplers.base import Sampler
from genobj.samplers.edm import EDMHeun
from genobj.samplers.euler import Euler
from genobj.samplers.flow_map import FlowMap
from genobj.samplers.grids import Karras, Kumaraswamy, Listed
from genobj.samplers.heun import Heun
from genobj.samplers.midpoint import Midpoint
from genobj.samplers.restart import Restart
from genobj.samplers.unified import Unified
from genobj.types import Horizon, Labels, Network, Samples, TimeTensor, over
from tests.parity.fixtures import Case, TanhNetwork, check, load, names, skip

NULL = 10
METHODS: dict[str, type[Sampler]] = {"euler": Euler, "heun": Heun, "heun2": Heun, "midpoint": Midpoint}
PATHS: dict[str, Path] = {
    "Linear": Linear(),
    "ReLinear": Linear(),
    "TrigFlow": Trig(quarter=1.57),
    "TrigLinear": Trig(quarter=1.57, target="difference"),
    "EDM": EDM(),
    "Random": Random(),
}
"""UCGM's, by its names."""
Plan = tuple[Sampler, dict[str, Horizon]]


@dataclass
class SaysF:
    """UCGM's network, which says F = alpha_hat z + gamma_hat x (README.md), as one that says v."""

    net: Network
    path: Path
    turned: bool
    """ReLinear: its own time runs from noise to data, and so does what it says."""

    @property
    def horizons(self) -> Mapping[str, Horizon]:
        return self.net.horizons

    def __call__(
        self, x_t: Samples, t: TimeTensor, *, r: TimeTensor | None = None, y: Labels | None = None
    ) -> dict[str, Samples]:
        if self.turned:
            return {"u": -self.net(x_t, 1 - t, r=r, y=y)["u"]}
        said, path = self.net(x_t, t, r=r, y=y)["u"], self.path
        a, b = over(path.noise_scale(t), x_t), over(path.data_scale(t), x_t)
        a_hat, b_hat = over(path.noise_target(t), x_t), over(path.data_target(t), x_t)
        x_hat, z_hat = a * said - a_hat * x_t, b_hat * x_t - b * said
        return {"u": path.velocity(x_hat, z_hat, t) / (a * b_hat - b * a_hat)}


@pytest.mark.parametrize("name", names("sampler"))
def test_samples_are_those_of_the_official_code(name: str) -> None:
    case = load(name)
    sampler, horizons = plan(case)
    net: Network = TanhNetwork(case.group("param"), tuple(case.arrays["z"].shape[1:]), horizons)
    kind = case.options.get("path", "Linear")
    path = PATHS[kind]
    if kind != "Linear":
        net = SaysF(net, path, kind == "ReLinear")
    fresh = case.arrays.get("draw/noise")
    noise = None if fresh is None else fresh.__getitem__
    walk = sampler(net, case.arrays["z"], case.arrays["y"], null=NULL, path=path, noise=noise)
    rtol = case.info["recommended_rtol"]
    check("x0", walk.samples, case.arrays["expected/x0"], rtol)
    if "expected/trajectory" in case.arrays:
        check("trajectory", walk.trajectory, case.arrays["expected/trajectory"], rtol)
    if "expected/times" in case.arrays and kind != "ReLinear":
        times = torch.tensor(sampler.grid.times(sampler.steps), dtype=torch.float64)
        assert torch.equal(times, case.arrays["expected/times"])
    if "nfe" in case.options:
        assert walk.nfe == case.options["nfe"]


@pytest.mark.parametrize("name", [name for name in names("sampler") if "expected/x_hats" in load(name).arrays])
def test_the_unified_sampler_rounds_as_the_formulas_of_its_papers_do(name: str) -> None:
    """On the linear path its numbers are the same to the last bit. (Those of the fixtures have another machine's tanh.)

    OBJECTIVES.md A4 and A9 written out, with den = -1.
    """
    case = load(name)
    options, (sampler, horizons) = case.options, plan(case)
    if options["path"] != "Linear":
        skip("other paths agree to rounding, since here a network says v and not F")
    assert isinstance(sampler, Unified)
    net = TanhNetwork(case.group("param"), tuple(case.arrays["z"].shape[1:]), horizons)
    y, n = case.arrays["y"], sampler.steps
    x, eps = case.arrays["z"], case.arrays.get("draw/noise", torch.zeros(n, 1))
    times = torch.tensor(sampler.grid.times(n), dtype=torch.float64)
    kappa, hats = options["kappa"], list[tuple[Samples, Samples]]()

    def made_of(x: Samples, t: Samples, told: Samples) -> tuple[Samples, Samples]:
        said = net(x, t.expand(len(x)), r=told.expand(len(x)), y=y)["u"]
        return (said * t - x * 1) / -1.0, (x * -1 - said * (1 - t)) / -1.0

    for i in range(n):
        t, r = times[i], times[i + 1]
        hats.append(made_of(x, t, {"few": 0 * t, "mul": t, "any": r}[sampler.style]))
        x_hat, z_hat = hats[-1]
        if options["extrapolation"] and i >= 2:
            x_hat, z_hat = (h + options["extrapolation"] * (h - g) for h, g in zip(hats[-1], hats[-2], strict=True))
        if kappa == "Auto":
            kappa = ((((r - t).abs().sqrt() * (2 * t).sqrt()) / r) ** 2).clamp(0, 1).item()
        x_r = (1 - r) * x_hat + r * (z_hat * (1 - kappa) ** 0.5 + eps[i] * kappa**0.5)
        if options["order"] == 2 and (i < n - 1 or not options["gaps"][1]):
            z_r = made_of(x_r, r, r)[1]
            x_r = x * (1 - r) / (1 - t) + (r - (1 - r) * t / (1 - t)) * (0.5 * z_hat + 0.5 * z_r)
        x = x_r
    fresh = case.arrays.get("draw/noise")
    walk = sampler(net, case.arrays["z"], y, noise=None if fresh is None else fresh.__getitem__)
    assert torch.equal(walk.samples, hats[-1][0])


def plan(case: Case) -> Plan:
    """The sampler of this fixture and the horizons of its network's heads."""
    options, name = case.options, case.name.removeprefix("sampler_")
    if reason := unregistered(case, name):
        skip(reason)
    if "extrapolation" in options:
        return unified(options), {"u": "interval" if "style" in options else "instant"}
    if name.startswith("edm_heun"):
        return EDMHeun(**steps(options)), {"u": "instant"}
    if "method" in options:
        return METHODS[options["method"]](**steps(options), **guidance(options)), {"v": "instant"}
    if name.startswith("edm_euler"):
        return Euler(**steps(options)), {"u": "instant"}
    if name.startswith("openai"):
        return openai(options), {"u": "data"}
    if options.get("kind") == "consistency":
        return Restart(**steps(options), **guidance(options), told="next"), {"u": "interval"}
    if name.startswith("consistency"):
        return Restart(**steps(options)), {"u": "data"}
    return FlowMap(**steps(options), **guidance(options)), {"u": "interval"}


def unregistered(case: Case, name: str) -> str | None:
    """Why no sampler of genobj answers this fixture, or None."""
    known = ("euler", "heun", "midpoint", "edm", "openai", "consistency", "meanflow", "shortcut", "imf")
    known = (*known, "ucgm", "twinflow")
    return None if "method" in case.options or name.startswith(known) else f"no sampler is known for {name}"


def unified(options: dict[str, Any]) -> Unified:
    """S evaluations are (S + 1) // 2 steps at order 2; a network that is not fed r says the velocity of its state."""
    a, b, c = options["kumaraswamy"]
    kappa, evaluations, order = options["kappa"], options["S"], options["order"]
    return Unified(
        steps=(evaluations + 1) // 2 if order == 2 else evaluations,
        grid=Kumaraswamy(a=a, b=b, c=c, gaps=tuple(options["gaps"])),
        style=options.get("style", "mul"),
        kappa="auto" if kappa in ("Auto", "SDE") else kappa,
        extrapolation=options["extrapolation"],
        order=order,
    )


def steps(options: dict[str, Any]) -> dict[str, Any]:
    """Settings `steps` and `grid` from listed times, EDM's noise levels or a number of even steps."""
    times = options.get("times")
    if times is None and "sigmas" in options:
        times = [sigma / (1 + sigma) for sigma in options["sigmas"]]
    if times is None:
        return {"steps": options["steps"]}
    points = tuple(time for time in times if time > 0)
    return {"steps": len(points), "grid": Listed(points=points)}


def guidance(options: dict[str, Any]) -> dict[str, Any]:
    """Settings `guidance` and `interval` of fixtures with cfg, or of a network that is fed them."""
    if "w" in options:
        return {"guidance": options["w"], "interval": (options["lo"], options["hi"])}
    cfg = options.get("cfg") or {"w": options.get("cfg_w", 1.0)}
    return {"guidance": cfg["w"], "interval": tuple(cfg.get("interval_closed", (0.0, 1.0)))}


def openai(options: dict[str, Any]) -> Restart:
    """OpenAI's sampler jumps from all its levels but the last, which is sigma_min and puts back no noise."""
    keys = ("sigma_min", "sigma_max", "rho")
    levels = Karras(**{key: options[key] for key in keys}).times(options["steps"])
    if options["ts"][-1] != options["steps"] - 1:
        skip("the last level puts noise on the result, which restart does not")
    points = tuple(levels[i] for i in options["ts"][:-1])
    return Restart(steps=len(points), grid=Listed(points=points), sigma_min=options["sigma_min"])


def test_the_network_of_the_fixtures_is_float64() -> None:
    """A fixture would pass for the wrong reason at a loose tolerance; none is recommended above 1e-6."""
    assert all(load(name).info["recommended_rtol"] <= 1e-6 for name in names("sampler"))
    assert all(load(name).arrays["z"].dtype == torch.float64 for name in names("sampler"))
