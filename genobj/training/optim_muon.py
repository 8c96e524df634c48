"""Muon for the hidden matrices of a network, AdamW for all its other parameters."""

from typing import Any

import torch
from torch import Tensor, nn

from genobj.model import Model
from genobj.training.optim_adam import AdamW, Groups, Part
from genobj.training.shards import share, whole

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of one Newton-Schulz step, steep at zero: singular values end between about 0.7 and 1.2."""
STEPS = 5
"""Newton-Schulz steps."""
FLOOR = 1e-7
"""Smallest norm that a matrix is divided by."""
RMS = 0.2
"""Root mean square of an update of AdamW, which Muon's are brought to (arXiv 2502.16982, Sec. 2)."""


class Muon(AdamW):
    """Momentum, made orthogonal (K. Jordan, https://kellerjordan.github.io/posts/muon; arXiv 2502.16982 for the scale).

    groups: tables with `params`; those with `matrices` true are moved by Muon and hold 2-D parameters, others by AdamW.
    defaults: lr, betas, eps, weight_decay, momentum. The update of an A x B matrix is scaled by 0.2 sqrt(max(A, B)), so
    that learning rate and weight decay of AdamW serve both. Sharded matrices are gathered one at a time.
    """

    def __init__(self, groups: Groups, **defaults: Any):
        super().__init__(groups, matrices=False, **defaults)

    def fresh(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        """Momentum for matrices, AdamW's moments for others."""
        if group["matrices"]:
            return {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)}
        return super().fresh(group, parameter)

    def update(self, group: dict[str, Any], part: Part) -> None:
        """Matrices one by one, others as AdamW does."""
        if not group["matrices"]:
            return super().update(group, part)
        good, momentum = self.good(part.taken), group["momentum"]
        kept, rate = (1 - group["lr"] * group["weight_decay"] * good).float(), (group["lr"] * good).float()
        gradients = self.cleaned(part.gradients())
        pasts = part.slots["momentum_buffer"]
        for p, weight, gradient, past in zip(part.params, part.weights, gradients, pasts, strict=True):
            past.lerp_(gradient, ((1 - momentum) * good).float())
            move = share(orthogonal(whole(gradient.lerp(past, momentum), p)), p)
            weight.mul_(kept).sub_(move * (rate * RMS * max(p.shape) ** 0.5))


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly U V^T of the decomposition U S V^T of a 2-D tensor, by products of matrices in bf16; float32."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp(min=FLOOR)
    for _ in range(STEPS):  # x <- a x + b (x x^T) x + c (x x^T)^2 x
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).float()


def hidden_matrices(model: Model) -> list[Tensor]:
    """Trainable weights of the linear layers in the trunk and in the blocks of the heads.

    Not among them, and so left to AdamW: embeddings, convolutions, biases, norms, output layers, and layers that take
    in samples, times or labels (those with fewer inputs or outputs than the trunk has features). ValueError if none is
    left.
    """
    blocks = [block for name, block in model.heads.named_modules() if name.endswith(".blocks")]
    layers = [layer for part in (model.trunk, *blocks) for layer in part.modules() if isinstance(layer, nn.Linear)]
    found = [layer.weight for layer in layers if min(layer.weight.shape) >= model.trunk.channels]
    if not (trained := [weight for weight in found if weight.requires_grad]):
        raise ValueError("this network has no hidden matrices, which are all that muon is for; type optim.kind=adamw")
    return trained
