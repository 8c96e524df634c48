"""Exact derivatives of a network beside a forward that is run anyway.

A Tape is a context in which a network runs as always, its autograd graph included. Every torch function whose inputs
depend on the tape's inputs is noted with a way to push a tangent through it; afterwards `along` walks through the notes
without a graph. Nothing of the forward is computed again, and weights have no tangent, so that a linear layer costs
one product: torch.func.jvp pays three, the forward, the tangent's and one with a tangent of zeros for the weights.
Rules for single functions are next door.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genobj.tangents.rules import (
    CONSTANT,
    EMPTY,
    FILLING,
    PLAIN,
    RULES,
    Push,
    differentiable,
    floating,
    forward_mode,
    leaves_of,
)

_UNKNOWN = 0
"""Instead of the number of a tensor that may depend on the inputs unseen."""


class _Known(NamedTuple):
    """A tensor of the forward: its number if it moves, and how often it had been written into."""

    tensor: ref[Tensor]
    number: int | None
    version: int


class _Note(NamedTuple):
    """One function of the forward. Tensors that move are known by a number each, counted from one."""

    inputs: list[int | None]
    outputs: list[int]
    dtypes: list[torch.dtype]
    push: Push
    last: Collection[int] = ()
    """Inputs whose tangents nobody needs afterwards."""


class Tape(TorchFunctionMode):
    """Notes how outputs depend on `inputs` while a network runs inside this context.

    constants: further tensors that the network is given; buffers: asked for where a tensor is met that is neither a
    parameter nor the result of a torch function inside the context. Any other such tensor may depend on the inputs
    unseen (through a kernel of somebody's own), so that it makes the tape useless, as writing into tensors in place
    and random functions other than dropout do: `problem` then says why, and `along` may not be called.

    The tape holds what rules need for their tangents, nearly all of which autograd keeps for the backward pass too.
    Weights are held as objects, never copied: where they are sharded, gather them again before `along`.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        constants: Iterable[Tensor] = (),
        buffers: Callable[[], Iterable[Tensor]] = tuple,
    ):
        super().__init__()
        self.problem = ""
        self._notes: list[_Note] = []
        self._known: dict[int, _Known] = {}
        self._buffers = buffers
        self._numbers, self._outputs = 0, dict[str, tuple[int | None, Tensor]]()
        for constant in constants:
            self._see(constant, None)
        self._inputs = tuple(self._number(tensor) for tensor in inputs)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and note it if it depends on the inputs."""
        kwargs = kwargs or {}
        if func in PLAIN or self.problem:
            return func(*args, **kwargs)
        leaves = leaves_of((*args, *kwargs.values()))
        inputs = [self._find(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]
        if not any(inputs) or func in CONSTANT:
            out = func(*args, **kwargs)
            unknown = func in EMPTY or _UNKNOWN in (inputs[1:] if func in FILLING else inputs)
            for tensor in floating(out):
                self._see(tensor, _UNKNOWN if unknown else None)
            return out
        rule = RULES.get(func, forward_mode)
        out, push = rule(func, inputs, *args, **kwargs) or forward_mode(func, inputs, *args, **kwargs)
        if push is None:
            self.problem = f"{func.__name__} draws random numbers"
        elif _UNKNOWN in inputs:
            self.problem = f"{func.__name__} is given a tensor of unknown origin"
        elif made := floating(out):
            numbers = [self._number(tensor) for tensor in made]
            self._notes.append(_Note(inputs, numbers, [tensor.dtype for tensor in made], push))
        return out

    def keep(self, outputs: Mapping[str, Tensor]) -> None:
        """End the recording: forget whatever does not lead to these outputs."""
        self._outputs = {name: (self._find(value), value.detach()) for name, value in outputs.items()}
        needed = {number for number, _ in self._outputs.values() if number is not None}
        if _UNKNOWN in needed:
            self.problem = self.problem or "an output is of unknown origin"
        kept: list[_Note] = []
        for note in [] if self.problem else reversed(self._notes):
            if needed.intersection(note.outputs):
                last = {number for number in note.inputs if number} - needed
                needed.update(last)
                kept.append(note._replace(last=last))
        self._notes, self._known = kept[::-1], {}

    def held(self) -> Iterator[Tensor]:
        """Tensors that the notes keep alive, weights included."""
        for note in self._notes:
            for cell in note.push.__closure__ or ():
                yield from (leaf for leaf in leaves_of([cell.cell_contents]) if isinstance(leaf, Tensor))

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the outputs that were kept."""
        return frozenset(self._outputs)

    def along(self, *tangents: Tensor) -> dict[str, Tensor]:
        """Derivatives of the kept outputs along tangents of the inputs (shaped like them), without a graph."""
        assert not self.problem, self.problem
        at: dict[int | None, Any] = dict(zip(self._inputs, tangents, strict=True))
        at[None] = None
        with torch.no_grad():
            for note in self._notes:
                made = floating(note.push(*[at[number] for number in note.inputs]))
                for number, dtype, tangent in zip(note.outputs, note.dtypes, made, strict=True):
                    at[number] = tangent.to(dtype)
                for number in note.last:
                    del at[number]
        return {
            name: torch.zeros_like(value) if number is None else at[number]
            for name, (number, value) in self._outputs.items()
        }

    def _see(self, tensor: Tensor, number: int | None) -> None:
        self._known[id(tensor)] = _Known(ref(tensor), number, tensor._version)

    def _seen(self, tensor: Tensor) -> _Known | None:
        known = self._known.get(id(tensor))
        return known if known and known.tensor() is tensor else None  # numbers of dead objects are used again

    def _number(self, tensor: Tensor) -> int:
        seen = self._seen(tensor)
        if seen and seen.version != tensor._version:  # functions that write return what they have written into
            self.problem = f"a tensor {tuple(tensor.shape)} is written into"
        self._numbers += 1
        self._see(tensor, self._numbers)
        return self._numbers

    def _find(self, tensor: Tensor) -> int | None:
        """The number of a tensor that moves; None for constants."""
        if seen := self._seen(tensor):
            if seen.version == tensor._version:
                return seen.number
            self.problem = f"a tensor {tuple(tensor.shape)} is written into" if seen.number else self.problem
            return _UNKNOWN
        trained = tensor.requires_grad and tensor.grad_fn is None
        if trained or not differentiable(tensor) or isinstance(tensor, nn.Parameter):
            return None
        number = self._alias(tensor) if tensor.grad_fn else self._buffer(tensor)
        self._see(tensor, number)
        return number

    def _alias(self, tensor: Tensor) -> int | None:
        """Hooks such as FSDP2's hand on the same memory as another object."""
        for seen in self._known.values():
            known = seen.tensor()
            if known is not None and known.grad_fn and tensor.dtype == known.dtype and tensor.is_set_to(known):
                return seen.number
        return _UNKNOWN

    def _buffer(self, tensor: Tensor) -> int | None:
        return None if any(tensor is buffer for buffer in self._fixed) else _UNKNOWN

    @cached_property
    def _fixed(self) -> list[Tensor]:
        return list(self._buffers())
