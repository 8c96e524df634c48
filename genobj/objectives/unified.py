"""UCGM (Sun et al., 2025, arXiv:2505.07447), from many steps to one by its consistency ratio lambda.

    F* = F(v_t)                                                           lambda = 0: the velocity, many steps
    F* = sg F - (a / d) 4 / sin(1.57 t) clamp(D, -1, 1)                   lambda > 0: the jump to data, few steps
    D = (x_hat(x_t, t) - x_hat(X_s, s)) / (t - s),  s = lambda t          lambda < 1 - e
    D = (x_hat(X_{t+e}, t + e) - x_hat(X_{t-e}, t - e)) / 2e              above, times not clamped
    loss = cos(1.57 t) distance(F, F*),    F = p z_hat + q x_hat,    d = a q - b p

Paper to here: alpha, gamma -> a, b, scales of noise and data, hatted p, q (F and X: ratio.py). Networks that say F
themselves are reading=target. The public code writes guided pairs over the data in place: the effect is that of X here,
but the caller's batch is lost too. On its reversed transport (reading=sit) it moves x_hat to the neighbour with more
noise; here the sign is kept.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from genobj.objectives.ratio import QUARTER, Ratio, kept
from genobj.types import Draw, Passes, Samples, over


class Unified(Ratio):
    """UCGM: learn the velocity (ratio 0) or the jump to data (ratio up to 1) on any path."""

    citations: ClassVar[tuple[str, ...]] = ("sun2025ucgm",)

    head: str = "u"
    """Head that learns v (ratio 0) or u."""
    clamp: Annotated[float, Field(gt=0)] = 1.0
    """Bound on the entries of D."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        """F*, as our head says it: v_t, or u + (a / d)^2 (b(0) / t) (4 / sin 1.57 t) clamp(D)."""
        if not self.jumps:
            return draw.v_t
        path, t = draw.interpolant, kept(draw.t)
        a, b = path.noise_scale(t), path.data_scale(t)
        d = a * path.data_target(t) - b * path.noise_target(t)
        # F changes by -d t / (a b(0)) where u changes by one
        pull = 4 / (QUARTER * t).sin() * (a / d).square() * path.data_scale(0 * t) / t
        change = self.change(draw, passes).clamp(-self.clamp, self.clamp)
        return self.ask(passes, draw.point) + over(pull, change) * change
