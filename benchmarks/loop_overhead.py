"""How much the loop costs on top of raw compute: the same passes and backward pass, written inline.

    python benchmarks/loop_overhead.py [--rounds 15] [--case mlp64]

Everything is timed in one process on one thread, in CPU time since other processes share the machine; a round times
both sides one after the other, and the ratio is that of the medians over rounds. The loop's side does all a run does
between two log lines: data, draws, guidance (none here), targets, backward, gradient norm, AdamW, average, health.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from genobj.experiment import Experiment
from genobj.training.averages import Averages
from genobj.training.loop import Train, train
from genobj.training.state import State
from genobj.training.step import StepModule

CASES: dict[str, dict[str, Any]] = {
    "dit": {"data": "digits", "backbone": {"kind": "dit", "width": 64, "depth": 4, "heads": 4, "patch": 2}},
    "mlp256": {"data": "moons", "backbone": {"kind": "mlp", "width": 256, "depth": 4}},
    "mlp64": {"data": "moons", "backbone": {"kind": "mlp", "width": 64, "depth": 3}},
}
BARS = {"dit": 1.10, "mlp256": 1.25, "mlp64": 1.9}
BATCH, STEPS = 256, {"dit": 4, "mlp256": 60, "mlp64": 150}


def measure(name: str, rounds: int = 11) -> float:
    """Median time of a loop step over the median time of its raw compute."""
    objectives = {"fm": {"weight": 0.5}, "cm": {"weight": 0.5}}
    tree = {**CASES[name], "objectives": objectives, "train": {"steps": 1, "batch": BATCH}, "label_drop": 0.0}
    experiment = Experiment.model_validate(tree)
    loop, raw = _loop(experiment, STEPS[name]), _raw(experiment, STEPS[name])
    times: dict[str, list[float]] = {"loop": [], "raw": []}
    for number in range(rounds + 1):
        for side, run in (("loop", loop), ("raw", raw)):
            start = time.process_time()
            run()
            if number:  # the first round warms up
                times[side].append(time.process_time() - start)
    return statistics.median(times["loop"]) / statistics.median(times["raw"])


def _loop(experiment: Experiment, steps: int) -> Callable[[], None]:
    model = experiment.model_settings().build()
    state = State(model, Averages(model, experiment.ema), experiment.optim.build(model))
    step, source = StepModule(model, {}, experiment.composer()), experiment.data.open()

    def run() -> None:
        settings = Train(steps=state.step + steps, batch=BATCH)
        train(state, step, source, settings, experiment.optim, seed=0)

    return run


def _raw(experiment: Experiment, steps: int) -> Callable[[], None]:
    net = experiment.model_settings().build()
    x, y, _ = experiment.data.open().train(range(BATCH), 0)
    z, t, h = torch.randn_like(x), torch.rand(BATCH), 0.005
    over = t.view(-1, *[1] * (x.ndim - 1))
    x_t, v = over * z + (1 - over) * x, z - x
    points = torch.cat([x_t + h * v, x_t - h * v]), torch.cat([t + h, t - h])
    labels = None if y is None else torch.cat([y, y])

    def run() -> None:
        for _ in range(steps):
            out = net(x_t, t, y=y)
            with torch.no_grad():
                ahead, behind = net(*points, y=labels)["u"].chunk(2)
                target = v - over * (ahead - behind) / (2 * h)
            loss = 0.5 * (out["v"] - v).square().mean() + 0.5 * (out["u"] - target).square().mean()
            loss.backward()
            net.zero_grad(set_to_none=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.case or CASES:
        print(f"{name:<8} loop / raw = {measure(name, arguments.rounds):.3f}   (bar {BARS[name]})", flush=True)


if __name__ == "__main__":
    main()
