"""Optimisers against torch's own, bad steps that change nothing, resuming, sharded weights, learning rates."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from genobj.assembly import Assembly
from genobj.experiment import Experiment
from genobj.model import Model
from genobj.training import checkpoint
from genobj.training.averages import EMA, Averages
from genobj.training.loop import Hook, train
from genobj.training.optim import Optim, global_norm
from genobj.training.optim_adam import AdamW, Guarded, RAdam
from genobj.training.optim_muon import Muon, hidden_matrices, orthogonal
from genobj.training.ranks import ALONE
from genobj.training.state import State

try:
    import bitsandbytes  # noqa: F401

    HAS_8BIT = True
except ImportError:
    HAS_8BIT = False
KINDS = ["adamw", "radam", "muon", pytest.param("adamw8bit", marks=pytest.mark.skipif(not HAS_8BIT, reason="extra"))]
SETTINGS = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
GOOD, BAD = torch.tensor(0.0), torch.tensor(1.0)


def weights(seed: int = 0) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((16, 8), (8, 16), (16, 16))]


def stir(parameters: list[nn.Parameter], seed: int, *, broken: bool = False) -> None:
    draw = torch.Generator().manual_seed(1000 + seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=draw) * (1 + seed)
    if broken and parameters[0].grad is not None:
        parameters[0].grad[0] = float("nan")
        parameters[1].grad = torch.full_like(parameters[1], float("inf"))


def network(**backbone: Any) -> Model:
    tree = {"kind": "mlp", "width": 80, "depth": 3} | backbone
    return Experiment.model_validate({"data": "moons", "backbone": tree}).model_settings().build()


def copied(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights and state as they are now."""
    found = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return found + [value.clone() for slot in optimizer.state.values() for value in slot.values()]


def equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


class TestAdamW:
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    def test_it_is_torchs_to_the_bit(self, decay: float) -> None:
        settings = SETTINGS | {"weight_decay": decay}
        ours, theirs = weights(), weights()
        one, two = AdamW([{"params": ours}], **settings), torch.optim.AdamW(theirs, fused=True, **settings)
        for step in range(12):
            for optimizer, parameters in ((one, ours), (two, theirs)):
                stir(parameters, step, broken=step in (0, 5))
                optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
                optimizer.found_inf = BAD if step in (0, 5) else GOOD  # type: ignore[attr-defined]
                optimizer.step()
            assert all(map(torch.equal, ours, theirs)), step
        for mine, other in zip(ours, theirs, strict=True):
            assert one.state[mine].keys() == two.state[other].keys()
            assert all(torch.equal(one.state[mine][name], value) for name, value in two.state[other].items())

    def test_a_parameter_without_gradient_stays_and_does_not_count(self) -> None:
        ours, theirs = weights(), weights()
        one, two = AdamW([{"params": ours}], **SETTINGS), torch.optim.AdamW(theirs, fused=True, **SETTINGS)
        for step in range(8):
            for optimizer, parameters in ((one, ours), (two, theirs)):
                stir(parameters, step)
                if step in (0, 3, 4):
                    parameters[1].grad = None
                optimizer.step()
            assert all(map(torch.equal, ours, theirs)), step
        assert [int(one.state[p]["step"]) for p in ours] == [8, 5, 8]

    def test_moments_lie_where_a_checkpoint_finds_them(self) -> None:
        parameters = weights()
        optimizer = AdamW([{"params": parameters}], **SETTINGS)
        assert not optimizer.state
        stir(parameters, 0)
        optimizer.step()
        assert {p: sorted(slot) for p, slot in optimizer.state.items()} == {
            p: ["exp_avg", "exp_avg_sq", "step"] for p in parameters
        }

    def test_state_that_is_put_in_later_counts(self) -> None:
        parameters = weights()
        optimizer = AdamW([{"params": parameters}], **SETTINGS)
        for step in range(2):
            stir(parameters, step)
            optimizer.step()
        for slot in optimizer.state.values():
            for name, value in list(slot.items()):
                slot[name] = torch.zeros_like(value)
        stir(parameters, 2)
        before = [p.detach().clone() for p in parameters]
        optimizer.step()
        for p, old in zip(parameters, before, strict=True):  # a first step: lr times the gradient's sign
            torch.testing.assert_close(old * (1 - 0.001) - 0.01 * p.grad.sign(), p.detach())  # type: ignore[union-attr]
        assert int(optimizer.state[parameters[0]]["step"]) == 1


@pytest.mark.parametrize("beta2", [0.0, 0.95, 0.999])
def test_radam_is_torchs(beta2: float) -> None:
    settings = SETTINGS | {"betas": (0.9, beta2)}
    ours, theirs = weights(), weights()
    one, two = RAdam([{"params": ours}], **settings), torch.optim.RAdam(theirs, decoupled_weight_decay=True, **settings)
    for step in range(20):  # the sixth is the first that is rectified
        for optimizer, parameters in ((one, ours), (two, theirs)):
            stir(parameters, step)
            optimizer.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-7)


class TestMuon:
    def test_matrices_move_as_in_torchs_and_others_as_in_adamw(self) -> None:
        ours, theirs = weights(), weights()
        bias, other = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
        one = Muon([{"params": ours, "matrices": True}, {"params": [bias]}], momentum=0.95, **SETTINGS)
        two = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        three = torch.optim.AdamW([other], fused=True, **SETTINGS)
        for step in range(6):
            for parameters in ([*ours, bias], [*theirs, other]):
                stir(parameters, step)
            for optimizer in (one, two, three):
                optimizer.step()
            for mine, its in zip(ours, theirs, strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
            assert torch.equal(bias, other)

    def test_an_update_has_singular_values_near_one(self) -> None:
        for shape in ((32, 32), (16, 48), (48, 16)):
            values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
            assert values.min() > 0.3
            assert values.max() < 1.3

    def test_which_parameters_are_hidden_matrices(self) -> None:
        def found(model: Model) -> set[str]:
            names = {id(p): name for name, p in model.named_parameters()}
            return {names[id(p)] for p in hidden_matrices(model)}

        assert found(network()) == {"trunk.layers.1.weight", "trunk.layers.2.weight"}  # not .0, which takes in samples
        tree = {"data": "digits", "backbone": "dit-tiny", "heads": {"v": {"depth": 1}}}
        inside = found(Experiment.model_validate(tree).model_settings().build())
        block = ["adaLN_modulation.1", "attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]
        assert {f"trunk.blocks.0.{name}.weight" for name in block} <= inside
        assert {f"heads.v.blocks.0.{name}.weight" for name in block} <= inside
        assert not {name for name in inside if "projection" in name or "y_embedder" in name or "x_embedder" in name}

    def test_it_needs_matrices(self) -> None:
        with pytest.raises(ValueError, match=r"no hidden matrices.*optim\.kind=adamw"):
            Optim(kind="muon").build(network(depth=1))


class TestEveryKind:
    @pytest.fixture(params=KINDS)
    def kind(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def built(self, kind: str) -> tuple[Model, Guarded]:
        model = network()
        return model, Optim(kind=kind, lr=0.01, weight_decay=0.1).build(model)  # type: ignore[arg-type]

    @pytest.mark.parametrize("first", [0, 3])
    def test_a_bad_step_changes_nothing(self, kind: str, first: int) -> None:
        model, optimizer = self.built(kind)
        parameters, bad = list(model.parameters()), torch.tensor(0.0)
        optimizer.found_inf = bad
        for step in range(first):
            stir(parameters, step)
            optimizer.step()
        before = copied(optimizer)
        bad.fill_(1.0)
        stir(parameters, first, broken=True)
        optimizer.step()
        after = copied(optimizer)
        assert all(map(torch.equal, before, after))
        fresh = after[len(before) :]  # state that was made in this step is zero
        assert len(fresh) > 0 or first
        assert not any(value.count_nonzero() for value in fresh if value.dtype == torch.float32)
        assert {int(slot["step"]) for slot in optimizer.state.values()} == {first}

    def test_a_skipped_step_leaves_no_trace_later(self, kind: str) -> None:
        ends = []
        for steps in ([0, 1, 2, 3], [0, -1, 1, -1, 2, 3]):
            model, optimizer = self.built(kind)
            for step in steps:
                stir(list(model.parameters()), abs(step), broken=step < 0)
                optimizer.found_inf = BAD if step < 0 else GOOD
                optimizer.step()
            ends.append(copied(optimizer))
        assert equal(*ends)

    def test_resuming_gives_the_same_bits(self, kind: str, tmp_path: Path) -> None:
        def state() -> State:
            model, optimizer = self.built(kind)
            return State(model, Averages(model, EMA()), optimizer)

        def go_on(state: State, last: int) -> None:
            for step in range(state.step, last):
                stir(list(state.model.parameters()), step)
                state.optimizer.step()
            state.step = last

        whole, parts, again = state(), state(), state()
        go_on(whole, 6)
        go_on(parts, 3)
        (tmp_path / "run").mkdir()
        settings = checkpoint.Checkpoint(background=False)
        checkpoint.Saver(tmp_path / "run", settings, "{}", ALONE, torch.device("cpu"))(parts)
        checkpoint.load(tmp_path / "run", again, "{}")
        go_on(again, 6)
        assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
        for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
            assert whole.optimizer.state[p].keys() == again.optimizer.state[q].keys()
            for name, value in whole.optimizer.state[p].items():
                assert torch.equal(again.optimizer.state[q][name], value), name

    def test_it_learns(self, kind: str) -> None:
        model, optimizer = self.built(kind)
        x, t = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.full((64,), 0.5)
        losses = []
        for _ in range(40):
            loss = (model(x, t)["v"] - x.flip(1)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        assert losses[-1] < 0.1 * losses[0]


@pytest.mark.skipif(not HAS_8BIT, reason="bitsandbytes is an extra")
def test_eight_bits_are_those_of_bitsandbytes() -> None:
    import bitsandbytes

    from genobj.training.optim_8bit import AdamW8bit

    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, 64 * 80).view(64, 80))] for _ in range(2))
    one = AdamW8bit([{"params": ours, "packed": True}], **SETTINGS)
    two = bitsandbytes.optim.AdamW8bit(theirs, **SETTINGS)
    for step in range(8):
        for optimizer, parameters in ((one, ours), (two, theirs)):
            stir(parameters, step)
            optimizer.step()
    slot = one.state[ours[0]]
    assert (slot["exp_avg"].dtype, slot["exp_avg_scale"].shape) == (torch.uint8, (20,))
    move = theirs[0] - torch.linspace(-1, 1, 64 * 80).view(64, 80)
    assert (ours[0] - theirs[0]).norm() < 0.02 * move.norm()


@pytest.mark.skipif(HAS_8BIT, reason="bitsandbytes is installed")
def test_eight_bits_without_bitsandbytes() -> None:
    with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'genobj\[optim8bit\]'"):
        Optim(kind="adamw8bit").build(network())


SHARDED = """
    import sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from genobj.training.optim import global_norm
    from genobj.training.optim_adam import AdamW, RAdam
    from genobj.training.optim_muon import Muon
    from genobj.training.averages import EMA, Averages

    dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    settings = dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, momentum=0.9)
    kinds = {
        "adamw": lambda m: AdamW([{"params": list(m.parameters())}], **settings),
        "radam": lambda m: RAdam([{"params": list(m.parameters())}], **settings),
        "muon": lambda m: Muon([{"params": [m.weight], "matrices": True}, {"params": [m.bias]}], **settings),
    }
    for name, build in kinds.items():
        torch.manual_seed(0)
        plain, sharded = nn.Linear(6, 5), nn.Linear(6, 5)  # five rows: shards of three and of two
        for key, p in plain.named_parameters():
            setattr(sharded, key, nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])))
        sides = [(m, build(m), Averages(m, EMA(decays=(0.5,), widths=(0.1,)))) for m in (plain, sharded)]
        for step in range(5):
            for key, p in plain.named_parameters():
                p.grad = torch.randn_like(p)
                getattr(sharded, key).grad = distribute_tensor(p.grad, mesh, [Shard(0)])
            norms = [global_norm(m.parameters(), 1.0) for m, _, _ in sides]
            torch.testing.assert_close(*norms)
            for _, optimizer, averages in sides:
                optimizer.found_inf = torch.tensor(float(step == 2))
                optimizer.step()
                averages.update(step)
        for key, p in plain.named_parameters():
            torch.testing.assert_close(getattr(sharded, key).full_tensor(), p, rtol=1e-6, atol=1e-6)
            for file, values in sides[0][2].named().items():
                torch.testing.assert_close(sides[1][2].named()[file][key].full_tensor(), values[key])
        assert {int(slot["step"]) for slot in sides[1][1].state.values()} == {4}
    dist.destroy_process_group()
    print("equal")
"""


def test_sharded_weights_move_as_whole_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SHARDED), str(tmp_path / "meet")]
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        told, errors = process.communicate(timeout=120)
        assert told == "equal\n", errors


class TestNorm:
    @pytest.mark.parametrize("limit", [0.0, 1.0, 1e6])
    def test_it_clips_as_torch_does(self, limit: float) -> None:
        ours, theirs = weights(), weights()
        for parameters in (ours, theirs):
            stir(parameters, 0)
            parameters[2].grad = None
        norm = torch.nn.utils.clip_grads_with_norm_
        expected = torch.nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None])
        if limit:
            norm(theirs, limit, expected)
        assert torch.equal(global_norm(ours, limit), expected)
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours[:2], theirs[:2], strict=True))  # type: ignore[arg-type]


class TestRates:
    @pytest.mark.parametrize(
        ("settings", "rates"),
        [
            ({}, [1.0, 1.0, 1.0, 1.0]),
            ({"schedule": "linear"}, [1.0, 0.75, 0.5, 0.0]),
            ({"schedule": "linear", "final": 0.2}, [1.0, 0.8, 0.6, 0.2]),
            ({"schedule": "cosine"}, [1.0, 0.853553, 0.5, 0.0]),
            ({"schedule": "power"}, [1.0, 0.5625, 0.25, 0.0]),
            ({"schedule": "power", "power": 0.5, "final": 0.5}, [1.0, 0.933013, 0.853553, 0.5]),
            ({"schedule": "power", "power": 1.0}, [1.0, 0.75, 0.5, 0.0]),
            ({"schedule": "inverse_sqrt", "reference": 100}, [1.0, 1.0, 0.707107, 0.5]),
        ],
    )
    def test_values(self, settings: dict[str, Any], rates: list[float]) -> None:
        optim = Optim.model_validate({"lr": 1.0} | settings)
        assert [optim.rate(seen, 400) for seen in (0, 100, 200, 400)] == pytest.approx(rates, abs=1e-6)

    @pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "power"])
    def test_warm_up_comes_first(self, schedule: Any) -> None:
        optim, plain = Optim(lr=2.0, warmup=99, schedule=schedule), Optim(lr=2.0, schedule=schedule)
        assert [optim.rate(seen, 499) for seen in (0, 49, 98, 99)] == pytest.approx([0.02, 1.0, 1.98, 2.0])
        assert optim.rate(299, 499) == pytest.approx(plain.rate(200, 400))

    def test_inverse_sqrt_counts_from_the_start(self) -> None:
        optim = Optim(lr=1.0, warmup=99, schedule="inverse_sqrt", reference=25)
        assert [optim.rate(seen, 10) for seen in (24, 99, 399)] == pytest.approx(
            [0.25, 25**0.5 / 99**0.5, 0.25032], 1e-3
        )

    def test_the_reference_belongs_to_inverse_sqrt(self) -> None:
        with pytest.raises(ValidationError, match=r"needs the samples.*type optim\.reference=N"):
            Optim(schedule="inverse_sqrt")
        with pytest.raises(ValidationError, match=r"reference is for optim\.schedule=inverse_sqrt only"):
            Optim(reference=100)

    def test_settings_that_change_nothing(self) -> None:
        assert Optim().idle == {"momentum", "final", "power"}
        assert Optim(kind="muon", schedule="power").idle == frozenset()
        assert Optim(schedule="cosine").idle == {"momentum", "power"}


def two_heads(**optim: Any) -> tuple[Model, Optim, Guarded]:
    """A network with a critic beside its velocity, and its optimiser."""
    tree = {"backbone": {"kind": "mlp", "width": 80, "depth": 3}, "objectives": {"fm": {"head": "v"}, "gan": {}}}
    settings = Experiment.model_validate(tree | {"optim": {"lr": 0.01, "weight_decay": 0.1} | optim})
    model = settings.model_settings().build()
    return model, settings.optim, settings.optim.build(model)


class TestHeads:
    """Rates and betas of single heads."""

    OWN: ClassVar[dict[str, Any]] = {"heads": {"critic": {"lr": 0.002, "betas": (0.0, 0.99)}, "u": {"lr": 0.02}}}

    def test_every_weight_lies_in_one_group_with_its_own_settings(self) -> None:
        model, _, optimizer = two_heads(**self.OWN)
        found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        assert (
            len(found) == sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
        )
        for name, p in model.named_parameters():
            factor, betas = found[id(p)].get("factor", 1.0), tuple(found[id(p)]["betas"])
            critic, u = name.startswith("heads.critic"), name.startswith("heads.u")
            assert factor == pytest.approx(0.2 if critic else 2.0 if u else 1.0), name
            assert betas == ((0.0, 0.99) if critic else (0.9, 0.95)), name

    def push(self, model: Model, optimizer: Guarded, step: int) -> None:
        """One step with random gradients, a function of its number."""
        for number, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + number))
        optimizer.step()

    @pytest.mark.parametrize("kind", ["adamw", "radam"])
    def test_a_head_moves_as_under_an_optimiser_of_its_own(self, kind: Any) -> None:
        """As in a run of which only the rate of this head, and its betas, are those of all weights."""
        model, optim, one = two_heads(kind=kind, **self.OWN)
        twin, other, two = two_heads(kind=kind, lr=0.002, betas=(0.0, 0.99))
        for step in range(8):
            for network, settings, optimizer in ((model, optim, one), (twin, other, two)):
                for group in optimizer.param_groups:
                    group["lr"] = settings.rate(step, 8) * group.get("factor", 1.0)
                self.push(network, optimizer, step)
        same = {
            name: torch.allclose(p, q, rtol=1e-6, atol=1e-8)
            for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True)
        }
        assert {name for name, equal in same.items() if equal} == {n for n in same if n.startswith("heads.critic")}

    def test_the_schedule_holds_for_all_heads(self) -> None:
        tree = {"train": {"steps": 4, "batch": 8, "device": "cpu"}, "objectives": {"fm": {"head": "v"}, "gan": {}}}
        optim = {"lr": 0.01, "schedule": "linear", "heads": {"critic": {"lr": 0.002}}}
        whole = Assembly(Experiment.model_validate(tree | {"optim": optim, "backbone": {"width": 8, "depth": 1}}))
        e, seen = whole.experiment, []
        hook = Hook(1, lambda state, _: seen.append([g["lr"] for g in state.optimizer.param_groups]))
        train(
            whole.state, whole.ready(whole.step_module()), whole.source, e.train, e.optim, e.seed, [hook], whole.ranks
        )
        assert [rates[1] / rates[0] for rates in seen] == pytest.approx([0.2] * 4)
        assert [rates[0] for rates in seen] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])

    def test_muon_moves_the_hidden_matrices_of_a_head_too(self) -> None:
        model, _, optimizer = two_heads(kind="muon", heads={"u": {"lr": 0.02}, "v": {"betas": (0.5, 0.9)}})
        groups = [(g.get("matrices", False), g.get("factor", 1.0), tuple(g["betas"])) for g in optimizer.param_groups]
        assert groups[0] == (True, 1.0, (0.9, 0.95))
        assert (False, 2.0, (0.9, 0.95)) in groups
        assert (False, 1.0, (0.5, 0.9)) in groups
        before = [p.detach().clone() for p in model.parameters()]
        self.push(model, optimizer, 0)
        assert not any(map(torch.equal, before, model.parameters()))

    @pytest.mark.parametrize("kind", KINDS)
    def test_resuming_gives_the_same_bits(self, kind: Any, tmp_path: Path) -> None:
        def state() -> State:
            model, _, optimizer = two_heads(kind=kind, **self.OWN)
            return State(model, Averages(model, EMA()), optimizer)

        def go_on(state: State, last: int) -> None:
            for step in range(state.step, last):
                self.push(state.model, state.optimizer, step)  # type: ignore[arg-type]
            state.step = last

        whole, parts, again = state(), state(), state()
        go_on(whole, 4)
        go_on(parts, 2)
        (tmp_path / "run").mkdir()
        settings = checkpoint.Checkpoint(background=False)
        checkpoint.Saver(tmp_path / "run", settings, "{}", ALONE, torch.device("cpu"))(parts)
        checkpoint.load(tmp_path / "run", again, "{}")
        go_on(again, 4)
        assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))

    def test_settings_that_are_those_of_the_rest_change_nothing(self) -> None:
        ends = []
        for heads in (None, {"critic": {"lr": 0.01, "betas": (0.9, 0.95)}}):
            model, _, optimizer = two_heads(heads=heads)
            for step in range(3):
                self.push(model, optimizer, step)
            ends.append([p.detach() for p in model.parameters()])
        assert all(map(torch.equal, *ends))

    def test_a_head_that_is_not_there(self) -> None:
        with pytest.raises(ValidationError, match=r"optim\.heads\.w: this model has the heads v, u, critic"):
            two_heads(heads={"w": {"lr": 1e-3}})

    @pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"betas": (0.0, 1.0)}, {"eps": 1e-8}])
    def test_settings_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Optim.model_validate({"heads": {"critic": wrong}})
