from genobj.objectives.base import Regression
from genobj.parts import OBJECTIVES
from genobj.types import Draw, Passes, Point, Samples, over


@OBJECTIVES.register("walk")
class Walk(Regression):
    """Walk: one step along v_t, then the jump to data (one step)."""

    horizon = "data"
    head: str = "u"
    """Head that learns the jump."""
    step: float = 0.03
    """Length of the step in t."""

    def target(self, draw: Draw, passes: Passes) -> Samples:
        h = draw.t.clamp(max=self.step)
        jump = passes(Point(draw.x_t - over(h, draw.x_t) * draw.v_t, draw.t - h, draw.r, draw.y))[0][self.head]
        return jump + over((self.step / draw.t).clamp(max=1), jump) * (draw.v_t - jump)
