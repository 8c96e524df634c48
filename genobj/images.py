"""Images between [-1, 1] and eight bits, with the rounding named: half a level of bias moves a score."""

from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from genobj.types import Samples

Rounding = Literal["truncate", "round", "floor"]
Bytes = UInt8[Tensor, "batch ..."]


def to_uint8(x: Samples, rounding: Rounding = "truncate") -> Bytes:
    """Pixels 0 to 255 of images in [-1, 1]; what lies outside is clipped.

    truncate: the whole part of 127.5 x + 128 (DiT, SiT, EDM); floor: the whole part of 127.5 (x + 1), half a level
    darker (ADM, py-meanflow); round: the nearest level to 127.5 (x + 1).
    """
    levels = 127.5 * x.float() + 128 if rounding == "truncate" else 127.5 * (x.float() + 1)
    return (levels.round() if rounding == "round" else levels).clamp(0, 255).byte()


def from_uint8(pixels: Bytes) -> Samples:
    """Images in [-1, 1] of pixels: value / 127.5 - 1, float32."""
    return pixels.float() / 127.5 - 1
