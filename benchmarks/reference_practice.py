"""Our training step against common practice: the same mathematics, written as public training scripts write it.

    python benchmarks/reference_practice.py [--practice ucgm] [--net dit64] [--method central] [--rounds 11]

Three practices, each with the habits of the code it is named after (read, not copied; what each computes is in the
docstring of its class). A practice is honest only if it computes what we compute: its loss and gradient are compared
with ours on one draw before anything is timed. Then both sides take turns in one process on one thread, in CPU time,
each with its whole loop body: data, draws, targets, backward, optimizer, average. The result is the ratio of the
medians over rounds, with the quartiles of the rounds' own ratios; above 1 ours is faster.
"""

import abc
import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from genobj.data.base import Batch
from genobj.data.table import Table
from genobj.derivatives import Derivative
from genobj.experiment import Experiment
from genobj.model import Model
from genobj.training.averages import Averages
from genobj.training.loop import train
from genobj.training.state import State
from genobj.training.step import StepModule
from genobj.types import Draw, over

NETS: dict[str, tuple[dict[str, Any], int, int]] = {
    "dit64": ({"kind": "dit", "width": 64, "depth": 4, "heads": 4, "patch": 2}, 64, 4),  # 16 tokens
    "dit128": ({"kind": "dit", "width": 128, "depth": 4, "heads": 4, "patch": 1}, 16, 4),  # 64 tokens
    "mlp64": ({"kind": "mlp", "width": 64, "depth": 3}, 256, 96),
    "mlp256": ({"kind": "mlp", "width": 256, "depth": 4}, 256, 32),
}
"""Backbone, batch, and steps of a round at least."""
ROWS, CLASSES = 16_384, 10
METHODS = [method for method in get_args(Derivative.model_fields["method"].annotation) if method != "backward"]
CLOSE, NEAR = 1e-5, 1e-3
"""Relative difference of loss and gradient that passes as the same mathematics; near, where only one side takes a
difference quotient, which has an error."""


class Practice(abc.ABC):
    """A training script: subclasses say what it computes and how it handles gradients and averages."""

    objectives: dict[str, Any]
    labelled = True
    settings: dict[str, Any]
    """What an experiment needs besides to compute the same."""
    method = "jvp"
    """How this practice takes its derivative."""
    period = 1
    """Steps after which all that is done now and then has been done: a round is a multiple of it."""

    def __init__(self, net: Model, rows: Batch, batch: int):
        self.net, self.batch = net, batch
        tensors = [rows.x] if rows.y is None else [rows.x, rows.y]
        self.loader = DataLoader(TensorDataset(*tensors), batch, shuffle=True, drop_last=True)
        self.batches = self._endless()
        self.optimizer = self.build_optimizer()
        self.done, self.total = 0, 0.0

    def go(self, steps: int) -> None:
        """Train for some steps."""
        for _ in range(steps):
            x, *labels = next(self.batches)
            loss = self.loss(self.draw(x, labels[0] if labels else None))
            self.optimizer.zero_grad()
            loss.backward()
            self.gradients()
            self.optimizer.step()
            self.done += 1
            self.average()
            self.total += loss.item()

    def draw(self, x: Tensor, y: Tensor | None) -> Draw:
        """Noise, times and dropped labels."""
        t, r = self.times(len(x))
        z = torch.randn_like(x)
        dropped = None
        if y is not None:
            dropped = torch.rand(len(x)) < 0.1
            y = torch.where(dropped, CLASSES, y)
        v = z - x
        x_t = over(t, x) * z + (1 - over(t, x)) * x
        return Draw(x, z, t, r, x_t, v, v, y=y, dropped=dropped)

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    @abc.abstractmethod
    def times(self, batch: int) -> tuple[Tensor, Tensor]:
        """t and r, each (batch,)."""

    @abc.abstractmethod
    def loss(self, draw: Draw) -> Tensor:
        """The loss, a scalar."""

    @abc.abstractmethod
    def build_optimizer(self) -> torch.optim.Optimizer:
        """Of the network's parameters."""

    @abc.abstractmethod
    def gradients(self) -> None:
        """What happens to gradients before the step."""

    @abc.abstractmethod
    def average(self) -> None:
        """After the step."""


class UCGM(Practice):
    """DuMo's loss in the manner of UCGM: null label, point ahead and point behind are three calls of the network.

    The generator is rewound before each, for dropout's sake. AdamW as it comes (a Python loop on a CPU), nan_to_num on
    every gradient, clipped to norm 0.1, a loop over named parameters for the average, the loss read in every step.
    """

    objectives = {"fm": {"weight": 0.5}, "cm": {"weight": 0.5}}  # noqa: RUF012
    settings = {  # noqa: RUF012
        "guidance": {"kind": "self", "zeta": 0.55},
        "times": "uniform",
        "optim": {"clip": 0.1},
    }
    method = "central"

    def __init__(self, net: Model, rows: Batch, batch: int):
        super().__init__(net, rows, batch)
        self.averaged = copy.deepcopy(net)

    def times(self, batch: int) -> tuple[Tensor, Tensor]:
        """Uniform; r is not used."""
        t = torch.rand(batch)
        return t, torch.zeros_like(t)

    def loss(self, draw: Draw) -> Tensor:
        """DuMo Alg. 1 with three separate calls without gradient."""
        x_t, t, y, net = draw.x_t, draw.t, draw.y, self.net
        state = torch.get_rng_state()
        out = net(x_t, t, y=y)
        assert y is not None
        assert draw.dropped is not None

        def again(x_t: Tensor, t: Tensor, y: Tensor) -> dict[str, Tensor]:
            torch.set_rng_state(state)
            return net(x_t, t, y=y)

        with torch.no_grad():
            plain = draw.v_path
            null = again(x_t, t, torch.full_like(y, CLASSES))["v"]
            v = torch.where(over(draw.dropped, x_t), plain, plain + 0.55 * (out["v"].detach() - null))
            later, sooner = (t + 0.005).clamp(max=1), (t - 0.005).clamp(min=0)
            ahead = again(x_t + over(later - t, x_t) * v, later, y)["u"]
            behind = again(x_t + over(sooner - t, x_t) * v, sooner, y)["u"]
            target = v - over(t, x_t) * (ahead - behind) / over(later - sooner, x_t)
        instant = (out["v"] - v).square().flatten(1).mean(1)
        jump = (out["u"] - target).square().flatten(1).mean(1)
        return (0.5 * instant + 0.5 * jump).mean()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """AdamW by its defaults."""
        return torch.optim.AdamW(self.net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)

    def gradients(self) -> None:
        """What is not finite becomes zero."""
        for p in self.net.parameters():
            if p.grad is not None:
                torch.nan_to_num(p.grad, nan=0.0, posinf=0.0, neginf=0.0, out=p.grad)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.1)

    @torch.no_grad()
    def average(self) -> None:
        """Name by name."""
        averaged = dict(self.averaged.named_parameters())
        for name, p in self.net.named_parameters():
            averaged[name].mul_(0.9999).add_(p.data, alpha=1 - 0.9999)


class Zhuyu(Practice):
    """MeanFlow's loss in the manner of zhuyu-cs/MeanFlow, with its guidance and its squared adaptive weight.

    One forward with gradients, two calls for guidance, then a jvp of its own whose graph is built and thrown away.
    Adam as it comes, gradients clipped to norm 1, a loop over named parameters for the average, the loss read.
    """

    objectives = {"mf": {"distance": {"kind": "adaptive", "power": 1.0, "eps": 1e-3, "squared": True}}}  # noqa: RUF012
    settings = {  # noqa: RUF012
        "guidance": {"kind": "mean_flow", "omega": 1.0, "kappa": 0.5},
        "times": {"kind": "logit_normal", "mean": -0.4, "std": 1.0},
        "pairs": {"kind": "sorted", "equal_share": 0.75, "share_by": "bernoulli"},
        "optim": {"clip": 1.0},
    }

    def __init__(self, net: Model, rows: Batch, batch: int):
        super().__init__(net, rows, batch)
        self.averaged = copy.deepcopy(net)

    def times(self, batch: int) -> tuple[Tensor, Tensor]:
        """Two logit-normal times, the larger and the smaller; r = t for three quarters."""
        both = torch.sigmoid(torch.randn(2, batch) - 0.4)
        t, r = both.max(dim=0).values, both.min(dim=0).values
        return t, torch.where(torch.rand(batch) < 0.75, t, r)

    def loss(self, draw: Draw) -> Tensor:
        """MeanFlow Eq. 6 to 10 with S^2 / (S^2 + eps)."""
        x_t, t, r, y, net = draw.x_t, draw.t, draw.r, draw.y, self.net
        assert y is not None
        assert draw.dropped is not None
        u = net(x_t, t, r=r, y=y)["u"]
        with torch.no_grad():
            conditional = net(x_t, t, r=t, y=y)["u"]
            null = net(x_t, t, r=t, y=torch.full_like(y, CLASSES))["u"]
        guided = draw.v_path + 0.5 * conditional - 0.5 * null
        v = torch.where(over(draw.dropped, x_t), draw.v_path, guided)

        def average_velocity(x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
            return net(x_t, t, r=r, y=y)["u"]

        with sdpa_kernel(SDPBackend.MATH):
            du_dt = torch.func.jvp(average_velocity, (x_t, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))[1]
        target = (v - over(t - r, x_t) * du_dt).detach()
        error = (u - target).square().flatten(1).sum(1).square()
        return (error / (error + 1e-3).detach()).mean()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Adam by its defaults."""
        return torch.optim.Adam(self.net.parameters(), lr=1e-4, betas=(0.9, 0.95))

    def gradients(self) -> None:
        """Clipped."""
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)

    average = UCGM.average  # the same habit


class PyMeanFlow(Practice):
    """MeanFlow's loss in the manner of py-meanflow (unconditional): value and derivative out of one jvp with a graph.

    Adam as it comes; three averages by a loop in float64, every sixteenth step; the loss read in every step. Ours keeps
    the three averages too, in every step.
    """

    objectives = {"mf": {"distance": {"kind": "adaptive", "power": 0.75, "eps": 1e-3}}}  # noqa: RUF012
    labelled, period = False, 16
    settings = {  # noqa: RUF012
        "times": {"kind": "logit_normal", "mean": -0.6, "std": 1.6},
        "pairs": {"kind": "capped", "equal_share": 0.25, "share_by": "bernoulli"},
        "ema": {"decays": [0.9999, 0.99995, 0.9996]},
    }

    def __init__(self, net: Model, rows: Batch, batch: int):
        super().__init__(net, rows, batch)
        self.averaged = {decay: copy.deepcopy(net) for decay in (0.9999, 0.99995, 0.9996)}

    def times(self, batch: int) -> tuple[Tensor, Tensor]:
        """Logit-normal laws of their own; r = t for a quarter, and r is cut off at t."""
        t = torch.sigmoid(torch.randn(batch) * 1.6 - 0.6)
        r = torch.sigmoid(torch.randn(batch) * 1.6 - 4.0)
        r = torch.where(torch.rand(batch) < 0.25, t, r)
        return t, torch.minimum(t, r)

    def loss(self, draw: Draw) -> Tensor:
        """MeanFlow with S / (S + eps)^.75."""
        x_t, t, r, net = draw.x_t, draw.t, draw.r, self.net

        def average_velocity(x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
            return net(x_t, t, r=r)["u"]

        tangents = (draw.v_path, torch.ones_like(t), torch.zeros_like(r))
        with sdpa_kernel(SDPBackend.MATH):
            u, du_dt = torch.func.jvp(average_velocity, (x_t, t, r), tangents)  # type: ignore[assignment]
        target = (draw.v_path - over(t - r, x_t) * du_dt).detach()
        error = (u - target).square().flatten(1).sum(1)
        return (error / (error + 1e-3).detach() ** 0.75).mean()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Adam by its defaults."""
        return torch.optim.Adam(self.net.parameters(), lr=1e-4, betas=(0.9, 0.999))

    def gradients(self) -> None:
        """As they are."""
        return None

    @torch.no_grad()
    def average(self) -> None:
        """All three, in float64."""
        if self.done % self.period:
            return
        for decay, averaged in self.averaged.items():
            for old, new in zip(averaged.parameters(), self.net.parameters(), strict=True):
                mixed = old.double() * decay**self.period + new.double() * (1 - decay**self.period)
                old.copy_(mixed)


PRACTICES: dict[str, type[Practice]] = {"ucgm": UCGM, "zhuyu": Zhuyu, "py-meanflow": PyMeanFlow}


def experiment(practice: type[Practice], net: str, method: str, batch: int) -> Experiment:
    """Ours, with the practice's mathematics and this way of taking derivatives."""
    backbone = NETS[net][0]
    objectives = {name: dict(table) for name, table in practice.objectives.items()}
    for name in objectives.keys() & {"cm", "mf"}:
        objectives[name]["derivative"] = {"method": method}
    normal = {"kind": "normal", "sizes": [2], "labels": CLASSES if practice.labelled else 0}
    tree: dict[str, Any] = {
        "data": normal if backbone["kind"] == "mlp" else {"kind": "digits", "labelled": practice.labelled},
        "backbone": backbone,
        "objectives": objectives,
        "train": {"steps": 1, "batch": batch},
        **practice.settings,
    }
    tree["optim"] = {"lr": 1e-4, "betas": [0.9, 0.95], **tree.get("optim", {})}
    return Experiment.model_validate(tree)


def table(e: Experiment) -> Batch:
    """The same rows for both sides: an epoch of them is long, so that a loader seldom starts anew."""
    x, y, _ = e.data.open().held_out(ROWS, 0)
    times = -(-ROWS // len(x))
    return Batch(x.repeat(times, *[1] * (x.ndim - 1))[:ROWS], None if y is None else y.repeat(times)[:ROWS])


def network(e: Experiment) -> Model:
    """With weights of which none is zero: an untrained output would make every derivative vanish."""
    net = e.model_settings().build(0)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=noise))
    return net


def difference(theirs: Practice, e: Experiment, rows: Batch) -> tuple[float, float]:
    """Relative differences of loss and gradient, ours against theirs, on one draw of ours."""
    composer, net, count = e.composer(), theirs.net, e.train.batch
    y = None if rows.y is None else rows.y[:count]
    draw = composer.draw(rows.x[:count], y, torch.Generator().manual_seed(0))
    found = []
    for loss in (theirs.loss(draw), composer.loss({"online": net}, draw).total):
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])))
        net.zero_grad()
    (loss, gradient), (our_loss, our_gradient) = found
    return abs(loss - our_loss) / abs(loss), float((gradient - our_gradient).norm() / gradient.norm())


def allowed(practice: type[Practice], method: str) -> float:
    """Largest difference that passes."""
    return NEAR if "central" in (practice.method, method) and practice.method != method else CLOSE


def ours(e: Experiment, net: nn.Module, rows: Batch) -> Callable[[int], None]:
    """Our loop on the same rows."""
    assert isinstance(net, Model)
    state = State(net, Averages(net, e.ema), e.optim.build(net))
    step, source = StepModule(net, {}, e.composer()), Table(rows, rows)

    def go(steps: int) -> None:
        settings = e.train.model_copy(update={"steps": state.step + steps})
        train(state, step, source, settings, e.optim, 0)

    return go


def measure(name: str, net: str, method: str, rounds: int, batch: int | None = None) -> str:
    """A line of the result; AssertionError if the two sides do not compute the same."""
    practice, (_, usual, steps) = PRACTICES[name], NETS[net]
    batch = batch or usual
    e, steps = experiment(practice, net, method, batch), -(-steps // practice.period) * practice.period
    rows = table(e)
    theirs = practice(network(e), rows, batch)
    same = difference(theirs, e, rows)
    assert max(same) < allowed(practice, method), f"{name} computes something else: {same}"
    sides = {"theirs": theirs.go, "ours": ours(e, network(e), rows)}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, go in sides.items():
            start = time.process_time()
            go(steps)
            if number:  # the first round warms up
                times[side].append((time.process_time() - start) / steps)
    median = {side: statistics.median(found) for side, found in times.items()}
    ratios = [a / b for a, b in zip(times["theirs"], times["ours"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    told = f"{1000 * median['theirs']:7.2f} ms  ours {1000 * median['ours']:7.2f} ms"
    quotient = f"theirs / ours = {median['theirs'] / median['ours']:.3f}"
    return (
        f"{name:<11} {net:<6} batch {batch:<3} {method:<7} theirs {told}  {quotient}  "
        f"(quartiles {low:.3f} to {high:.3f}; loss {same[0]:.0e}, gradient {same[1]:.0e})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--practice", choices=list(PRACTICES), action="append", help="only this one")
    parser.add_argument("--net", choices=list(NETS), action="append", help="only this one")
    parser.add_argument("--method", choices=METHODS, action="append", help="our derivative, only this one")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch", type=int, help="instead of each net's own")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.practice or PRACTICES:
        methods = ["central"] if name == "ucgm" else METHODS
        for net in asked.net or NETS:
            for method in [one for one in methods if one in (asked.method or METHODS)]:
                print(measure(name, net, method, asked.rounds, asked.batch), flush=True)


if __name__ == "__main__":
    main()
