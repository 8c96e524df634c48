"""A study, or any finished runs, as one HTML page: claims, table, figures, samples, settings; nothing is loaded."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from genobj.config.load import leaves
from genobj.studies import tables
from genobj.studies.collect import located
from genobj.studies.condensed import condensed
from genobj.studies.contrast import common, differing
from genobj.studies.figures import Figure, Figures, headline
from genobj.studies.gallery import Gallery, Picture, gallery
from genobj.studies.results import Results
from genobj.studies.summary import count, duration, plain, summary
from genobj.studies.words import INCONCLUSIVE
from genobj.training.folder import write as write_whole

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = {
    "claims": "Claims",
    "summary": "Summary",
    "figures": "Figures",
    "samples": "Samples",
    "training": "While training",
    "gradients": "Gradients",
    "failures": "Failures",
    "rerun": "Settings",
    "environment": "Environment",
}

AXES = (("step", "step"), ("seen", "samples"), ("passes", "passes"), ("time", "time"))
"""The x axes of curves during training, and what the page calls them."""
UNTOLD = ("command", "folder")
"""Of the environment: the one stands in the head of the page, the other is nobody's business."""


class Choice(NamedTuple):
    """One of the choices of what figures show."""

    value: int | str
    title: str


class Shot(NamedTuple):
    """A picture and what stands below it."""

    name: str
    picture: Picture
    score: str = ""


class Card(NamedTuple):
    """All pictures of a variant."""

    variant: int
    swatch: Markup
    label: str
    shots: Sequence[Shot]
    why: str = ""
    """Why there is none."""


class Trouble(NamedTuple):
    """A run that came to nothing."""

    label: str
    seed: int
    state: str
    error: str


def write(
    results: Results,
    file: Path,
    *,
    folder: Path | None = None,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path:
    """Write the page, whole or not at all, and give its place back.

    folder: the study's, where finished pictures are kept; None: they are drawn anew. tell: told what is drawn, how
    much of it is done and of how much. OSError if the file cannot be written.
    """
    results = located(results, file.parent if folder is None else folder)
    scored = results.study.get("measure", "scores") == "scores"
    shown = gallery(results, folder, tell) if scored else Gallery((), (), Picture())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, page(results, shown))
    return file


def page(results: Results, shown: Gallery) -> str:
    """Text of the page."""
    study, art = results.study, Figures(results)
    figures, cosines, cards = art.every(), art.cosines(), _cards(results, art, shown)
    training, failures = _training(art, shown), list(_failures(results))
    there = {
        "claims": results.verdicts,
        "figures": figures,
        "samples": shown,
        "training": training,
        "gradients": cosines or art.without_cosines(),
        "failures": failures,
        "environment": results.environment,
    }
    return _template().render(
        results=results,
        title=str(study.get("title") or study.get("name") or "Study"),
        eyebrow=" · ".join(filter(None, ("genobj", str(study.get("name", "")), results.scale))),
        question=study.get("question", ""),
        again=_again(results),
        facts=_facts(results),
        notes=study.get("notes", ()),
        undecided=INCONCLUSIVE if any(v.verdict == "inconclusive" for v in results.verdicts) else "",
        sections=[(key, name) for key, name in SECTIONS.items() if there.get(key, True)],
        table=summary(results, art),
        figures=figures,
        picked=bool(art.picked),
        broad=any(figure.broad for figure in [*figures, *cosines]),
        elsewhere=any(_has_path(variant.command) for variant in results.variants),
        choices=_choices(results, art, figures),
        gallery=shown,
        cards=cards,
        training=training,
        cosines=cosines,
        without_cosines=art.without_cosines(),
        failures=failures,
        differing=condensed(results, differing(results, [*art.labels.values()])),
        common=common(results),
        collected="variants" in study,
        environment=[(name, plain(value)) for name, value in leaves(results.environment) if name not in UNTOLD],
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        js=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )


def _template() -> Template:
    loader = FileSystemLoader(TEMPLATES)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["breakable"] = _breakable
    return made.get_template("report.html.j2")


def _breakable(name: str) -> Markup:
    """A setting's name that lines may break behind dots and underscores of, and nowhere else."""
    parts = re.split(r"(?<=[._])(?=.)", name)
    return Markup("<wbr>").join(parts)


def _has_path(command: str) -> bool:
    """Whether a command names a file, which is not everywhere."""
    return any(word.strip("'").endswith(".toml") for word in command.split())


def _choices(results: Results, art: Figures, figures: Sequence[Figure]) -> list[tuple[str, list[Choice]]]:
    """What the reader may choose: metric, number of evaluations, the x axis of curves."""
    used = {plot.x for figure in figures for plot in figure.plots}
    counted = any(plot.nfe is not None for figure in figures for plot in figure.plots)
    names = [Choice(i, headline(results.about(metric))) for i, metric in enumerate(art.metrics)]
    counts = [Choice(i, str(nfe)) for i, nfe in enumerate(art.evaluations) if counted]
    axes = [Choice(x, title) for x, title in AXES if x in used]
    return [("metric", names), ("nfe", counts), ("x", axes)]


def _cards(results: Results, art: Figures, shown: Gallery) -> list[Card]:
    made, first = list[Card](), next(iter(art.metrics), None)
    for one in shown.variants:
        shots = [
            Shot(f"{nfe} NFE", picture, _score(results, one.variant, first, nfe, one.seed))
            for nfe, picture in one.pictures.items()
        ]
        entry = art.entries[one.variant]
        made.append(Card(art.numbers[one.variant], entry.swatch, entry.title, shots, one.why))
    return made


def _score(results: Results, variant: str, metric: str | None, nfe: int, seed: int) -> str:
    """What the run whose samples are shown scored."""
    if metric is None or (value := results.values(variant, metric, nfe).get(seed)) is None:
        return ""
    record = results.about(metric)
    return f"{record.title or metric} {tables.number(record, value)}"


def _training(art: Figures, shown: Gallery) -> list[Card]:
    """Pictures during training; every run has its own steps, so a slider goes by their place."""
    made = list[Card]()
    for one in shown.variants:
        if one.steps:
            entry = art.entries[one.variant]
            shots = [Shot(f"step {step:,}", picture) for step, picture in one.steps.items()]
            made.append(Card(art.numbers[one.variant], entry.swatch, entry.title, shots))
    return made


def _failures(results: Results) -> Iterable[Trouble]:
    for cell in results.cells:
        if cell.state != "done":
            state = "failed" if cell.state == "failed" else "not finished"
            yield Trouble(tables.label(results, cell.variant), cell.seed, state, cell.error or "It was not run.")


def _facts(results: Results) -> list[tuple[str, str]]:
    """What stands below the question."""
    states = [cell.state for cell in results.cells]
    done, budget = states.count("done"), results.study.get("budget") or {}
    seconds = sum(cell.seconds for cell in results.cells)
    found = {
        "variants": str(len(results.variants)),
        "seeds": str(len({cell.seed for cell in results.cells})),
        "runs": f"{done} finished" + (f" of {len(states)}" if done < len(states) else ""),
        "each run": f"{count(float(budget['amount']))} {budget['kind']}" if budget else "",
        "training time": duration(seconds) if seconds else "",
        "but": ", ".join(_shares(results)),
        "baseline": str(results.study.get("baseline") or ""),
    }
    return [(name, value) for name, value in found.items() if value]


def _shares(results: Results) -> Iterable[str]:
    """Groups that get more or less than the study's budget."""
    for group, change in results.study.get("variants", {}).items():
        if (share := change.get("share", 1)) != 1:
            yield f"{change.get('title') or group} gets {share:g} times as much"


def _again(results: Results) -> str:
    """The command that made the whole study, where it is known; without the place that its results went to."""
    words = [str(word) for word in results.environment.get("command", ())]
    known = words and Path(words[0]).name in ("genobj", "__main__.py")
    kept = [word for before, word in pairwise(words) if "--out" not in (before, word) and not word.startswith("--out=")]
    return shlex.join(["genobj", *kept]) if known else ""
