"""Log-likelihood of data by the probability-flow ODE.

The velocity carries the density along: with dx_t/dt = v(x_t, t) and noise of known density at t = 1,

    log p_0(x_0) = log p_1(x_1) + integral over t from 0 to 1 of div v(x_t, t)

(Chen et al., arXiv 1806.07366, Theorem 1; Song et al., arXiv 2011.13456, Eq. 39, with time as here). The divergence is
the trace of the Jacobian, or its unbiased estimate e^T (dv/dx) e with random signs e (Grathwohl et al., arXiv
1810.01367, Eq. 7).
"""

import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from genobj.config.base import Config
from genobj.paths.base import Path
from genobj.paths.linear import Linear
from genobj.samplers.adaptive import Method, integrate
from genobj.samplers.base import Flow
from genobj.samplers.ode import Ode
from genobj.seeds import noise
from genobj.types import Horizon, Labels, Losses, Network, Samples

EXACT = 64
"""Numbers in a sample up to which the trace is taken exactly unless it is told otherwise."""
PROBES = 0x9A0BE
"""Stream of `seeds` that random signs are drawn from."""
_STRAIGHT = Linear()


class Likelihood(NamedTuple):
    """Log-density of samples.

    nats: (batch,) log p(x), natural logarithm; nfe: evaluations of the network that each took (the passes backwards
    for the divergence are not among them).
    """

    nats: Losses
    nfe: int


class Divergence(Config):
    """How log_likelihood integrates, and what it takes for the divergence."""

    head: str | None = None
    """Head to follow; by default the first that gives a velocity, else one that is one at r = t."""
    probes: Annotated[int, Field(ge=0)] | None = None
    """Random vectors that the trace is estimated with; 0: exactly, with a pass backwards for every number in a sample;
    unset: exactly up to 64 numbers, else 1."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of those vectors; sample i has the same ones in every batch."""
    first: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """Time to start at: the data, scaled by data_scale there, count as the state at this time."""
    method: Method = "rk45"
    """See the sampler ode."""
    rtol: Annotated[float, Field(gt=0)] = 1e-5
    """Tolerated error of a step, relative to state and log-density."""
    atol: Annotated[float, Field(gt=0)] = 1e-5
    """Tolerated error of a step where these are small."""
    limit: Annotated[int, Field(ge=10)] = 10_000
    """Evaluations after which to give up."""


_USUAL = Divergence()


def log_likelihood(
    net: Network,
    x: Samples,
    y: Labels | None = None,
    *,
    path: Path = _STRAIGHT,
    how: Divergence = _USUAL,
    rows: range | None = None,
) -> Likelihood:
    """log p(x | y) of samples x (batch, *shape) under the flow of `net`, with noise N(0, noise_scale(1)^2) at t = 1.

    rows: numbers of the samples, which settle their random vectors; 0, 1, ... unless given. The network runs in the
    type of x (at least float32) and must be differentiable in it. ValueError if none of its heads gives a velocity, or
    as samplers.adaptive says.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if problem := refusal(net.horizons, how.head):
        raise ValueError(problem)
    flow = Ode(head=how.head).flow(net, y, path, None, x.dtype)
    signs = _signs(x, how, range(x.shape[0]) if rows is None else rows)
    size = x[0].numel()

    def slope(t: float, both: Tensor) -> Tensor:
        v, divergence = _with_divergence(flow, both[:, :-1].view_as(x), t, signs)
        return torch.cat([v.flatten(1), divergence[:, None]], dim=1)

    (_, data), (scale, _) = flow.scales(how.first), flow.scales(1.0)
    start = torch.cat([data * x.double().flatten(1), x.new_zeros(x.shape[0], 1, dtype=torch.float64)], dim=1)
    solver = how.model_dump(include={"method", "rtol", "atol", "limit"})
    end = integrate(slope, start, how.first, 1.0, **solver)
    noise_end, gained = end[:, :-1], end[:, -1]
    prior = -0.5 * (noise_end / scale).square().sum(1) - size * (math.log(scale) + 0.5 * math.log(2 * math.pi))
    return Likelihood(prior + gained + size * math.log(data), flow.nfe)


def refusal(horizons: Mapping[str, Horizon], head: str | None = None) -> str | None:
    """Why these heads give no likelihood, with what to do instead, or None."""
    solver, usual = Ode(head=head), Ode()
    if (problem := solver.refusal(horizons)) is None or (head is not None and head not in horizons):
        return problem
    needs = "the likelihood needs a head that gives the velocity"
    if head is not None and usual.refusal(horizons) is None:
        return f"{needs}, and {head} ({horizons[head]}) does not: type head={usual.follows(horizons)}"
    has = ", ".join(f"{name} ({horizon})" for name, horizon in horizons.items()) or "none"
    return f"{needs}, and this model has {has}: train one, for example with --objectives fm,cm"


def bits_per_dim(nats: Tensor, size: int, level: float) -> Tensor:
    """Bits per number: -log2 P(x) / size, from log-densities in nats of samples with values a level apart.

    Uniform noise of one level was added (`dequantised`): the mean over that noise is an upper bound of the bits that
    the levels themselves take. uint8 images in [-1, 1] have the level 1 / 127.5.
    """
    return (-math.log(level) - nats / size) / math.log(2)


def dequantised(x: Samples, level: float, seed: int = 0) -> Samples:
    """Samples with uniform noise of one level added, centred on the level."""
    source = torch.Generator().manual_seed(seed)
    return x + (level * (torch.rand(x.shape, generator=source) - 0.5)).to(x)


def _signs(x: Samples, how: Divergence, rows: range) -> Tensor | None:
    """Random signs (probes, batch, *shape), or None for the exact trace."""
    exact = x[0].numel() <= EXACT
    probes = (0 if exact else 1) if how.probes is None else how.probes
    if probes == 0:
        return None
    drawn = noise((probes, *x.shape[1:]), rows, how.seed, PROBES)
    return torch.where(drawn < 0, -1.0, 1.0).to(x).movedim(1, 0)


def _with_divergence(flow: Flow, x_t: Tensor, t: float, signs: Tensor | None) -> tuple[Tensor, Tensor]:
    """The velocity (batch, *shape) and its divergence (batch,) at one time, without a graph."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        v = flow.velocity(x_t, t)
        total = x_t.new_zeros(x_t.shape[0])
        if signs is None:
            for place, row in enumerate(v.flatten(1).unbind(1)):
                total = total + _gradient(row.sum(), x_t).flatten(1)[:, place]
        else:
            for sign in signs:
                total = total + (_gradient((v * sign).sum(), x_t) * sign).flatten(1).sum(1) / signs.shape[0]
    return v.detach(), total.detach()


def _gradient(scalar: Tensor, x_t: Tensor) -> Tensor:
    """Its gradient, the samples of a batch being independent; zero for a network that does not look at them."""
    (found,) = torch.autograd.grad(scalar, x_t, retain_graph=True, materialize_grads=True)
    return found
