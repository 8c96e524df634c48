"""Images between [-1, 1] and eight bits, with the rounding named: half a level of bias moves a score."""

from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from genobj.types import Samples

Rounding = Literal["truncate", "round", "floor"]
Bytes = UInt8[Tensor, "batch ..."]
SLACK = 1e-4
"""Levels by which `floor` may be short: in float32, 63 of the 256 levels come out of [-1, 1] a little below themselves
(4e-6 at most), and would lose one."""


def to_uint8(x: Samples, rounding: Rounding = "truncate") -> Bytes:
    """Pixels 0 to 255 of images in [-1, 1]; what lies outside is clipped.

    truncate: the whole part of 127.5 x + 128 (DiT, SiT, EDM); floor: the whole part of 127.5 (x + 1), half a level
    darker (ADM, py-meanflow); round: the nearest level to 127.5 (x + 1).
    """
    if rounding == "truncate":
        levels = (127.5 * x.float()).add_(128)
    else:
        levels = (x.float() + 1).mul_(127.5)
        levels = levels.round_() if rounding == "round" else levels.add_(SLACK).floor_()
    return levels.clamp_(0, 255).byte()


def from_uint8(pixels: Bytes) -> Samples:
    """Images in [-1, 1] of pixels: value / 127.5 - 1, float32."""
    return pixels.float().div_(127.5).sub_(1)
