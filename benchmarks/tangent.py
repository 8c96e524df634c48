"""What du/dt costs in a step: the loss of one flow-map head over a plain forward and backward pass.

    python benchmarks/tangent.py [--rounds 15] [--case dit192]

Everything is timed in one process on one thread, in CPU time since other processes share the machine; a round times
every side one after the other, and a ratio is that of the medians over rounds. All sides run the same network on the
same batch; the plain one regresses the head onto a fixed tensor.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from genobj.experiment import Experiment
from genobj.model import Model
from genobj.objectives.consistency import Consistency
from genobj.passes import StepPasses
from genobj.types import Draw, over

CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], int]] = {  # backbone, shape of a sample, batch
    "dit192": ({"kind": "dit", "width": 192, "depth": 6, "heads": 6}, (4, 16, 16), 16),  # 64 tokens
    "dit128": ({"kind": "dit", "width": 128, "depth": 4, "heads": 4}, (4, 16, 16), 32),
    "digits": ({"kind": "dit", "width": 64, "depth": 4, "heads": 4}, (1, 8, 8), 128),  # 16 tokens
    "unet": ({"kind": "unet"}, (1, 8, 8), 64),
    "mlp256": ({"kind": "mlp", "width": 256, "depth": 4}, (2,), 256),
    "mlp64": ({"kind": "mlp", "width": 64, "depth": 3}, (2,), 256),
}
METHODS = ("central", "jvp", "tangent")
BARS = {"dit192": 1.5}
"""Of the tangent."""


def measure(name: str, rounds: int = 11) -> dict[str, float]:
    """Median time of a u-loss by method over the median time of a plain step."""
    backbone, shape, batch = CASES[name]
    model, draw = _model(backbone, shape), _draw(shape, batch)
    sides = {"plain": _plain(model, draw)} | {method: _loss(model, draw, method) for method in METHODS}
    repeats = max(1, round(0.15 / _seconds(sides["plain"], 3)))
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, run in sides.items():
            seconds = _seconds(run, repeats)
            if number:  # the first round warms up
                times[side].append(seconds)
    plain = statistics.median(times["plain"])
    return {method: statistics.median(times[method]) / plain for method in METHODS}


def _seconds(run: Callable[[], None], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def _model(backbone: dict[str, Any], shape: tuple[int, ...]) -> Model:
    """One head u, every weight moved away from zero."""
    settings = Experiment.model_validate({"backbone": backbone, "objectives": {"cm": {}}}).model_settings()
    model = settings.model_copy(update={"shape": shape}).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model


def _draw(shape: tuple[int, ...], batch: int) -> Draw:
    x, z, t = torch.randn(batch, *shape), torch.randn(batch, *shape), torch.rand(batch)
    x_t = over(t, x) * z + (1 - over(t, x)) * x
    return Draw(x, z, t, torch.zeros_like(t), x_t, z - x, z - x)


def _plain(model: Model, draw: Draw) -> Callable[[], None]:
    def run() -> None:
        (model(draw.x_t, draw.t)["u"] - draw.v_t).square().mean().backward()
        model.zero_grad(set_to_none=True)

    return run


def _loss(model: Model, draw: Draw, method: str) -> Callable[[], None]:
    objective = Consistency.model_validate({"derivative": {"method": method}})

    def run() -> None:
        passes = StepPasses({"online": model}, len(draw.t))
        out = passes.main(draw.point, beside={"u"} if method == "tangent" else ())
        objective.loss(out, draw, passes).mean().backward()
        model.zero_grad(set_to_none=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.case or CASES:
        found = measure(name, arguments.rounds)
        bar = f"   (bar {BARS[name]})" if name in BARS else ""
        print(f"{name:<8}", *(f"{method} {ratio:.2f}  " for method, ratio in found.items()), bar, flush=True)


if __name__ == "__main__":
    main()
