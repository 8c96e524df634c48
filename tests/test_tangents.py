"""Tangents beside a recorded forward are those of torch.func.jvp, and cost what is counted."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from genobj.derivatives import Derivative
from genobj.model import Model, ModelSettings
from genobj.objectives.consistency import Consistency
from genobj.objectives.improved_mean_flow import ImprovedMeanFlow
from genobj.objectives.mean_flow import MeanFlow
from genobj.passes import Count, Masks, StepPasses
from genobj.tangents.rules import RULES
from genobj.tangents.tape import Tape
from genobj.testing import GaussianFlow
from genobj.types import Draw, Horizon

DATA: dict[str, Horizon] = {"v": "instant", "u": "data"}
INTERVAL: dict[str, Horizon] = {"u": "interval"}
BOTH: dict[str, Horizon] = {"v": "instant", "u": "interval"}
DIT = {"kind": "dit", "width": 32, "depth": 2, "heads": 2}
UNET = {"kind": "unet", "channels": 16, "attention": [8], "filter": [1, 3, 3, 1]}
IMAGE = (1, 8, 8)
CASES: dict[str, tuple[Any, dict[str, Horizon], tuple[int, ...], int, float]] = {
    "mlp": ("mlp", DATA, (2,), 0, 0.0),
    "mlp, r in the trunk, labels": ("mlp", INTERVAL, (2,), 10, 0.0),
    "dit": (DIT, DATA, IMAGE, 0, 0.0),
    "dit, r in the trunk, labels": (DIT, INTERVAL, IMAGE, 10, 0.0),
    "dit, r in the head, labels": (DIT, BOTH, IMAGE, 10, 0.0),
    "dit, two times, fed guidance": (DIT | {"two_times": True}, BOTH, IMAGE, 10, 4.0),
    "unet": (UNET, DATA, IMAGE, 10, 0.0),
    "unet, r in the trunk": (UNET, INTERVAL, IMAGE, 10, 0.0),
    "unet, dropout": (UNET | {"filter": [1, 1], "dropout": 0.3}, DATA, IMAGE, 10, 0.0),
}


def _model(case: str, dtype: torch.dtype = torch.float32) -> Model:
    backbone, horizons, shape, classes, fed = CASES[case]
    tree = {"backbone": backbone, "heads": {head: {} for head in horizons}, "horizons": horizons, "path": "linear"}
    model = ModelSettings.model_validate({**tree, "shape": shape, "classes": classes, "fed": fed}).build().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def _draw(case: str, dtype: torch.dtype = torch.float32, equal: int = 0) -> Draw:
    _, _, shape, classes, fed = CASES[case]
    x, z, v = (torch.randn(6, *shape, dtype=dtype) for _ in range(3))
    t = torch.rand(6, dtype=dtype)
    y = torch.randint(classes, (6,)) if classes else None
    g = torch.rand(6, 3, dtype=dtype) + 0.5 if fed else None
    return Draw(x, z, t, t * torch.rand(6, dtype=dtype), x, v, v, y, g=g, equal=equal)


def _error(found: Tensor, exact: Tensor) -> float:
    """The largest error over the largest entry."""
    return ((found - exact).abs().max() / exact.abs().max()).item()


class TestNetworks:
    @pytest.mark.parametrize("case", [case for case in CASES if "dropout" not in case])
    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
    def test_tangents_are_those_of_forward_mode(self, case: str, dtype: torch.dtype, bound: float) -> None:
        model, draw = _model(case, dtype), _draw(case, dtype)
        passes, fresh = StepPasses({"online": model}, 6), StepPasses({"online": model}, 6)
        out = passes.main(draw.point, beside=list(model.heads))
        assert all(torch.equal(out[head], value) for head, value in fresh.main(draw.point).items())
        for head in model.heads:
            found = passes.tangent(draw.point, draw.v_t, head, beside=True)
            assert not found.requires_grad
            assert _error(found, fresh.tangent(draw.point, draw.v_t, head)) <= bound
        assert passes.count == Count(1, 0, 1)  # both heads at once, and no second forward

    @pytest.mark.parametrize("method", ["tangent", "jvp"])
    def test_dropout_masks_are_those_of_the_forward(self, method: Any) -> None:
        """Forward mode would draw others from the same state on CPUs; differences draw the same."""
        model, draw = _model("unet, dropout", torch.float64), _draw("unet, dropout", torch.float64)
        passes = StepPasses({"online": model}, 6, Masks(torch.device("cpu")))
        passes.main(draw.point, beside=["u"])
        exact = Derivative(step=1e-4)(draw, passes, "u")
        found = Derivative(method=method)(draw, passes, "u")
        assert _error(found, exact) < 1e-5
        assert passes.count == Count(1, 2, 1)

    @pytest.mark.parametrize("case", ["mlp", "dit, r in the head, labels", "unet"])
    def test_no_function_of_the_own_backbones_lacks_a_rule(self, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, draw = _model(case), _draw(case)
        monkeypatch.setattr("genobj.tangents.tape.forward_mode", None)
        passes = StepPasses({"online": model}, 6)
        passes.main(draw.point, beside=["u"])
        assert passes.tangent(draw.point, draw.v_t, "u", beside=True).isfinite().all()

    @pytest.mark.parametrize("case", ["mlp", "dit, r in the head, labels", "unet"])
    def test_gradients_are_those_with_forward_mode(self, case: str) -> None:
        model, draw = _model(case, torch.float64), _draw(case, torch.float64)
        found = []
        for method in ("jvp", "tangent"):
            objective = Consistency.model_validate({"derivative": method})
            passes = StepPasses({"online": model}, 6)
            out = passes.main(draw.point, beside=["u"] if method == "tangent" else [])
            loss = objective.loss(out, draw, passes).mean()
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            found.append(torch.autograd.grad(loss, weights, allow_unused=True))
        for expected, got in zip(*found, strict=True):
            assert (expected is None) == (got is None)
            if got is not None and expected is not None:
                assert (got - expected).norm() <= 1e-11 * expected.norm()

    def test_autocast_gives_low_precision_tangents_of_the_low_precision_forward(self) -> None:
        model, draw = _model("dit"), _draw("dit")
        passes = StepPasses({"online": model}, 6, low=True)
        with torch.autocast("cpu", torch.bfloat16):
            passes.main(draw.point, beside=["u"])
            found = passes.tangent(draw.point, draw.v_t, "u", beside=True)
        exact = StepPasses({"online": model}, 6).tangent(draw.point, draw.v_t, "u")
        assert found.dtype == torch.float32
        assert ((found - exact).norm() / exact.norm()).item() < 0.05  # differences: 0.45, FACTS.md S0.5

    def test_what_the_tape_holds_is_held_for_the_backward_pass_anyway(self) -> None:
        model, draw = _model("dit"), _draw("dit")
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        passes = StepPasses({"online": model}, 6)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = passes.main(draw.point, beside=["u"])
        weights = {
            value.untyped_storage().data_ptr() for value in [*model.parameters(), *draw.point[:3], *out.values()]
        }
        held = {tensor.untyped_storage() for tensor in passes.recorded(draw.point, "u").held()}
        own = {storage.data_ptr(): storage.nbytes() for storage in held}
        extra = sum(size for where, size in own.items() if where not in kept.keys() | weights)
        assert extra < 0.01 * sum(kept.values())


def _exact() -> tuple[GaussianFlow, Draw]:
    net, t = GaussianFlow(), torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    x = net.scale(t)[:, None] * torch.randn(64, 3, dtype=torch.float64)
    v = net.velocity(x, t)
    return net, Draw(x, x, t, t * torch.rand(64, dtype=torch.float64), x, v, v)


class TestPasses:
    @pytest.mark.parametrize("objective", [Consistency, MeanFlow, ImprovedMeanFlow])
    def test_residuals_vanish_on_a_network_of_plain_functions(self, objective: Any) -> None:
        net, draw = _exact()
        passes = StepPasses({"online": net}, 64)
        head = "u" if objective is Consistency else "w"
        part = objective.model_validate({"head": head, "derivative": {"method": "tangent"}})
        out = passes.main(draw.point, beside=[head])
        assert (out[head] - part.target(draw, passes)).abs().max() < 1e-12
        assert passes.count == Count(1, 0, 1)

    def test_a_second_direction_is_another_tangent_and_an_equal_one_is_known(self) -> None:
        net, draw = _exact()
        passes = StepPasses({"online": net}, 64)
        passes.main(draw.point, beside=["u"])
        a, b = (passes.tangent(draw.point, v, "u", beside=True) for v in (draw.v_t, 2 * draw.v_t))
        assert not torch.equal(a, b)
        assert passes.tangent(draw.point, draw.v_t, "u", beside=True) is a
        assert passes.count.tangent == 2

    @pytest.mark.parametrize("what", ["another point", "another head", "another network", "not recorded"])
    def test_elsewhere_it_is_forward_mode(self, what: str) -> None:
        net, draw = _exact()
        passes = StepPasses({"online": net, "ema": net}, 64)
        passes.main(draw.point, beside=[] if what == "not recorded" else ["v" if what == "another head" else "u"])
        point = draw.point._replace(t=draw.t.clone()) if what == "another point" else draw.point
        weights = "ema" if what == "another network" else "online"
        found = passes.tangent(point, draw.v_t, "u", weights, skip=16, beside=True)
        assert torch.equal(found, StepPasses({"online": net}, 64).tangent(point, draw.v_t, "u")[16:])
        assert passes.count.tangent == 0.75  # forward mode leaves rows out, a record is of the whole batch

    def test_skipped_rows_are_computed_and_left_out(self) -> None:
        net, draw = _exact()
        passes = StepPasses({"online": net}, 64)
        passes.main(draw.point, beside=["w"])
        part = MeanFlow.model_validate({"head": "w", "derivative": "tangent"})
        target = part.target(draw._replace(equal=48), passes)
        assert torch.equal(target[:48], draw.v_t[:48])
        assert passes.count == Count(1, 0, 1)

    def test_r_does_not_move_where_it_is_t_itself(self) -> None:
        net, draw = _exact()
        point = draw.point._replace(r=draw.t)
        passes = StepPasses({"online": net}, 64)
        passes.main(point, beside=["w"])
        apart = StepPasses({"online": net}, 64).tangent(point._replace(r=draw.t.clone()), draw.v_t, "w")
        torch.testing.assert_close(passes.tangent(point, draw.v_t, "w", beside=True), apart, rtol=1e-12, atol=1e-12)

    def test_a_network_that_cannot_be_recorded_is_differentiated_by_forward_mode(self) -> None:
        class Writing(GaussianFlow):
            def __call__(self, x_t: Any, t: Any, *, r: Any = None, y: Any = None, g: Any = None) -> dict[str, Tensor]:
                out = super().__call__(x_t, t, r=r)
                return {head: value.clone().mul_(t[:, None]) for head, value in out.items()}

        draw = _exact()[1]
        passes = StepPasses({"online": Writing()}, 64)
        passes.main(draw.point, beside=["u"])
        found = passes.tangent(draw.point, draw.v_t, "u", beside=True)
        assert torch.equal(found, StepPasses({"online": Writing()}, 64).tangent(draw.point, draw.v_t, "u"))


class TestSettings:
    def test_a_bare_name_is_the_method(self) -> None:
        assert Consistency.model_validate({"derivative": "tangent"}).derivative == Derivative(method="tangent")
        with pytest.raises(ValueError, match="tangent"):
            Consistency.model_validate({"derivative": "tangents"})

    def test_low_precision_is_refused_where_float32_is_asked_for(self) -> None:
        refusal = Derivative(method="tangent").low_refusal
        assert refusal is not None
        assert "derivative.precision=autocast" in refusal
        for fine in ({"precision": "autocast"}, {"method": "jvp"}, {"weights": "ema"}):
            part = Derivative.model_validate({"method": "tangent", **fine})
            assert part.low_refusal is None

    def test_only_the_live_network_is_recorded(self) -> None:
        assert Derivative(method="tangent").beside
        assert not Derivative(method="tangent", weights="ema").beside
        assert not Derivative(method="jvp").beside


def _both(f: Callable[..., Any], *inputs: Tensor) -> tuple[Tape, list[Tensor], Any]:
    """The tape of f, its tangents along random directions, and those of forward mode."""
    directions = [torch.randn_like(x) for x in inputs]
    with sdpa_kernel(SDPBackend.MATH):
        exact = torch.func.jvp(lambda *x: tuple(_parts(f(*x))), inputs, tuple(directions))[1]
    tape = Tape(inputs)
    with tape:
        out = _parts(f(*inputs))
    tape.keep({str(i): part for i, part in enumerate(out)})
    return tape, [] if tape.problem else list(tape.along(*directions).values()), exact


def _parts(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


W, K = torch.randn(5, 4, dtype=torch.float64), torch.randn(6, 2, 3, 3, dtype=torch.float64)
W, K = torch.nn.Parameter(W), torch.nn.Parameter(K)
ONE: dict[str, Callable[[Tensor], Any]] = {  # of (a, b, 4)
    "linear": lambda x: F.linear(x, W, W[:, 0]),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "affine layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], W[0], W[1], 1e-3),
    "group_norm": lambda x: F.group_norm(x.mT, 2, W[0], W[1]),
    "batch-first group_norm": lambda x: F.group_norm(x.mT[..., None], 2),
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": Tensor.sigmoid,
    "softmax": lambda x: F.softmax(x, -1) + x.softmax(dim=1),
    "waves": lambda x: x.sin() + torch.cos(x) * x.exp(),
    "roots": lambda x: (x.square() + 1).sqrt() + (1 + x**2).rsqrt() + (x * x + 2).log() + (3 + x**2).reciprocal(),
    "powers": lambda x: x**3 + torch.pow(x, 2),
    "scalars": lambda x: (1 - x) / 2 + 3 * x - (x - 1) + -x,
    "inverse": lambda x: 1 / (2 + x * x),
    "broadcast": lambda x: x[:, :1] + torch.ones(2, 1, 1, 4, dtype=x.dtype) - x.mean(),
    "alpha": lambda x: torch.add(x, x.exp(), alpha=0.5),
    "views": lambda x: x.flatten(1).unflatten(1, x.shape[1:]).mT.permute(2, 0, 1)[..., None].expand(-1, -1, -1, 2),
    "parts": lambda x: [*x.chunk(2, -1), *x.split(1, -1), *x.unbind(1)],
    "joined": lambda x: torch.cat([x, torch.ones_like(x), torch.stack((x, x.sin()))[1]], dim=-1),
    "matmul with itself": lambda x: x @ x.mT,
    "attention": lambda x: F.scaled_dot_product_attention(x, x.sin(), x[..., :3]),
    "attention of heads": lambda x: F.scaled_dot_product_attention(x[:, None], *[x[:, None, :1]] * 2, scale=0.7),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "addcmul": lambda x: torch.addcmul(x[:, :1], x, x.sin()) + torch.addcmul(W[0].detach() * 0 + 1, x, x[:1]),
    "indices": lambda x: x.sort(-1)[0] + x.max(-1, keepdim=True).values,
    "without rules": lambda x: F.softplus(x) * F.normalize(x, dim=-1) + torch.einsum("abc,abd->abd", x, x.erf()),
    "masks": lambda x: torch.where(x > 0, x, x.sin()).clamp(-0.5, 0.5) + x.masked_fill(x < 0, 0.0),
    "constants": lambda x: x * x.detach() + x * torch.zeros_like(x) + x.data * x,
    "by keyword": lambda x: F.linear(input=x, weight=W) + F.linear(x, weight=W, bias=None),
    "pooling": lambda x: F.interpolate(F.avg_pool1d(x, 2), scale_factor=2),
}  # fmt: skip


class TestRules:
    @pytest.mark.parametrize("name", ONE)
    @given(a=st.integers(1, 3), b=st.integers(1, 4), seed=st.integers(0, 9))
    @settings(max_examples=12, deadline=None)
    def test_every_rule_is_forward_mode(self, name: str, a: int, b: int, seed: int) -> None:
        torch.manual_seed(seed)
        tape, found, exact = _both(ONE[name], torch.randn(a, b, 4, dtype=torch.float64))
        assert not tape.problem
        torch.testing.assert_close(found, list(exact), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        "pair",
        [torch.add, torch.sub, torch.mul, torch.div, Tensor.__rsub__, lambda x, y: (x / y).sin() * (y / (1 + x * x))],
    )
    @given(low=st.sampled_from([(1,), (3,), (2, 1), (2, 3)]), high=st.sampled_from([(2, 3), (4, 1, 3)]))
    @settings(max_examples=8, deadline=None)
    def test_pairs_broadcast(self, pair: Any, low: tuple[int, ...], high: tuple[int, ...]) -> None:
        for shapes in ((low, high), (high, low)):
            x, y = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
            for f in (pair, lambda x, y: pair(x, y.detach().cos()), lambda x, y: pair(x.detach().cos(), y)):
                tape, found, exact = _both(f, x, 2 + y.abs())
                assert not tape.problem
                torch.testing.assert_close(found, list(exact), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("stride", [1, 2])
    def test_convolutions(self, stride: int) -> None:
        x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
        bias = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
        for f in (
            lambda x: F.conv2d(x, K, bias, stride, 1),
            lambda x: F.conv2d(x, K, stride=stride, padding=1, bias=bias),
            lambda x: F.conv_transpose2d(F.conv2d(x, K, None, stride), K, None, stride),
            lambda x: F.conv2d(x, K[:2, :1], None, stride, groups=2),
        ):
            tape, found, exact = _both(f, x)
            assert not tape.problem
            torch.testing.assert_close(found, list(exact), rtol=1e-10, atol=1e-10)

    def test_weights_that_depend_on_the_inputs_have_tangents(self) -> None:
        tape, found, exact = _both(lambda x, w: F.linear(x, w * x[0]), torch.randn(3, 4), torch.randn(5, 4))
        assert not tape.problem
        torch.testing.assert_close(found, list(exact))

    @pytest.mark.parametrize("f", [F.dropout, F.dropout1d, F.dropout2d])
    def test_dropout_draws_what_it_draws_without_a_tape(self, f: Any) -> None:
        x, d = (torch.randn(4, 6, 6)[(...,) + (None,) * (f is F.dropout2d)] for _ in range(2))
        torch.manual_seed(1)
        expected = f(x, 0.5, True)
        torch.manual_seed(1)
        tape = Tape([x])
        with tape:
            out = f(x, 0.5, True)
        tape.keep({"out": out})
        assert torch.equal(out, expected)
        torch.testing.assert_close(tape.along(d)["out"], torch.where(x == 0, 0.0, out / x) * d)
        tape = Tape([x])
        with tape:
            tape.keep({"out": f(x, 0.5, False) * 2})
        assert torch.equal(tape.along(d)["out"], 2 * d)

    def test_outputs_that_do_not_depend_on_the_inputs_have_tangents_of_zero(self) -> None:
        x = torch.randn(3)
        tape = Tape([x])
        with tape:
            out = {"a": x * 2, "b": torch.ones(2) * W[0, 0].detach().float()}
        tape.keep(out)
        assert torch.equal(tape.along(x)["b"], torch.zeros(2))

    def test_nothing_is_noted_that_does_not_lead_to_an_output(self) -> None:
        x = torch.randn(3)
        tape = Tape([x])
        with tape:
            y = x.sin()
            z = y.exp()
        tape.keep({"y": y})
        kept = [tensor.data_ptr() for tensor in tape.held()]
        assert x.data_ptr() in kept
        assert z.data_ptr() not in kept

    @pytest.mark.parametrize(
        ("f", "problem"),
        [
            (lambda x: x.sin().mul_(2), "written into"),
            (lambda x: F.relu(x * 2, inplace=True), "written into"),
            (lambda x: torch.add(x, 1, out=torch.empty(3)), "unknown origin"),
            (lambda x: _written(x), "unknown origin"),
            (lambda x: F.rrelu(x, training=True), "random"),
            (lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3, dropout_p=0.5), "random"),
            (lambda x: _Kernel.apply(x * W[0, 0]) + x, "unknown origin"),
            (lambda x: _Kernel.apply(x), "unknown origin"),
            (lambda x: x * ELSEWHERE, "unknown origin"),
        ],
    )
    def test_what_cannot_be_noted_is_told(self, f: Any, problem: str) -> None:
        x = torch.randn(3)
        tape = Tape([x])
        with tape:
            out = f(x)
        tape.keep({"out": out})
        assert problem in tape.problem

    def test_a_mask_that_is_drawn_into_empty_memory_is_a_constant(self) -> None:
        tape, found, _ = _both(lambda x: x * x.new_empty(3).fill_(2.0).div_(4), torch.randn(3))
        assert not tape.problem
        assert len(found) == 1

    def test_an_autograd_function_is_seen_through_where_it_is_made_of_torch_functions(self) -> None:
        x = torch.randn(3)
        tape = Tape([x])
        with tape:
            out = _Twice.apply(x * W[0, 0].float()) + x
        tape.keep({"out": out})
        assert not tape.problem
        torch.testing.assert_close(tape.along(torch.ones(3))["out"], 2 * W[0, 0].detach().float().expand(3) + 1)

    def test_rules_cover_what_the_issue_names(self) -> None:
        for f in (F.linear, F.conv2d, F.layer_norm, F.group_norm, F.silu, F.gelu, F.scaled_dot_product_attention):
            assert f in RULES


ELSEWHERE = torch.ones(3)
"""A tensor that is neither a weight nor made under the tape: it could have been made of x unseen."""


def _written(x: Tensor) -> Tensor:
    buffer = torch.zeros(3)
    buffer[:] = x
    return buffer * 2


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


class _Kernel(_Twice):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out.detach().numpy()[:] = 2 * x.detach().numpy()  # as a kernel writes: torch does not notice
        return out


@pytest.mark.slow
def test_the_tangent_is_cheaper_than_differences() -> None:
    """In a process of its own: see benchmarks/tangent.py for the bar."""
    code = "import tangent; found = tangent.measure('dit192', 7); print(found['tangent'] / found['central'])"
    where = Path(__file__).parents[1] / "benchmarks"
    run = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.97
