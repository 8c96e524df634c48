"""AdamW and RAdam that decide on the device whether a step is left out, and look little up on the way."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genobj.training.shards import local

Groups = Iterable[Mapping[str, Any]]


class Part(NamedTuple):
    """The parameters of one group that have gradients, with their state, as lists in the same order."""

    params: list[Tensor]
    """The parameters, which may be sharded."""
    weights: list[Tensor]
    """What of them lies on this device."""
    slots: dict[str, list[Tensor]]
    """State on this device, by name."""
    taken: Tensor
    """Steps that each of them has taken (n,), float32."""
    steps: list[Tensor]
    """The elements of `taken`, which the state holds as `step`."""

    def gradients(self) -> list[Tensor]:
        """What of the gradients lies on this device."""
        return [local(p.grad) for p in self.params if p.grad is not None]


class Guarded(torch.optim.Optimizer):
    """An optimiser that changes no weight, no state and no count in a step where `found_inf` is 1.

    State lies in `state[parameter][name]`, tensors all of it, so that a checkpoint can fill it before the first step or
    later. The lists of tensors that the fused functions take are kept between steps; they are made anew when the state
    was filled or other parameters have gradients. A parameter without gradient is left alone, its count too.
    """

    found_inf: Tensor | None = None
    """1. to leave everything alone, 0. for an ordinary step (0-d, float32, on the device); None: ordinary."""

    def __init__(self, groups: Groups, **defaults: Any):
        super().__init__([dict(group) for group in groups], defaults)
        self._parts: dict[int, Part] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for number, group in enumerate(self.param_groups):
            if trained := [p for p in group["params"] if p.grad is not None]:
                part = self._part(number, group, trained)
                part.taken.add_(1)
                self.update(group, part)
                if self.found_inf is not None:
                    part.taken.sub_(self.found_inf)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it for hooks, at the price of this whole step

    def fresh(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter of a group before its first step, without its count."""
        return {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}

    def update(self, group: dict[str, Any], part: Part) -> None:
        """Change weights and state; the counts have been raised."""
        raise NotImplementedError

    def good(self, like: Tensor) -> Tensor:
        """1. for an ordinary step, 0. for one to be left out, as a 0-d float64 tensor on the device of `like`."""
        one = torch.ones((), dtype=torch.float64, device=like.device)
        return one if self.found_inf is None else one - self.found_inf

    def cleaned(self, gradients: list[Tensor]) -> list[Tensor]:
        """Zeros instead of gradients in a step to be left out: 0 times what is not finite would not be 0."""
        if self.found_inf is None:
            return gradients
        bad = self.found_inf.bool()
        return [gradient.masked_fill(bad, 0.0) for gradient in gradients]

    def _part(self, number: int, group: dict[str, Any], trained: list[Tensor]) -> Part:
        """The lists of a group, made anew if they are no longer those of its state."""
        part = self._parts.get(number)
        same = part is not None and len(part.params) == len(trained) and all(map(operator.is_, part.params, trained))
        if part is None or not same or self.state[trained[0]]["step"] is not part.steps[0]:
            part = self._parts[number] = self._gather(group, trained)
        return part

    def _gather(self, group: dict[str, Any], trained: list[Tensor]) -> Part:
        for p in trained:
            if not self.state[p]:
                self.state[p] |= {"step": torch.zeros((), device=p.device), **self.fresh(group, p)}
        taken = torch.stack([self.state[p]["step"] for p in trained])
        steps = list(taken.unbind())  # one call counts for all of them
        for p, step in zip(trained, steps, strict=True):
            self.state[p]["step"] = step
        names = self.state[trained[0]].keys() - {"step"}
        slots = {name: [local(self.state[p][name]) for p in trained] for name in names}
        return Part(trained, [local(p) for p in trained], slots, taken, steps)


class AdamW(Guarded):
    """Decoupled weight decay (arXiv 1711.05101): torch.optim.AdamW(fused=True) to the bit, in a third of its time.

    groups: tables with `params`; defaults: lr, betas, eps, weight_decay.
    """

    def update(self, group: dict[str, Any], part: Part) -> None:
        """One fused call."""
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            part.weights,
            part.gradients(),
            part.slots["exp_avg"],
            part.slots["exp_avg_sq"],
            [],
            part.steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )


class RAdam(Guarded):
    """Rectified Adam (arXiv 1908.03265) with decoupled weight decay: torch.optim.RAdam(decoupled_weight_decay=True).

    groups: tables with `params`; defaults: lr, betas, eps, weight_decay. It needs no warm-up: while the second moment
    rests on few gradients (rho_t <= 5 in the paper's algorithm 2) a step is momentum alone.
    """

    def update(self, group: dict[str, Any], part: Part) -> None:
        """Foreach functions; what depends on the count is a number on the device, in float64."""
        beta1, beta2 = group["betas"]
        good, gradients = self.good(part.taken), self.cleaned(part.gradients())
        first, second = part.slots["exp_avg"], part.slots["exp_avg_sq"]
        _scale(first, beta1**good)
        torch._foreach_add_(first, gradients, alpha=1 - beta1)  # pyright: ignore[reportPrivateImportUsage]
        _scale(second, beta2**good)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)  # pyright: ignore[reportPrivateImportUsage]
        _scale(part.weights, 1 - group["lr"] * group["weight_decay"] * good)
        is_rectified, factors = _rectified(part.taken.double(), beta2)
        rates = (group["lr"] * good * factors / (1 - beta1 ** part.taken.double())).float()
        moves = zip(part.weights, first, second, is_rectified, rates, strict=True)
        for weight, mean, square, divides, rate in moves:
            weight.sub_(mean / torch.where(divides, square.sqrt() + group["eps"], 1.0) * rate)


def _rectified(t: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """Whether steps t (n,) divide by the second moment; factors of such moves (r_t sqrt(1 - beta2^t)), else 1."""
    left, longest = 1 - beta2**t, 2 / (1 - beta2) - 1
    length = longest - 2 * t * (1 - left) / left
    square = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return length > 5, torch.where(length > 5, (square * left).sqrt(), 1.0)


def _scale(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply all of them by one number that lies on the device."""
    torch._foreach_mul_(tensors, factor.float())  # pyright: ignore[reportPrivateImportUsage]
