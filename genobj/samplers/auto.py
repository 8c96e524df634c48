"""The sampler to take when nobody chose one."""

from collections.abc import Mapping

from genobj.samplers.base import Sampler
from genobj.samplers.euler import Euler
from genobj.samplers.flow_map import FlowMap
from genobj.samplers.heun import Heun
from genobj.samplers.restart import Restart
from genobj.types import Horizon

MANY = 16
"""Evaluations from which a velocity is worth integrating, at second order if they are even."""


def choose(horizons: Mapping[str, Horizon], nfe: int) -> Sampler:
    """A sampler of `nfe` unguided evaluations for a network with these heads.

    An interval head: flow_map. A data head and fewer than 16 evaluations (or no velocity head): restart, which with
    one evaluation is a single jump. Else a velocity head: heun for even numbers from 16 on, euler for the others.
    """
    has = set(horizons.values())
    if nfe < 1:
        raise ValueError(f"nfe={nfe} makes no sample: type nfe=1 or more")
    if "interval" in has:
        return FlowMap(steps=nfe)
    if "data" in has and (nfe < MANY or "instant" not in has):
        return Restart(steps=nfe)
    if "instant" in has:
        return Heun(steps=nfe // 2) if nfe >= MANY and nfe % 2 == 0 else Euler(steps=nfe)
    raise ValueError("this model has no velocity head to sample from: train one, for example with --objectives fm")
