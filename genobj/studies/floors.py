"""What real data score: a metric that rises with quality says too much above it.

Accuracy, precision and the like compare nothing with the data: samples that are all alike, and typical, beat real data.
Distances below real data's need no mark: nearer to the data is nearer.
"""

from collections.abc import Iterable

from genobj.metrics.records import Record

SPREAD = frozenset({"recall", "coverage"})
"""Numbers of `prdc` that rise with how widely samples are spread, not with how typical they are."""


def beyond(record: Record, value: float) -> bool:
    """Whether a value lies above what real data score by a metric of which higher values are better."""
    return record.higher_is_better and record.floor is not None and value > record.floor


def excess(records: Iterable[Record]) -> str:
    """What values above real data's mean, for a legend; records: one of every metric that has such a value."""
    spread = {record.metric.rpartition(".")[2] in SPREAD for record in records}
    why = {False: "too typical", True: "spread too widely"}
    return f"above real data's: samples that are {' or '.join(why[one] for one in sorted(spread))}"
