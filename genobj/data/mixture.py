"""Equal mixtures of isotropic Gaussians: the law whose marginals on a path are known in closed form."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genobj.types import TimeTensor

Points = Float[Tensor, "batch dim"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """(1 / K) sum over k of N(centre_k, scale^2 I)."""

    centres: Float[Tensor, "centres dim"]
    """The K centres, float64."""
    scale: float
    """Standard deviation of every component, in every direction."""

    def moments(self) -> tuple[Float[Tensor, " dim"], float]:
        """Exact mean, and the exact root of the variance averaged over the axes."""
        variance = self.centres.var(dim=0, correction=0).mean() + self.scale**2
        return self.centres.mean(dim=0), float(variance.sqrt())

    def standardised(self) -> "Mixture":
        """The same law moved to mean zero and divided by one number, so that it stays isotropic."""
        mean, spread = self.moments()
        return Mixture((self.centres - mean) / spread, self.scale / spread)

    def draw(self, count: int, generator: torch.Generator) -> Points:
        """Fresh samples, float32."""
        component = torch.randint(len(self.centres), (count,), generator=generator)
        noise = torch.randn(count, self.centres.shape[1], generator=generator)
        return self.centres[component].float() + self.scale * noise

    def log_density(self, x: Points) -> Float[Tensor, " batch"]:
        """Log density at x, in the precision of x."""
        kernel = -self._squared(x, self.centres.to(x)) / (2 * self.scale**2)
        constant = math.log(len(self.centres)) + x.shape[1] / 2 * math.log(2 * math.pi * self.scale**2)
        return kernel.logsumexp(dim=1) - constant

    def velocity(
        self,
        x_t: Points,
        noise_scale: TimeTensor,
        data_scale: TimeTensor,
        noise_rate: TimeTensor,
        data_rate: TimeTensor,
    ) -> Points:
        """Marginal velocity E[noise_rate z + data_rate x | x_t] on x_t = noise_scale z + data_scale x.

        Given component k, x_t is N(data_scale c_k, S I) with S = noise_scale^2 + data_scale^2 scale^2, and x and z
        are linear in x_t - data_scale c_k; so only the posterior mean of the centres is needed.
        """
        a, g, da, dg = (value.to(x_t)[:, None] for value in (noise_scale, data_scale, noise_rate, data_rate))
        centres, total = self.centres.to(x_t), a**2 + (g * self.scale) ** 2
        gap = x_t[:, None, :] - g[:, :, None] * centres  # (batch, K, dim)
        posterior = (-gap.square().sum(dim=2) / (2 * total)).softmax(dim=1)
        centre = posterior @ centres  # E[c | x_t]
        return (da * a + dg * g * self.scale**2) / total * (x_t - g * centre) + dg * centre

    @staticmethod
    def _squared(x: Points, centres: Float[Tensor, "centres dim"]) -> Float[Tensor, "batch centres"]:
        return (x[:, None, :] - centres).square().sum(dim=2)
