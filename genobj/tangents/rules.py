"""How a tangent passes each torch function.

A rule runs a function and says how a tangent is pushed through it; what it needs for that, it holds. Weights have no
tangent. Functions without a rule fall back to torch.func.jvp of that one function. Some Jacobians are symmetric
(elementwise functions, normalisations): there the tangent is torch's own backward kernel, applied to the tangent.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

aten = torch.ops.aten

Live = Sequence[int | None]
"""The numbers of a function's arguments, None for those that do not move."""
Push = Callable[..., Any]
"""From the tangents of a function's arguments (None where they have none) to those of its floating-point results."""
Rule = Callable[..., tuple[Any, Push | None] | None]
"""(function, which arguments move, *arguments) to the result and how to push a tangent (None: that cannot be done),
or None where the rule does not hold."""


def leaves_of(tree: Any) -> list[Any]:
    """What lists and tuples contain, from left to right."""
    leaves: list[Any] = []
    for branch in tree:
        if isinstance(branch, (list, tuple)):  # faster than a union of types, and this runs for every function
            leaves += leaves_of(branch)
        else:
            leaves.append(branch)
    return leaves


def _replaced(tree: Any, leaves: Iterator[Any]) -> Any:
    """The same tree with other leaves."""
    if isinstance(tree, list | tuple):
        branches = [_replaced(branch, leaves) for branch in tree]
        return branches if isinstance(tree, list) else tuple(branches)
    return next(leaves)


def differentiable(value: Any) -> bool:
    """Whether this is a tensor of real or complex numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def floating(tree: Any) -> list[Tensor]:
    """The results of a function that can have a tangent."""
    if isinstance(tree, Tensor):
        return [tree] if differentiable(tree) else []
    return [leaf for leaf in leaves_of(tree) if differentiable(leaf)] if isinstance(tree, list | tuple) else []


def forward_mode(func: Any, live: Live, *args: Any, **kwargs: Any) -> tuple[Any, Push]:
    """For functions without a rule: torch.func.jvp of this one function."""
    out = func(*args, **kwargs)

    def push(*tangents: Tensor | None) -> tuple[Tensor, ...]:
        leaves = leaves_of((*args, *kwargs.values()))

        def f(*moved: Tensor) -> tuple[Tensor, ...]:
            moving = iter(moved)
            filled = iter([next(moving) if moves else leaf for leaf, moves in zip(leaves, live, strict=True)])
            some, named = _replaced((args, tuple(kwargs.values())), filled)
            return tuple(floating(func(*some, **dict(zip(kwargs, named, strict=True)))))

        here = tuple(leaf.detach() for leaf, moves in zip(leaves, live, strict=True) if moves)
        given = tuple(tangent for tangent in tangents if tangent is not None)
        with sdpa_kernel(SDPBackend.MATH):  # other kernels have no forward mode
            return torch.func.jvp(f, here, given)[1]

    return out, push


def _chance(func: Any, live: Live, *args: Any, **kwargs: Any) -> tuple[Any, None]:
    """Functions that may draw random numbers would draw others the second time."""
    return func(*args, **kwargs), None


def _first(rule: Callable[..., tuple[Any, Push] | None]) -> Rule:
    """A rule for functions of which nothing but the first argument moves."""

    def checked(func: Any, live: Live, *args: Any, **kwargs: Any) -> tuple[Any, Push] | None:
        return rule(func, *args, **kwargs) if args and live[0] and not any(live[1:]) else None

    return checked


def _pair(rule: Callable[..., tuple[Any, Push]]) -> Rule:
    """A rule for functions of two arguments, without options such as alpha."""

    def checked(func: Any, live: Live, *args: Any, **kwargs: Any) -> tuple[Any, Push] | None:
        return rule(func, live, *args) if len(args) == 2 and not kwargs else None

    return checked


@_first
def _linear(func: Any, x: Tensor, *rest: Any, **kwargs: Any) -> tuple[Any, Push]:
    """Views, sums, casts: the tangent goes the same way."""
    return func(x, *rest, **kwargs), lambda d, *_: func(d, *rest, **kwargs)


@_first
def _weighted(func: Any, x: Tensor, weight: Tensor, bias: Any = None, *rest: Any, **kwargs: Any) -> tuple[Any, Push]:
    """Linear layers and convolutions: the same product without the bias."""
    return func(x, weight, bias, *rest, **kwargs), lambda d, *_: func(d, weight, None, *rest, **kwargs)


def _joined(func: Any, live: Live, *args: Any, **kwargs: Any) -> tuple[Any, Push] | None:
    """Concatenation: zeros for parts without a tangent."""
    if not args:
        return None
    parts, *rest = args
    zeros = [part.new_zeros(()).expand(part.shape) for part in parts]

    def push(*tangents: Tensor | None) -> Tensor:
        given = [zero if d is None else d for d, zero in zip(tangents, zeros, strict=False)]
        return func(given, *rest, **kwargs)

    return func(parts, *rest, **kwargs), push


def _shaped(d: Tensor, shape: torch.Size) -> Tensor:
    return d if d.shape == shape else d.expand(shape)


def _plus(left: int, right: int) -> Rule:
    """left a + right b, each 1 or -1."""

    @_pair
    def rule(func: Any, live: Live, a: Any, b: Any) -> tuple[Any, Push]:
        out = func(a, b)
        shape = out.shape

        def push(da: Tensor | None, db: Tensor | None) -> Tensor:
            if da is None or db is None:
                d, sign = (db, right) if da is None else (da, left)
                assert d is not None
                return _shaped(d if sign > 0 else -d, shape)
            return da + db if left == right else (da - db if left > right else db - da)

        return out, push

    return rule


@_pair
def _times(func: Any, live: Live, a: Any, b: Any) -> tuple[Any, Push]:
    """da b + a db."""
    kept_a: Any = a if live[1] else None
    kept_b: Any = b if live[0] else None

    def push(da: Any, db: Any) -> Tensor:
        if da is None:
            return kept_a * db
        return da * kept_b if db is None else (da * kept_b).addcmul_(kept_a, db)

    return func(a, b), push


def _fused(func: Any, live: Live, *args: Any, **kwargs: Any) -> tuple[Any, Push] | None:
    """addcmul, c + a b: dc + da b + a db."""
    if len(args) != 3 or kwargs:
        return None
    out, (_, a, b) = func(*args), args
    shape = out.shape

    def push(dc: Tensor | None, da: Tensor | None, db: Tensor | None) -> Tensor:
        parts = [dc, None if da is None else da * b, None if db is None else a * db]
        first, *others = [part for part in parts if part is not None]
        return _shaped(sum(others, first), shape)

    return out, push


@_pair
def _over(func: Any, live: Live, a: Any, b: Any) -> tuple[Any, Push]:
    """(da - (a / b) db) / b."""
    out = func(a, b)
    quotient = out.detach() if live[1] else None

    def push(da: Tensor | None, db: Tensor | None) -> Tensor:
        if db is None:
            return func(da, b)
        assert quotient is not None
        return (-quotient * db if da is None else da - quotient * db) / b

    return out, push


@_pair
def _product(func: Any, live: Live, a: Tensor, b: Tensor) -> tuple[Any, Push]:
    """Matrix products: da b + a db."""

    def push(da: Tensor | None, db: Tensor | None) -> Tensor:
        parts = [] if da is None else [func(da, b)]
        parts += [] if db is None else [func(a, db)]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    return func(a, b), push


@_first
def _power(func: Any, x: Tensor, exponent: Any) -> tuple[Any, Push]:
    """n x^(n - 1) dx."""
    return func(x, exponent), lambda d, *_: d * (exponent * x ** (exponent - 1))


def _of_input(tangent: Callable[..., Tensor]) -> Rule:
    """Elementwise functions whose derivative is written in terms of x; other arguments are handed on."""

    @_first
    def rule(func: Any, x: Tensor, *rest: Any, **kwargs: Any) -> tuple[Any, Push]:
        return func(x, *rest, **kwargs), lambda d, *_: tangent(d, x, *rest, **kwargs)

    return rule


def _of_output(tangent: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Elementwise functions whose derivative is written in terms of their value."""

    @_first
    def rule(func: Any, x: Tensor, *rest: Any, **kwargs: Any) -> tuple[Any, Push]:
        out = func(x, *rest, **kwargs)
        value = out.detach()
        return out, lambda d, *_: tangent(d, value)

    return rule


@_first
def _softmax(func: Any, x: Tensor, dim: int | None = None, **kwargs: Any) -> tuple[Any, Push] | None:
    """p (d - sum p d)."""
    if dim is None:
        return None
    out = func(x, dim, **kwargs)
    p = out.detach()
    return out, lambda d, *_: p * (d - (p * d).sum(dim, keepdim=True))


@_first
def _layer_norm(
    func: Any, x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[Any, Push]:
    """The Jacobian before the affine map is symmetric: the backward kernel without weights."""
    shape = list(normalized_shape)
    known: list[Tensor] = []
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # casts for layer_norm alone
        out = func(x, shape, weight, bias, eps)
    else:
        out, *known = aten.native_layer_norm.default(x, shape, weight, bias, eps)

    def push(d: Tensor, *_: Any) -> Tensor:
        mean, rstd = known or aten.native_layer_norm.default(x, shape, None, None, eps)[1:]
        d = aten.native_layer_norm_backward.default(d, x, shape, mean, rstd, None, None, [True, False, False])[0]
        return d if weight is None else d * weight

    return out, push


@_first
def _rms_norm(
    func: Any, x: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> tuple[Any, Push]:
    """With y = s x before the weights, s = (mean x^2 + eps)^(-1/2): s (d - y mean(y d))."""
    axes = tuple(range(-len(normalized_shape), 0))
    small = torch.finfo(x.dtype).eps if eps is None else eps

    def push(d: Tensor, *_: Any) -> Tensor:
        scale = (x.square().mean(axes, keepdim=True) + small).rsqrt()
        y = x * scale
        d = scale * torch.addcmul(d, y, (y * d).mean(axes, keepdim=True), value=-1)
        return d if weight is None else d * weight

    return func(x, normalized_shape, weight, eps), push


@_first
def _group_norm(
    func: Any, x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[Any, Push]:
    """As for layer_norm; x is (batch, channels, ...)."""

    def push(d: Tensor, *_: Any) -> Tensor:
        batch, channels, *sizes = x.shape
        size = torch.Size(sizes).numel()
        y, each = x.contiguous(), (batch, channels, size, num_groups)
        _, mean, rstd = aten.native_group_norm.default(y, None, None, *each, eps)
        some = [True, False, False]
        d = aten.native_group_norm_backward.default(d.contiguous(), y, mean, rstd, None, *each, some)[0]
        return d if weight is None else d * weight.view(-1, *[1] * len(sizes))

    return func(x, num_groups, weight, bias, eps), push


def _attention(
    func: Any, live: Live, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> tuple[Any, Push | None] | None:  # fmt: skip
    """softmax(q k^T scale) v for (..., n, c), without mask."""
    if dropout_p:
        return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa), None
    if attn_mask is not None or is_causal or enable_gqa or not all(live[:3]):
        return None
    if query.ndim < 3 or query.shape[:-2] != key.shape[:-2]:
        return None

    def push(dq: Tensor, dk: Tensor, dv: Tensor, *_: Any) -> Tensor:
        size, shape = query.shape[-1] ** -0.5 if scale is None else scale, (*query.shape[:-1], value.shape[-1])
        q, dq, k, dk, v, dv = (x.flatten(0, -3) for x in (query * size, dq * size, key, dk, value, dv))
        p = torch.bmm(q, k.mT).softmax(-1)
        moved = torch.bmm(q, dk.mT).baddbmm_(dq, k.mT)
        p = p.to(moved.dtype)
        moved = aten._softmax_backward_data.default(moved, p, -1, p.dtype)
        return torch.bmm(moved, v).baddbmm_(p, dv).view(shape)

    return func(query, key, value, scale=scale), push


@_first
def _dropout(func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> tuple[Any, Push]:
    """Noise is drawn as the function draws it and then multiplied with."""
    if not training or not p or inplace:
        return func(x, p, training, inplace), lambda d, *_: d
    with torch.no_grad():
        noise = func(torch.ones_like(x), p, training)
    return x * noise, lambda d, *_: d * noise


def _called(*names: str) -> Iterator[Any]:
    """The functions of these names as torch, its tensors and torch.nn.functional have them."""
    for place in (torch, Tensor, F):
        known = dir(place)
        yield from filter(callable, (getattr(place, name) for name in names if name in known))


_VIEWS = """
    view view_as reshape reshape_as flatten unflatten transpose permute squeeze unsqueeze expand expand_as movedim
    swapaxes swapdims t chunk split tensor_split unbind __getitem__ select narrow index_select gather contiguous clone
    to float double half bfloat16 type_as neg __neg__ positive sum mean cumsum flip roll repeat repeat_interleave tile
    diagonal tril triu unfold fold avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d interpolate pixel_shuffle pixel_unshuffle
"""
_RANDOM = """
    bernoulli multinomial poisson rrelu alpha_dropout feature_alpha_dropout gumbel_softmax fractional_max_pool2d
    fractional_max_pool3d multi_head_attention_forward
"""
_WEIGHTED = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"
PLAIN = frozenset(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")) | {Tensor.dim}
"""Questions that are not about values."""
EMPTY = frozenset(_called("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"))
"""Functions whose result is what somebody writes there, perhaps a kernel that is no torch function."""
FILLING = frozenset(_called("fill_", "zero_", "copy_", "bernoulli_", "normal_", "uniform_", "exponential_"))
"""Functions that write into all of their first argument."""
CONSTANT = EMPTY | frozenset(
    _called("detach", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like")
) | {Tensor.data.__get__}  # type: ignore[attr-defined]  # fmt: skip
"""Functions whose result has no tangent."""

_NAMED: list[tuple[str, Rule]] = [
    (_VIEWS, _linear),
    (_WEIGHTED, _weighted),
    (_RANDOM, _chance),
    ("cat concat concatenate stack hstack vstack", _joined),
    ("add __add__ __radd__", _plus(1, 1)),
    ("sub subtract __sub__", _plus(1, -1)),
    ("rsub __rsub__", _plus(-1, 1)),
    ("mul multiply __mul__ __rmul__", _times),
    ("addcmul", _fused),
    ("div divide true_divide __truediv__", _over),
    ("matmul bmm mm __matmul__", _product),
    ("pow __pow__", _power),
    ("square", _of_input(lambda d, x: 2 * d * x)),
    ("sin", _of_input(lambda d, x: d * x.cos())),
    ("cos", _of_input(lambda d, x: -d * x.sin())),
    ("log", _of_input(lambda d, x: d / x)),
    ("exp", _of_output(lambda d, y: d * y)),
    ("sqrt", _of_output(lambda d, y: 0.5 * d / y)),
    ("rsqrt", _of_output(lambda d, y: -0.5 * d * y**3)),
    ("reciprocal", _of_output(lambda d, y: -d * y * y)),
    ("tanh", _of_output(aten.tanh_backward.default)),
    ("sigmoid", _of_output(aten.sigmoid_backward.default)),
    ("relu", _of_output(lambda d, y: aten.threshold_backward.default(d, y, 0))),
    ("silu", _of_input(lambda d, x, inplace=False: aten.silu_backward.default(d, x))),
    ("gelu", _of_input(lambda d, x, approximate="none": aten.gelu_backward.default(d, x, approximate=approximate))),
    ("softmax", _softmax),
    ("layer_norm", _layer_norm),
    ("rms_norm", _rms_norm),
    ("group_norm", _group_norm),
    ("scaled_dot_product_attention", _attention),
    ("dropout dropout1d dropout2d dropout3d", _dropout),
]
RULES: dict[Any, Rule] = {func: rule for names, rule in _NAMED for func in _called(*names.split())}
"""Functions that tangents pass without torch.func.jvp."""
RULES |= dict.fromkeys((Tensor.mT.__get__, Tensor.T.__get__), _linear)  # type: ignore[attr-defined]
