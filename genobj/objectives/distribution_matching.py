"""Distribution matching, DMD (Yin et al., 2024, arXiv:2311.18828; DMD2: arXiv:2405.14867), within one network.

    x_hat = x_t - t u(x_t, t),    x_s = noise_scale(s) z' + data_scale(s) sg(x_hat)
    L_fake = E || v_fake(x_s, s) - dx_s/ds ||^2                the velocity of own samples, DMD Eq. (6)
    L_G = 1/2 || x_hat - sg(x_hat - d) ||^2,    d = (x_fake - x_real) / mean|x_hat - x_real|,    DMD Eq. (7), (8)

Paper to here: mu_fake, mu_real -> x_fake, x_real, the data ends of v_fake and v_real at x_s; G(z) -> x_hat.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from genobj.distances.mse import MSE
from genobj.objectives.own_samples import OwnSamples
from genobj.types import Draw, Horizon, Losses, Passes, Weights, over, resting


@final
class DistributionMatching(OwnSamples):
    """Distribution matching: own samples move to where data are denser than they are (one step)."""

    notes: ClassVar[tuple[str, ...]] = ("fake", "generator")
    citations: ClassVar[tuple[str, ...]] = ("yin2024dmd", "yin2024dmd2")

    head: str = "fake"
    """Head that learns the velocity of the model's own samples."""
    real: Literal["online", "ema", "frozen"] = "online"
    """Whose velocity stands for the data: the model's own, its average's, or a teacher's (as it is, not guided)."""

    @property
    def trains(self) -> Mapping[str, Horizon]:
        """The generator, and the velocity of its samples."""
        return {self.generator: "data", self.head: "fake"}

    @property
    def networks(self) -> frozenset[Weights]:
        """Who gives the velocity of the data, where another network does."""
        return frozenset() if self.real == "online" else frozenset({self.real})

    @property
    def asks_velocity(self) -> bool:
        """The model's own, unless a teacher gives it."""
        return self.real != "frozen"

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Both losses, each with gradients to its own head."""
        own, path, distance = self.jumps(out, draw), draw.interpolant, MSE()
        (point,) = self.seen(draw, x := own.detach())
        v = passes.learn(point)[self.head]
        with torch.no_grad():
            told = None if self.real == "frozen" else resting(draw.g, point.t)
            there = passes.velocity(point._replace(g=told), self.real)
            fake, real = (path.ends(point.x_t, velocity, point.t)[0] for velocity in (v, there))
            d = (fake - real) / over((x - real).abs().flatten(1).mean(1).clamp(min=1e-6), x)
        learnt, moved = distance(v, path.velocity(x, draw.noise[0], point.t)), distance(own, x - d) / 2
        passes.note(fake=learnt, generator=moved)
        return learnt + self.strength(draw.progress) * moved
