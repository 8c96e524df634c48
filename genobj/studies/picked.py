"""Which of many variants have colours in figures: the best ones, so that lines can be told apart."""

from genobj.studies.floors import beyond
from genobj.studies.results import Results
from genobj.studies.statistics import summary

MOST = 6
"""Variants with colours where there are more groups than hues; all others are grey."""


def picked(results: Results, metric: str) -> list[str]:
    """Names of the variants with colours, in the order of the results.

    By one metric: the best one at each number of evaluations, the baseline, then those with the best ranks in all.
    """
    orders = [_ranked(results, metric, nfe) for name, nfe in results.measures() if name == metric]
    always = [v.name for v in results.variants if all(v.name in order for order in orders)]
    overall = sorted(always, key=lambda name: sum(order.index(name) for order in orders))
    wanted = dict.fromkeys([*(name for order in orders for name in order[:1]), *baseline(results), *overall])
    found = [*wanted][:MOST]
    return [v.name for v in results.variants if v.name in found]


def baseline(results: Results) -> list[str]:
    """The baseline, where it is one variant."""
    return [v.name for v in results.variants if v.name == results.study.get("baseline")]


def _ranked(results: Results, metric: str, nfe: int) -> list[str]:
    """Variants from best to worst; without those that diverged or are beyond real data."""
    record = results.about(metric)
    means = {v.name: summary(results.values(v.name, metric, nfe).values()) for v in results.variants}
    sound = {name: found.mean for name, found in means.items() if found.n and not found.broken}
    honest = {name: mean for name, mean in sound.items() if not beyond(record, mean)}
    return sorted(honest, key=lambda name: -honest[name] if record.higher_is_better else honest[name])
