"""The augmentation pipe of EDM (arXiv 2206.00364, App. F.2): flips and affine warps, told to the network.

Every sample is changed by random numbers of its own, a function of (seed, sample index), and an unchanged sample keeps
its exact values. All sums run over shifted slices, so that a sample does not depend on the batch it comes in.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, field_validator
from torch import Tensor

from genobj import seeds
from genobj.config.base import Config
from genobj.types import Augment, Samples

Transform = Literal["x_flip", "y_flip", "scale", "rotate", "stretch", "translate"]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)
WIDTH: dict[Transform, int] = {"x_flip": 1, "y_flip": 1, "scale": 1, "rotate": 2, "stretch": 2, "translate": 2}
"""Numbers that each transform adds to the label."""
SCALE, SHIFT = 0.2, 0.125  # log2 standard deviation of both scalings; of translation, in image widths
TURNED = 0.5  # share of the stretches along a direction of their own
UNIFORM, NORMAL = 0xA60, 0xA61
"""Streams of random numbers."""
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466),
    *(0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578),
    *(0.0017677118642428036, -0.007800708325034148),
)
"""Low-pass filter of the wavelet sym6, through which images are doubled before a warp and halved after it."""
REACH = len(SYM6) // 4  # pixels beyond the border that the filter asks for
STEP = 8  # margins are multiples of it: few sizes, hence large groups

Numbers = Float[Tensor, "batch _"]
Images = Float[Tensor, "batch channels _ _"]
Matrix = Float[Tensor, "batch 3 3"]
Columns = Float[Tensor, "_ 3 _"]


class Augmentation(Config):
    """Random changes of training images, which the network is told so that it need not generate them."""

    citations: ClassVar[tuple[str, ...]] = ("karras2022edm",)

    p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of each transform; 0 turns augmentation off. EDM and MeanFlow on CIFAR-10: 0.12."""
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = TRANSFORMS
    """Which ones. All give EDM's label of 9 numbers, ["x_flip", "scale", "stretch", "translate"] MeanFlow's of 6.
    A flip from left to right takes half of all samples whatever p is, as there; one upside down p / 2 of them."""

    @field_validator("transforms", mode="after")
    @classmethod
    def _once_and_in_order(cls, names: tuple[Transform, ...]) -> tuple[Transform, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"a transform stands twice in {list(names)}; type each once")
        return tuple(name for name in TRANSFORMS if name in names)

    @property
    def width(self) -> int:
        """Numbers in a label; 0 if augmentation is off."""
        return sum(WIDTH[name] for name in self.transforms) if self.p else 0

    def __call__(self, x: Samples, rows: range, seed: int) -> tuple[Samples, Augment]:
        """The images of these sample indices, changed, and what was done to each: zeros for an unchanged one.

        x: (batch, channels, size, size) in [-1, 1]; a warp may leave that range a little, as the filters ring, and
        shows grey (0) where it looks farther than one reflection beyond the border.
        """
        chance = seeds.indexed(lambda n, source: torch.rand(n, 11, generator=source), rows, seed, UNIFORM)
        normal = seeds.indexed(lambda n, source: torch.randn(n, 4, generator=source), rows, seed, NORMAL)
        moves = Moves.drawn(chance, normal, self.p, self.transforms)
        for flipped, dim in ((moves.x_flip, 3), (moves.y_flip, 2)):
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(dim), x)
        changed = moves.warping.nonzero()[:, 0]
        if len(changed):
            x = x.index_copy(0, changed, warp(x[changed], moves.inverse(x.shape[-1])[changed]))
        return x, torch.cat([moves.label(name) for name in self.transforms], 1)


class Moves(NamedTuple):
    """What is done to every sample of a batch, each (batch,); False and zeros do nothing."""

    x_flip: Tensor
    y_flip: Tensor
    scale: Tensor
    """Standard normal."""
    rotate: Tensor
    """Angle in (-pi, pi)."""
    stretch: Tensor
    """Standard normal."""
    along: Tensor
    """Angle of the stretch, 0 for half of them."""
    right: Tensor
    """Standard normal."""
    down: Tensor
    """Standard normal."""

    @classmethod
    def drawn(cls, chance: Numbers, normal: Numbers, p: float, transforms: tuple[Transform, ...]) -> "Moves":
        """Moves by 11 uniform and 4 normal numbers a sample.

        Each number has one use, so that leaving a transform out changes no other.
        """
        rate = {"x_flip": 1.0} | dict.fromkeys(TRANSFORMS[1:], p)
        on = chance[:, :6] < torch.tensor([rate[name] * (name in transforms) for name in TRANSFORMS])
        coin, angle = chance[:, 6:8] < 0.5, (2 * chance[:, 8:10] - 1) * math.pi
        return cls(
            x_flip=coin[:, 0] & on[:, 0],
            y_flip=coin[:, 1] & on[:, 1],
            scale=normal[:, 0] * on[:, 2],
            rotate=angle[:, 0] * on[:, 3],
            stretch=normal[:, 1] * on[:, 4],
            along=angle[:, 1] * (chance[:, 10] < TURNED),
            right=normal[:, 2] * on[:, 5],
            down=normal[:, 3] * on[:, 5],
        )

    @property
    def warping(self) -> Bool[Tensor, " batch"]:
        """Which samples are more than flipped."""
        return (self.scale != 0) | (self.rotate != 0) | (self.stretch != 0) | (self.right != 0) | (self.down != 0)

    def label(self, name: Transform) -> Numbers:
        """What the network is told of a transform, in EDM's form."""
        told = {
            "x_flip": [self.x_flip.float()],
            "y_flip": [self.y_flip.float()],
            "scale": [self.scale],
            "rotate": [self.rotate.cos() - 1, self.rotate.sin()],
            "stretch": [self.stretch * self.along.cos(), self.stretch * self.along.sin()],
            "translate": [self.right, self.down],
        }
        return torch.stack(told[name], 1)

    def inverse(self, size: int) -> Matrix:
        """Where a pixel of the result comes from, in pixels from the centre: every move undone, the last one first."""
        octave = -SCALE * math.log(2)  # exp2 rounds otherwise at the end of a batch than within it, exp does not
        scale, stretch = (octave * self.scale).exp(), (octave * self.stretch).exp()
        squeezed = [_rotation(-self.along), _diagonal(stretch, 1 / stretch), _rotation(self.along)]
        shift = _translation(-SHIFT * size * self.right, -SHIFT * size * self.down)
        return reduce(_product, [_diagonal(scale, scale), _rotation(self.rotate), *squeezed, shift])


def warp(x: Images, inverse: Matrix) -> Images:
    """Each image resampled: its pixel p (from the centre) is taken from inverse @ p.

    Images are reflected at their borders, doubled and halved through the wavelet, and read by bilinear interpolation.
    """
    size = x.shape[-1]
    margins = _margins(inverse, size)
    out = torch.empty_like(x)
    for margin in margins.unique().tolist():
        rows = (margins == margin).nonzero()[:, 0]
        padded = F.pad(x[rows], [margin] * 4, mode="reflect")
        doubled = _doubled(_doubled(padded).mT).mT
        seen = F.grid_sample(doubled, _grid(inverse[rows], size, padded.shape[-1]), align_corners=False)
        out[rows] = _halved(_halved(seen, size).mT, size).mT
    return out


def _margins(inverse: Matrix, size: int) -> Int[Tensor, " batch"]:
    """Pixels to pad each image with, so that its warp sees no end (as far as one reflection goes)."""
    edge = (size - 1) / 2
    corners = torch.tensor([[-edge, -edge, 1], [edge, -edge, 1], [edge, edge, 1], [-edge, edge, 1]])
    seen = [_product(inverse, corner.view(1, 3, 1))[:, :2, 0] for corner in corners]
    reach = torch.stack(seen).abs().amax((0, 2)) + 2 * REACH - edge
    return ((reach / STEP).ceil() * STEP).clamp(0, size - 1).long()


def _grid(inverse: Matrix, size: int, padded: int) -> Float[Tensor, "batch side side 2"]:
    """Where the doubled result, REACH pixels larger on each side, looks in the doubled padded image; in [-1, 1].

    Pixel centres of doubled images lie half a small pixel off: p = (q + 1/2) / 2 for the small pixel q.
    """
    side = 2 * (size + 2 * REACH)
    at = (torch.arange(side) - (side - 1) / 2 + 0.5) / 2
    right, down = at.view(1, 1, -1), at.view(1, -1, 1)
    rows = [inverse[:, row, :, None, None] for row in (0, 1)]
    return torch.stack([(2 * (a[:, 0] * right + a[:, 1] * down + a[:, 2]) - 0.5) / padded for a in rows], 3)


def _doubled(x: Images) -> Images:
    """Twice the columns: zeros between the samples, then the filter."""
    wide, columns = F.pad(x, [REACH, REACH]), x.shape[-1]
    even = _slices(wide, SYM6[11::-2], 0, 1, columns)
    odd = _slices(wide, SYM6[10::-2], 1, 1, columns)
    return torch.stack([even, odd], -1).flatten(-2)


def _halved(x: Images, columns: int) -> Images:
    """Every second of the filtered columns, `columns` of them, from REACH pixels of the small image on."""
    return _slices(x, SYM6, 1, 2, columns)


def _slices(x: Images, taps: Sequence[float], first: int, step: int, columns: int) -> Images:
    """Sum over j of taps[j] * x[..., first + j + step * column]."""
    out = torch.zeros((*x.shape[:-1], columns), dtype=x.dtype)
    for start, tap in enumerate(taps, first):
        out.add_(x[..., start : start + step * (columns - 1) + 1 : step], alpha=tap)
    return out


def _product(a: Matrix, b: Columns) -> Columns:
    """a @ b, whose rounding, other than matmul's, does not depend on the size of the batch."""
    return a[:, :, :1] * b[:, :1] + a[:, :, 1:2] * b[:, 1:2] + a[:, :, 2:] * b[:, 2:]


def _rotation(angle: Tensor) -> Matrix:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    entries = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one]
    return torch.stack(entries, 1).view(-1, 3, 3)


def _diagonal(a: Tensor, b: Tensor) -> Matrix:
    return torch.diag_embed(torch.stack([a, b, torch.ones_like(a)], 1))


def _translation(right: Tensor, down: Tensor) -> Matrix:
    moved = torch.eye(3).repeat(len(right), 1, 1)
    moved[:, 0, 2], moved[:, 1, 2] = right, down
    return moved
