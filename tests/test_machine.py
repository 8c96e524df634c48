"""How a network is run changes what it costs, not what is learnt: precision, recomputation, prefetching, shards."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genobj import cost
from genobj.assembly import Assembly
from genobj.backbones.mlp import MLP
from genobj.cli.main import run
from genobj.data.base import Batch, Source
from genobj.experiment import Experiment
from genobj.training.feed import Feed
from genobj.training.loop import Hook, train

NETS: dict[str, dict[str, Any]] = {
    "dit": {"kind": "dit", "width": 32, "depth": 2, "heads": 2, "two_times": True},
    "unet": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": [0, 1], "dropout": 0.1},
    "mlp": {"kind": "mlp", "width": 32, "depth": 2},
}
OBJECTIVES = {"fm": {"weight": 0.5}, "mf": {"head": "w", "uncertainty": True}, "cm": {"weight": 0.5}}


def assembled(net: str, **machine: Any) -> Assembly:
    tree = {
        "data": "digits",
        "backbone": NETS[net],
        "objectives": OBJECTIVES,
        "guidance": "self",
        "ema": {"decays": [0.9]},
        "optim": {"eps": 1e-4},
        "train": {"steps": 6, "batch": 16, "device": "cpu", **machine},
    }
    return Assembly(Experiment.model_validate(tree))


def learnt(assembly: Assembly) -> tuple[Tensor, list[float]]:
    """All weights after a few steps, and the losses."""
    e, losses = assembly.experiment, list[float]()
    record = Hook(1, lambda _, means: losses.append(means["loss"]), means=True)
    step = assembly.ready(assembly.step_module())
    train(assembly.state, step, assembly.source, e.train, e.optim, e.seed, [record])
    return torch.cat([p.detach().flatten() for p in assembly.model.parameters()]), losses


@pytest.mark.parametrize("net", ["dit", "unet"])
def test_recomputation_gives_the_same_numbers(net: str) -> None:
    (plain, losses), (again, told) = learnt(assembled(net)), learnt(assembled(net, recompute=True))
    assert torch.equal(plain, again)
    assert losses == told


def test_recomputation_keeps_fewer_activations() -> None:
    kept = []
    for recompute in (False, True):
        assembly, sizes = assembled("dit", recompute=recompute), list[int]()
        x, y, _ = assembly.source.train(range(16), 0)

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            assembly.step_module()(x, y, torch.Generator().manual_seed(0))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_recomputation_is_costed() -> None:
    plain, again = (cost.measure(assembled("dit", recompute=flag).experiment) for flag in (False, True))
    assert again.memory["activations"] < plain.memory["activations"] / 2
    assert plain.flops < again.flops < 1.4 * plain.flops
    assert again.passes == plain.passes


def test_recomputation_needs_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "train.recompute=true"]) == 2
    assert "this backbone has no repeated blocks; leave it out" in capsys.readouterr().err
    assert MLP().build((2,), 0, sees_r=False).units == []


@pytest.mark.parametrize("net", NETS)
def test_bf16_throughout_learns_nearly_the_same(net: str) -> None:
    (plain, losses), (low, told) = learnt(assembled(net)), learnt(assembled(net, precision="bf16_pure"))
    assert low.dtype == torch.float32
    assert told == pytest.approx(losses, rel=0.05)
    assert not torch.equal(plain, low)
    assert (plain - low).norm() < 0.05 * plain.norm()


def test_bf16_throughout_means_layers_in_bf16_and_derivatives_in_float32() -> None:
    assembly = assembled("dit", precision="bf16_pure")
    seen: set[tuple[bool, torch.dtype]] = set()

    def watch(module: Any, inputs: Any, output: Tensor) -> None:
        seen.add((torch.is_grad_enabled(), output.dtype))

    assembly.model.get_submodule("trunk.blocks.0.mlp").register_forward_hook(watch)
    x, y, _ = assembly.source.train(range(16), 0)
    loss = assembly.step_module()(x, y, torch.Generator().manual_seed(0))
    assert (True, torch.bfloat16) in seen  # the forward with gradients
    assert (False, torch.float32) in seen  # the differences
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    for name, p in assembly.model.named_parameters():
        assert not p.requires_grad or (p.grad is not None and p.grad.dtype == torch.float32), name


@pytest.mark.parametrize("net", ["dit", "mlp"])
def test_batches_read_ahead_are_the_same(net: str) -> None:
    (plain, _), (ahead, _) = learnt(assembled(net)), learnt(assembled(net, prefetch=3))
    assert torch.equal(plain, ahead)


class Counted(Source):
    """A source that notes who reads which rows, and fails at some of them."""

    def __init__(self, fails_at: int = -1):
        self.asked: list[tuple[range, str]] = []
        self.fails_at = fails_at

    def train(self, rows: range, seed: int) -> Batch:
        self.asked.append((rows, threading.current_thread().name))
        if rows.start == self.fails_at:
            raise OSError("the disk is gone")
        return Batch(torch.arange(rows.start, rows.stop)[:, None].float(), None)

    def held_out(self, count: int, seed: int) -> Batch:
        return self.train(range(count), seed)


def batches(count: int) -> Any:
    return iter([range(4 * i, 4 * i + 4) for i in range(count)])


def test_a_feed_reads_ahead_in_order_in_a_thread_of_its_own() -> None:
    source = Counted()
    feed = Feed(source, batches(5), 0, torch.device("cpu"), ahead=2)
    found = [int(next(feed).x[0]) for _ in range(5)]
    feed.close()
    assert found == [0, 4, 8, 12, 16]
    assert [rows.start for rows, _ in source.asked] == found
    assert {name.partition("_")[0] for _, name in source.asked} == {"genobj-feed"}


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_feed_raises_what_reading_raised_when_its_turn_comes(ahead: int) -> None:
    source = Counted(fails_at=8)
    feed = Feed(source, batches(5), 0, torch.device("cpu"), ahead)
    assert [int(next(feed).x[0]) for _ in range(2)] == [0, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(feed)
    feed.close()


WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::item"}


class Calls(TorchDispatchMode):
    """Notes the functions that make a host wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in WAITS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["adamw", "radam", "muon"])
@pytest.mark.parametrize("objectives", [{"fm": {}, "cm": {}}, {"mf": {"distance": "adaptive"}}, {"fm": {}, "imf": {}}])
def test_no_step_waits_for_the_device(kind: str, objectives: dict[str, Any]) -> None:
    """What a GPU would wait for, counted on a CPU; tests/test_gpu.py has CUDA say so itself."""
    tree = {
        "data": "digits",
        "backbone": NETS["dit"],
        "objectives": objectives,
        "optim": {"kind": kind, "clip": 1.0},
        "train": {"steps": 4, "batch": 16, "micro_batch": 8, "device": "cpu"},
    }
    assembly = Assembly(Experiment.model_validate(tree))
    e, step = assembly.experiment, assembly.ready(assembly.step_module())
    with Calls() as calls:
        train(assembly.state, step, assembly.source, e.train, e.optim, e.seed)
    assert calls.found == []


def test_waiting_is_noticed() -> None:
    with Calls() as calls:
        assert float(torch.ones(2).sum()) == 2
    assert calls.found == ["aten::_local_scalar_dense"]
