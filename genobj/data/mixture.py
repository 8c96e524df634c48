"""Equal mixtures of axis-aligned Gaussians: the law whose marginals on a path are known in closed form."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genobj.types import TimeTensor

Points = Float[Tensor, "batch dim"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """(1 / K) sum over k of N(centre_k, diag(scale^2))."""

    centres: Float[Tensor, "centres dim"]
    """The K centres, float64."""
    scale: Float[Tensor, " dim"]
    """Standard deviation of every component along each axis, float64."""

    def moments(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Exact mean and standard deviation of each axis."""
        variance = self.centres.var(dim=0, correction=0) + self.scale**2
        return self.centres.mean(dim=0), variance.sqrt()

    def standardised(self) -> "Mixture":
        """The same law with mean zero and unit variance on every axis."""
        mean, spread = self.moments()
        return Mixture((self.centres - mean) / spread, self.scale / spread)

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh samples, float32."""
        component = self.components(count, generator)
        noise = torch.randn(count, self.centres.shape[1], generator=generator)
        centres, scale = self._single
        return centres.index_select(0, component) + scale * noise

    def components(self, count: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
        """The components 0 ... K - 1 that `draw` takes when it is given an equal generator."""
        return torch.randint(len(self.centres), (count,), generator=generator)

    def log_posterior(self, x: Points) -> Float[Tensor, "batch centres"]:
        """Log probability of every component given x, in the precision of x."""
        return self._kernel(x).log_softmax(dim=1)

    @cached_property
    def _single(self) -> tuple[Float[Tensor, "centres dim"], Float[Tensor, " dim"]]:
        """Centres and scale in float32, for drawing."""
        return self.centres.float(), self.scale.float()

    def log_density(self, x: Points) -> Float[Tensor, " batch"]:
        """Log density at x, in the precision of x."""
        constant = math.log(len(self.centres)) + (math.sqrt(2 * math.pi) * self.scale.to(x)).log().sum()
        return self._kernel(x).logsumexp(dim=1) - constant

    def _kernel(self, x: Points) -> Float[Tensor, "batch centres"]:
        """Log of every component's density, without its constant."""
        return -((x[:, None, :] - self.centres.to(x)) / self.scale.to(x)).square().sum(dim=2) / 2

    def velocity(
        self,
        x_t: Points,
        noise_scale: TimeTensor,
        data_scale: TimeTensor,
        noise_rate: TimeTensor,
        data_rate: TimeTensor,
    ) -> Points:
        """Marginal velocity E[noise_rate z + data_rate x | x_t] on x_t = noise_scale z + data_scale x.

        Given component k, x_t is N(data_scale c_k, diag S) with S = noise_scale^2 + data_scale^2 scale^2, and x and z
        are linear in x_t - data_scale c_k; so only the posterior mean of the centres is needed.
        """
        a, g, da, dg = (value.to(x_t)[:, None] for value in (noise_scale, data_scale, noise_rate, data_rate))
        centres, scale = self.centres.to(x_t), self.scale.to(x_t)
        total = a**2 + (g * scale) ** 2  # (batch, dim)
        gap = x_t[:, None, :] - g[:, :, None] * centres  # (batch, K, dim)
        posterior = (-(gap.square() / (2 * total[:, None, :])).sum(dim=2)).softmax(dim=1)
        centre = posterior @ centres  # E[c | x_t]
        return (da * a + dg * g * scale**2) / total * (x_t - g * centre) + dg * centre
