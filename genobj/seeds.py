"""Every random number is a function of a seed and a position, never of history: resume and resharding are exact."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
"""Samples that share one generator; a sample's numbers depend on its index alone, not on the batch it comes in."""


def mix(seed: int, *position: int) -> int:
    """One 63-bit seed out of a seed and a position (stream, step, rank, ...)."""
    words = np.random.SeedSequence([seed, *position]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def generator(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for this seed and position."""
    return torch.Generator(device).manual_seed(mix(seed, *position))


def indexed(make: Callable[[int, torch.Generator], Tensor], first: int, count: int, seed: int, *stream: int) -> Tensor:
    """Rows `first` to `first + count` of an endless table whose block b is make(BLOCK, generator of b)."""
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
    rows = torch.cat([make(BLOCK, generator(seed, *stream, block)) for block in blocks])
    return rows[first % BLOCK :][:count]


def noise(shape: tuple[int, ...], first: int, count: int, seed: int, *stream: int) -> Tensor:
    """Standard normal rows `first` to `first + count`, each of this shape, on the CPU."""
    return indexed(lambda n, source: torch.randn(n, *shape, generator=source), first, count, seed, *stream)
