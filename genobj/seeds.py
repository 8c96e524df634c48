"""Every random number is a function of a seed and a position, never of history: resume and resharding are exact."""

from collections.abc import Callable

import torch
from torch import Tensor

_WORD = 2**64 - 1
BLOCK = 256
"""Samples that share one generator; a sample's numbers depend on its index alone, not on the batch it comes in."""


def mix(seed: int, *position: int) -> int:
    """One 63-bit seed out of a seed and a position (stream, step, rank, ...), by SplitMix64's finaliser.

    NumPy's SeedSequence would do as well, at ten times the cost; this runs several times a step.
    """
    value = 0
    for word in (seed, *position):
        value = (value + word + 0x9E3779B97F4A7C15) & _WORD
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
        value ^= value >> 31
    return value >> 1


def generator(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for this seed and position."""
    return torch.Generator(device).manual_seed(mix(seed, *position))


def indexed(make: Callable[[int, torch.Generator], Tensor], rows: range, seed: int, *stream: int) -> Tensor:
    """These rows of an endless table whose block b is make(BLOCK, generator of b)."""
    blocks = range(rows[0] // BLOCK, rows[-1] // BLOCK + 1)
    made = [make(BLOCK, generator(seed, *stream, block)) for block in blocks]
    whole = made[0] if len(made) == 1 else torch.cat(made)
    return whole if len(whole) == len(rows) else whole[rows[0] % BLOCK :: rows.step][: len(rows)]


def noise(shape: tuple[int, ...], rows: range, seed: int, *stream: int) -> Tensor:
    """These rows of an endless table of standard normal numbers, each of this shape, on the CPU."""
    return indexed(lambda n, source: torch.randn(n, *shape, generator=source), rows, seed, *stream)
