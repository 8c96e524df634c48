"""Adversarial learning on the network's own features: a critic head judges the jumps that another head makes.

    x_hat = x_t - t u(x_t, t),    D(x) = critic(trunk(x_s, s)),    x_s = noise_scale(s) z' + data_scale(s) x
    relativistic: L_D = E softplus(D(x_hat) - D(x)),                   L_G = E softplus(D(x) - D(x_hat))
    hinge:        L_D = E max(0, 1 - D(x)) + max(0, 1 + D(x_hat)),     L_G = -E D(x_hat)

Relativistic pairing with a penalty on the critic's slope at real and own samples: R3GAN (Huang et al., 2024,
arXiv:2501.05441). A critic on the features of the generator's own network, which sees samples under noise: LADD (Sauer
et al., 2024, arXiv:2403.12015) and DMD2. Every x_hat is paired with the x whose x_t it was made of. One backward pass
serves both players: L_D reaches the critic's weights alone; L_G the generator, and through x_hat the trunk below it.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch.nn.functional as F
from torch import Tensor

from genobj.objectives.own_samples import OwnSamples
from genobj.objectives.slopes import SlopePenalty
from genobj.types import Draw, Losses, Passes


@final
class Adversarial(OwnSamples):
    """Adversarial learning: a critic head on the trunk's features tells a head's jumps from data (one step)."""

    draws_noise: ClassVar[int] = 2
    notes: ClassVar[tuple[str, ...]] = ("critic", "generator", "penalty")
    citations: ClassVar[tuple[str, ...]] = ("huang2024r3gan", "sauer2024ladd", "lin2025apt")

    head: str = "critic"
    """Scalar head that judges."""
    game: Literal["relativistic", "hinge"] = "relativistic"
    """Losses of the two players."""
    penalty: SlopePenalty = SlopePenalty()
    """Penalty on the critic's slope."""

    @property
    def scores_all(self) -> bool:
        """Where the penalty is measured on some rows alone."""
        return self.penalty.gamma > 0 and self.penalty.share < 1

    @property
    def scalars(self) -> Mapping[str, str]:
        """The critic."""
        return {self.head: "critic"}

    def loss(self, out: Mapping[str, Tensor], draw: Draw, passes: Passes) -> Losses:
        """Both players' losses, each with gradients to its own player."""
        points = self.seen(draw, draw.x, self.jumps(out, draw))
        (real, _), (fake, through) = (passes.judge(point, self.head) for point in points)
        if self.game == "relativistic":
            critic, generator = F.softplus(fake - real), F.softplus(real.detach() - through)
        else:
            critic, generator = F.relu(1 - real) + F.relu(1 + fake), -through
        penalty = self.penalty(points, draw.noise[1], self.head, passes)
        passes.note(critic=critic, generator=generator, penalty=penalty)
        return critic + penalty + self.strength(draw.progress) * generator
