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

    A velocity head and 16 evaluations or more: heun for even numbers, euler for the others. Else a data head: restart,
    which with one evaluation is a single jump. Else an interval head: flow_map. Else a velocity head: euler. A head
    that ends either way is both a velocity head and a data head.
    """
    has = set(horizons.values())
    if nfe < 1:
        raise ValueError(f"nfe={nfe} makes no sample: type nfe=1 or more")
    if has & {"instant", "ends"} and nfe >= MANY:
        return Euler(steps=nfe) if nfe % 2 else Heun(steps=nfe // 2)
    if has & {"data", "ends"}:
        return Restart(steps=nfe)
    if "interval" in has:
        return FlowMap(steps=nfe)
    if "instant" in has:
        return Euler(steps=nfe)
    raise ValueError("this model has no velocity head to sample from: train one, for example with --objectives fm")
