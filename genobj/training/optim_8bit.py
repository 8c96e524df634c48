"""AdamW with moments of eight bits: a quarter of the memory that AdamW's moments take (arXiv 2110.02861)."""

from typing import Any

import torch
from torch import Tensor

from genobj.training.optim_adam import AdamW, Groups, Part
from genobj.training.shards import local

BLOCK = 256
"""Values that share a scale."""
SMALL = 4096
"""Parameters with fewer values keep moments of 32 bits (as in bitsandbytes)."""
SIGNED = {"exp_avg": True, "exp_avg_sq": False}
"""Moments, and whether they have a sign."""


class AdamW8bit(AdamW):
    """AdamW whose moments lie in the dynamic 8-bit type of bitsandbytes between steps, block by block.

    groups: tables with `params`; those with `packed` true have 8-bit moments. defaults: lr, betas, eps, weight_decay.
    State of a packed parameter: `exp_avg` and `exp_avg_sq` (uint8, its shape), `exp_avg_scale` and `exp_avg_sq_scale`
    (float32, one per block of 256). ValueError if bitsandbytes is missing or a parameter is sharded over devices.
    """

    def __init__(self, groups: Groups, **defaults: Any):
        self._codec, self._codes = codec(), dict[tuple[str, torch.device], Tensor]()
        super().__init__(groups, packed=False, **defaults)

    def fresh(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        """Packed zeros, or AdamW's moments."""
        if local(parameter) is not parameter:
            raise ValueError("adamw8bit cannot take parameters that are sharded over devices; type optim.kind=adamw")
        if not group["packed"]:
            return super().fresh(group, parameter)
        return {key: value for name in SIGNED for key, value in self._packed(name, torch.zeros_like(parameter)).items()}

    def update(self, group: dict[str, Any], part: Part) -> None:
        """One parameter after the other: unpack, AdamW in float32, pack."""
        if not group["packed"]:
            return super().update(group, part)
        for number, (p, weight) in enumerate(zip(part.params, part.weights, strict=True)):
            held = {name: values[number] for name, values in part.slots.items()}
            moments = {name: self._unpacked(name, held) for name in SIGNED}
            only = slice(number, number + 1)
            lists = {name: [moment] for name, moment in moments.items()}
            super().update(group, Part([p], [weight], lists, part.taken[only], part.steps[only]))
            for name, moment in moments.items():
                for key, value in self._packed(name, moment).items():
                    held[key].copy_(value if self.found_inf is None else value.where(self.found_inf == 0, held[key]))

    def _packed(self, name: str, moment: Tensor) -> dict[str, Tensor]:
        code = self._code(name, moment.device)
        values, told = self._codec.quantize_blockwise(moment.detach(), code=code, blocksize=BLOCK)
        return {name: values, f"{name}_scale": told.absmax}

    def _unpacked(self, name: str, held: dict[str, Tensor]) -> Tensor:
        code = self._code(name, held[name].device)
        return self._codec.dequantize_blockwise(held[name], absmax=held[f"{name}_scale"], code=code, blocksize=BLOCK)

    def _code(self, name: str, device: torch.device) -> Tensor:
        """The 256 values that a byte stands for."""
        if (name, device) not in self._codes:
            self._codes[name, device] = self._codec.create_dynamic_map(signed=SIGNED[name]).to(device)
        return self._codes[name, device]


def codec() -> Any:
    """The functions of bitsandbytes that pack and unpack; ValueError if it is not installed."""
    try:
        from bitsandbytes import functional  # type: ignore[import-not-found]
    except (ImportError, RuntimeError, OSError):
        raise ValueError("optim.kind='adamw8bit' needs bitsandbytes: pip install 'genobj[optim8bit]'") from None
    return functional
