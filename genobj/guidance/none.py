"""No training-time guidance."""

from genobj.guidance.base import Guidance
from genobj.types import Draw, Passes, Samples


class NoGuidance(Guidance):
    """The plain target velocity."""

    @property
    def active(self) -> bool:
        """Never."""
        return False

    def velocity(self, draw: Draw, passes: Passes) -> Samples:
        """dx_t/dt of the pair (x, z)."""
        return draw.v_path
