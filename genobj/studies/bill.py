"""What a study would cost, counted without running a step: for sizes that are not run where one happens to sit."""

from dataclasses import dataclass

from genobj.studies.plan import Row, steps
from genobj.studies.study import Study

RATE = 355e12
"""FLOP/s assumed of a GPU: 45 % of the 790 TFLOP/s that an H200 gives in bf16; an assumption, not a measurement."""


@dataclass(frozen=True)
class Bill:
    """Cost of one variant, over all seeds."""

    name: str
    steps: int
    batch: int
    passes: float
    """Network evaluations a training sample and step."""
    parameters: int
    flops: float
    """Of all steps of all seeds; evaluation is not counted."""
    memory: int
    """Bytes of a device with its micro-batch, estimated."""

    def hours(self, rate: float = RATE) -> float:
        """Hours of one GPU that does `rate` FLOP/s."""
        return self.flops / rate / 3600


def bills(study: Study, found: list[Row]) -> list[Bill]:
    """One for every variant; ValueError for budgets of seconds, which cost what they say."""
    if study.budget is not None and study.budget.kind == "seconds":
        raise ValueError("a budget of seconds is what every run costs; nothing is left to count")
    made = []
    for row in found:
        count, train = steps(study, row, {}), row.experiment.train
        flops = float(row.counted.flops) * count * len(study.seeds)
        size, memory = sum(row.counted.parameters.values()), sum(row.counted.memory.values())
        made.append(Bill(row.title, count, train.batch, row.passes, size, flops, memory))
    return made
