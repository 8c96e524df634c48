"""Inductive moment matching, IMM (Zhou et al., 2025, arXiv:2503.07565): two starts, one distribution at r.

    y = x_t - (t - r) u(x_t, t, r),    y' = sg( x_q - (q - r) u(x_q, q, r) ),    x_q = x_t - (t - q) v_t
    q = max( r, eta^-1( eta(t) - range / 2^k ) ),    eta(t) = t / (1 - t)
    L = E  W(t) mean_{j,l} [ K(y_j, y_l) + K(y'_j, y'_l) - 2 K(y_j, y'_l) ],    j and l in one group that shares (t, r)
    K(a, b) = exp( -max(|a - b|, 1e-8) / (D c) ),    c = (t - r) sigma_data, the factor of the network in y
    W(t) = 1/2 sigmoid(b - lambda) (-dlambda/dt) (1 - t)^a / ((1 - t)^2 + t^2),    lambda = 2 log((1 - t) / t)

Paper to here: the target time s is r, the intermediate r is q, D counts the elements of a sample. Rows
g, g + G, g + 2 G, ... of G groups share their times (pairs=grouped; M of them, draw.together). The paper's data and
noise have the standard deviation sigma_data = 1/2: scale the data and type path.noise_std=0.5. Its map simple_edm is
the head under reading=edm, with kernel=edm. The authors published no training code; k, a, b, range and the gap of 1e-4
are those of rosinality/inductive-moment-matching. With sigmoid and slope written out,
W = t (1 - t)^(a - 1) / (((1 - t)^2 e^-b + t^2) ((1 - t)^2 + t^2)), which is finite at both ends.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from genobj.objectives.base import Objective
from genobj.types import Draw, Horizon, Losses, Passes, Samples, TimeTensor, over


@final
class MomentMatching(Objective):
    """Inductive moment matching: groups of samples agree in a kernel, wherever they start (any number of steps)."""

    straight: ClassVar[bool] = True
    shares_times: ClassVar[bool] = True
    citations: ClassVar[tuple[str, ...]] = ("zhou2025imm",)

    head: str = "u"
    """Head that learns u(x_t, t, r)."""
    k: Annotated[float, Field(ge=0)] = 12.0
    """How close q comes to t: 2^k steps cover the range of eta (ImageNet: 12, CIFAR-10: 15)."""
    eta_range: Annotated[float, Field(gt=0)] = 160.0
    """Range of eta that these steps cover."""
    gap: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """Least t - q, where r allows it: below, float32 hardly tells the two times apart."""
    a: Annotated[float, Field(ge=1)] = 2.0
    """Power of 1 - t in the weight (ImageNet: 2, CIFAR-10: 1)."""
    b: float = 4.0
    """Shift of the weight's sigmoid (ImageNet: 4, CIFAR-10: 5)."""
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the data in the kernel's width."""
    kernel: Literal["flow", "edm"] = "flow"
    """c: (t - r) sigma_data (the paper's euler_fm), or that over sqrt(t^2 + (1 - t)^2) (simple_edm, CIFAR-10)."""
    precision: Literal["float32", "autocast"] = "float32"
    """Precision of the passes: y - y' is small, and where it points is all that counts. In low precision, float32 costs
    one more pass."""

    @property
    def trains(self) -> Mapping[str, Horizon]:
        """One flow map."""
        return {self.head: "interval"}

    @property
    def precise(self) -> bool:
        """As set."""
        return self.precision == "float32"

    def earlier(self, t: TimeTensor, r: TimeTensor) -> TimeTensor:
        """q with r <= q <= t, shape (batch,): in float64, where t and q differ by 1e-6 of 1 - t."""
        wide = t.double().clamp(max=1 - 1e-7)
        eta = (wide / (1 - wide) - self.eta_range / 2**self.k).clamp(min=0)
        return torch.maximum(torch.minimum((eta / (1 + eta)).to(t.dtype), t - self.gap), r)

    def importance(self, t: TimeTensor) -> TimeTensor:
        """W, shape (batch,)."""
        noise, data = t.square(), (1 - t).square()
        sigmoid = noise + data * math.exp(-self.b)
        return t * (1 - t) ** (self.a - 1) / (sigmoid * (noise + data))

    def ends(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> tuple[Samples, Samples]:
        """y with gradients and y' without, each (batch, *shape)."""
        t, r, x_t = draw.t, draw.r, draw.x_t
        with torch.no_grad():
            q = self.earlier(t, r)
            x_q = x_t - over(t - q, x_t) * draw.v_t
            u = passes(draw.point._replace(x_t=x_q, t=q), precise=self.precise)[0][self.head]
            low, exact = (passes(draw.point, precise=p)[0][self.head] for p in (False, self.precise))
            there = x_q - over(q - r, x_q) * u - over(t - r, x_t) * (low - exact)  # as rounded as y
        return x_t - over(t - r, x_t) * out[self.head], there

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """The value of its group for every row."""
        size = draw.together
        if len(draw.t) % size:
            raise ValueError(f"imm: {len(draw.t)} rows at once are no whole groups of {size}; type another batch")
        y, other = (end.unflatten(0, (size, -1)).flatten(2) for end in self.ends(out, draw, passes))
        width = ((draw.t - draw.r) * self.sigma_data).clamp(min=1e-8)
        if self.kernel == "edm":
            width = width * (draw.t.square() + (1 - draw.t).square()).rsqrt()
        width = width[: y.shape[1]]
        discrepancy = _kernel(y, y, width) + _kernel(other, other, width) - 2 * _kernel(y, other, width)
        return self.importance(draw.t) * discrepancy.repeat(size)


def _kernel(a: Tensor, b: Tensor, width: TimeTensor) -> Tensor:
    """Mean Laplace kernel between the members of each group: (size, groups, elements) twice to (groups,)."""
    squares = (a[:, None] - b[None]).square().sum(-1)  # no Gram matrix: distances are small beside the norms
    distance = squares.clamp(min=1e-16).sqrt()  # the square is held up, or the root has no gradient on the diagonal
    return torch.exp(-distance / (a.shape[-1] * width)).mean((0, 1))
