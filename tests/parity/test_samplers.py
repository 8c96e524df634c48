"""Samplers against official implementations: every fixture of kind 'sampler' that a registered sampler can express."""

from typing import Any

import pytest
import torch

from genobj.samplers.base import Sampler
from genobj.samplers.euler import Euler
from genobj.samplers.flow_map import FlowMap
from genobj.samplers.grids import Karras, Listed
from genobj.samplers.heun import Heun
from genobj.samplers.midpoint import Midpoint
from genobj.samplers.restart import Restart
from genobj.types import Horizon
from tests.parity.fixtures import Case, TanhNetwork, check, load, names, skip

NULL = 10
METHODS: dict[str, type[Sampler]] = {"euler": Euler, "heun": Heun, "heun2": Heun, "midpoint": Midpoint}
Plan = tuple[Sampler, dict[str, Horizon]]


@pytest.mark.parametrize("name", names("sampler"))
def test_samples_are_those_of_the_official_code(name: str) -> None:
    case = load(name)
    sampler, horizons = plan(case)
    net = TanhNetwork(case.group("param"), tuple(case.arrays["z"].shape[1:]), horizons)
    fresh = case.arrays.get("draw/noise")
    walk = sampler(
        net, case.arrays["z"], case.arrays["y"], null=NULL, noise=None if fresh is None else fresh.__getitem__
    )
    rtol = case.info["recommended_rtol"]
    check("x0", walk.samples, case.arrays["expected/x0"], rtol)
    if "expected/trajectory" in case.arrays:
        check("trajectory", walk.trajectory, case.arrays["expected/trajectory"], rtol)


def plan(case: Case) -> Plan:
    """The sampler of this fixture and the horizons of its network's heads."""
    options, name = case.options, case.name.removeprefix("sampler_")
    if reason := unregistered(case, name):
        skip(reason)
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
    if name.startswith(("ucgm", "twinflow")):
        return "the unified sampler of UCGM and TwinFlow is not registered"
    if name.startswith("edm_heun"):
        return "Heun on the denoiser (EDM form) is another sampler than Heun on the velocity"
    known = ("euler", "heun", "midpoint", "edm_euler", "openai", "consistency", "meanflow", "shortcut", "imf")
    return None if "method" in case.options or name.startswith(known) else f"no sampler is known for {name}"


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
