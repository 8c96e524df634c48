"""What a step of single-branch MeanFlow costs over a step of DuMo: 7 forwards against 6 (DuMo, Sec. 3.3 and Fig. 4b).

    python benchmarks/meanflow_over_dumo.py [--rounds 15]

Both are guided, use central differences and run in the same loop on the same small DiT (one thread, CPU time, medians
of interleaved rounds). A forward with gradients and its backward pass are three forwards, so 1 + 4 passes against 1 + 3
are 7 / 6 = 1.167. The third line of the result takes r = t on a prefix of three quarters of the batch, where MeanFlow
needs no derivative.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from genobj.cost import measure
from genobj.experiment import Experiment
from genobj.training.averages import Averages
from genobj.training.loop import Train, train
from genobj.training.state import State
from genobj.training.step import StepModule

BATCH, STEPS = 128, 4
BASE: dict[str, Any] = {
    "data": "digits",
    "backbone": {"kind": "dit", "width": 64, "depth": 4, "heads": 4, "patch": 2},
    "train": {"steps": 1, "batch": BATCH},
}
SINGLE: dict[str, Any] = {
    "objectives": {"mf": {}},
    "guidance": {"kind": "mean_flow", "omega": 0.2, "kappa": 0.92, "interval": [0.0, 0.75]},
}
CASES: dict[str, dict[str, Any]] = {
    "DuMo": {"objectives": {"fm": {"weight": 0.7}, "cm": {"weight": 0.3}}, "guidance": "self"},
    "MeanFlow": SINGLE,
    "MeanFlow, prefix .75": SINGLE | {"pairs": {"equal_share": 0.75}},
}


class Timed:
    """A run whose steps are timed."""

    def __init__(self, settings: dict[str, Any]):
        self.experiment = e = Experiment.model_validate(BASE | settings)
        model = e.model_settings().build()
        self.state = State(model, Averages(model, e.ema), e.optim.build(model))
        self.step, self.source = StepModule(model, {}, e.composer()), e.data.open()
        self.times: list[float] = []

    def go(self) -> None:
        """Take some steps and note the time of one."""
        start = time.process_time()
        settings = Train(steps=self.state.step + STEPS, batch=BATCH)
        train(self.state, self.step, self.source, settings, self.experiment.optim, seed=0)
        self.times.append((time.process_time() - start) / STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    runs = {name: Timed(settings) for name, settings in CASES.items()}
    for _ in range(rounds + 1):
        for run in runs.values():
            run.go()
    base = statistics.median(runs["DuMo"].times[1:])  # the first round warms up
    for name, run in runs.items():
        count, median = measure(run.experiment).passes, statistics.median(run.times[1:])
        passes = f"{count.with_gradient:g} + {count.without_gradient:g}"
        forwards = 3 * count.with_gradient + count.without_gradient
        print(
            f"{name:<21} {passes:<8} = {forwards:g} forwards   {1000 * median:6.1f} ms   / DuMo = {median / base:.3f}"
        )


if __name__ == "__main__":
    main()
