"""Finished runs of any kind as the results of a study: what `genobj report RUN...` shows."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import genobj
from genobj import hub
from genobj.config.base import problems
from genobj.config.load import leaves, read_toml
from genobj.experiment import FREE
from genobj.metrics.records import Record, comparable, read_records
from genobj.run import SCORES
from genobj.studies.results import Cell, Look, Point, Results, Value, Variant, read

AXES, TOLD = 2, 4
"""Settings up to which a difference is a place on axes, and up to which it is told in words: else by the folder."""
AROUND = 4
"""Folders around a study in which its runs are looked for."""
_LOOKS = TypeAdapter(Look)


@dataclass(frozen=True)
class Found:
    """A run's folder, read."""

    folder: Path
    tree: Mapping[str, Any]
    learnt: Mapping[str, Value]
    """Settings that decide what is learnt, without the seed, by their dotted names."""
    cell: Cell

    @property
    def name(self) -> str:
        """What the run's settings call it."""
        return str(self.tree.get("name") or self.folder.name)


def from_runs(folders: Sequence[Path], title: str = "", question: str = "") -> Results:
    """The results of runs: those that differ in nothing but the seed are one variant with several cells.

    Runs of one name that differ in one or two settings are points of axes. A run that is not finished is a missing cell
    with the reason; values that do not compare get metrics of their own, and results.study["notes"] says why. The
    folder of a study is given as it is, if it is the only one. ValueError for what is no run's folder, and if no run
    is finished.
    """
    if not folders:
        raise ValueError("name the folders of one or more runs, as in genobj report runs/a runs/b")
    if len(folders) == 1 and (file := study_file(folders[0])) is not None:
        return read(file)
    found = [_found(folder) for folder in dict.fromkeys(map(_near, folders))]
    if not any(one.cell.state == "done" for one in found):
        raise ValueError(found[0].cell.error)
    variants, cells = _named(found)
    records, notes = _apart(cells)
    environments = [_environment(one.folder) for one in found]
    return Results(
        study={
            "name": "runs",
            "title": title or " and ".join(dict.fromkeys(one.name for one in found)),
            "question": question,
            "seeds": sorted({cell.seed for cell in cells}),
            "notes": notes,
        },
        scale="",
        variants=tuple(variants),
        cells=tuple(records),
        environment=_common(environments),
        genobj=genobj.__version__,
    )


def study_file(folder: Path) -> Path | None:
    """results.json of a study, where a folder (or the file itself) is one; None for a run."""
    file = folder / hub.RESULTS if folder.is_dir() else folder
    if not file.is_file() or (folder / hub.SETTINGS).exists():
        return None
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return None
    return file if isinstance(tree, dict) and "variants" in tree else None


def located(results: Results, home: Path) -> Results:
    """The same results, with the folders of runs as they are found from here.

    A folder that is not below the working directory is looked for where the study ran, then beside its results (home)
    and in the folders around them, so that a moved study finds the runs that moved with it. One that is nowhere stays.
    """
    ran = results.environment.get("folder")
    whole = home.resolve()
    places = [Path(), *([Path(ran)] if isinstance(ran, str) else []), whole, *list(whole.parents)[:AROUND]]
    return replace(results, cells=tuple(_moved(cell, places) for cell in results.cells))


def _moved(cell: Cell, places: Sequence[Path]) -> Cell:
    there = next((place / cell.folder for place in places if (place / cell.folder).is_dir()), None)
    return cell if there is None or not cell.folder else replace(cell, folder=str(there))


def _near(folder: Path) -> Path:
    """A folder without links, from here where it is below."""
    whole, here = folder.resolve(), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) and whole != here else whole


def _found(folder: Path) -> Found:
    """One run. ValueError for a folder that holds none."""
    if study_file(folder) is not None:
        raise ValueError(f"{folder} is a study; give it alone, or name its runs")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name the run's folder, as in genobj report {folder.parent}")
    hub.read(folder)
    recipe = hub.recipe(folder)
    if recipe is None:
        raise ValueError(f"{folder} holds a model without its recipe; name a folder that `genobj train` made")
    tree = read_toml(recipe)
    learnt = {key: value for key, value in leaves(tree) if not {key, key.partition(".")[0]} & (FREE | {"seed"})}
    seed = tree.get("seed", 0)
    cell = Cell("", seed if isinstance(seed, int) else 0, "missing", str(folder))
    if not (folder / hub.RESULTS).is_file():
        again = f"finish it with: genobj train --resume {folder}"
        return Found(folder, tree, learnt, replace(cell, error=f"{folder} is not finished; {again}"))
    told = lines(folder / "metrics.jsonl")
    train = tree.get("train", {})
    steps = int(told[-1].get("step", 0)) if told else int(train.get("steps", 0))
    done = replace(
        cell,
        state="done",
        steps=steps,
        seen=int(told[-1].get("seen", 0)) if told else steps * int(train.get("batch", 0)),
        seconds=seconds(told),
        records=tuple(read_records(folder / hub.RESULTS)),
        curve=tuple(curve(folder / SCORES)),
    )
    return Found(folder, tree, learnt, done)


def seconds(told: Sequence[Mapping[str, Any]]) -> float:
    """Time of training: what the last line says; older runs tell only how fast they were, and that is summed up."""
    if not told:
        return 0.0
    if told[-1].get("seconds") is not None:
        return float(told[-1]["seconds"])
    total, before = 0.0, 0
    for line in told:
        if speed := line.get("samples_per_second"):
            total += (line["seen"] - before) / speed
        before = line["seen"]
    return total


def curve(file: Path) -> Iterable[Look]:
    """Scores during training, of a run's scores.jsonl. ValueError names a line that holds none."""
    for i, line in enumerate(lines(file), 1):
        for record in line.get("records", ()):
            record["value"] = math.nan if record.get("value") is None else record["value"]
        try:
            yield _LOOKS.validate_python(line)
        except ValidationError as error:
            where, message = next(problems(error))
            raise ValueError(f"{file}, line {i}: {where}: {message}") from None


def lines(file: Path) -> list[dict[str, Any]]:
    """Lines of a JSONL log; none if there is no file. A torn last line is left out."""
    found = list[dict[str, Any]]()
    if file.is_file():
        for text in file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(text))
            except ValueError:
                break
    return [line for line in found if isinstance(line, dict)]


def _named(found: Sequence[Found]) -> tuple[list[Variant], list[Cell]]:
    """Variants, and every run's cell with its variant's name."""
    kinds = dict[str, list[Found]]()
    for one in found:
        kinds.setdefault(json.dumps(one.learnt, sort_keys=True, default=str), []).append(one)
    variants, cells = list[Variant](), list[Cell]()
    for runs in kinds.values():
        alike = [others[0] for others in kinds.values() if others[0].name == runs[0].name]
        variant = _variant(runs[0], alike, {variant.name for variant in variants})
        variants.append(variant)
        cells += [
            replace(run.cell, variant=variant.name, seed=seed) for run, seed in zip(runs, _seeds(runs), strict=True)
        ]
    return variants, cells


def _seeds(runs: Sequence[Found]) -> list[int]:
    """Their seeds; a run of a seed that another one had gets the next free number."""
    taken = list[int]()
    for run in runs:
        seed = run.cell.seed
        while seed in taken:
            seed += 1
        taken.append(seed)
    return taken


def _variant(run: Found, alike: Sequence[Found], taken: set[str]) -> Variant:
    """A run's variant, told from those of the same name by the settings that differ between them."""
    keys = _free(alike)
    own = {".".join(key.split(".")[-2:]): run.learnt[key] for key in keys if key in run.learnt}
    plain = len(own) == len(keys) and all(isinstance(value, bool | int | float | str) for value in own.values())
    words = ", ".join(f"{key}={value}" for key, value in own.items()) if len(keys) <= TOLD else run.folder.name
    name = f"{run.name}[{words}]" if words else run.name
    while name in taken:
        name += "'"
    point: Point = own if plain and len(keys) <= AXES else {}
    command = f"genobj train -r {shlex.quote(str(run.folder / hub.RUN))}"
    return Variant(name, run.name, run.name if point else name, point, command, dict(run.tree))


def _free(alike: Sequence[Found]) -> list[str]:
    """Settings that differ between runs, without those that another one of them decides, as 1 - beta is by beta."""
    kept = dict[str, list[str]]()
    for key in dict.fromkeys(key for one in alike for key in one.learnt):
        values = [json.dumps(one.learnt.get(key), default=str) for one in alike]
        places = [str(values.index(value)) for value in values]
        if any(place != "0" for place in places) and places not in kept.values():
            kept[key] = places
    return list(kept)


def _apart(cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Cells whose metrics compare wherever they share a name, and a sentence for each that had to be renamed."""
    first, notes, made = dict[str, list[Record]](), dict[str, None](), list[Cell]()
    for cell in cells:
        numbers = {
            record.metric: _number(first.setdefault(record.metric, []), record, notes) for record in cell.records
        }
        records = tuple(_called(record, numbers[record.metric]) for record in cell.records)
        curve = [
            replace(look, records=tuple(_called(r, numbers.get(r.metric, 1)) for r in look.records))
            for look in cell.curve
        ]
        made.append(replace(cell, records=records, curve=tuple(curve)))
    return made, list(notes)


def _number(known: list[Record], record: Record, notes: dict[str, None]) -> int:
    """Which of the known ways of measuring this is, counted from 1; a new one is added."""
    for number, other in enumerate(known, 1):
        try:
            comparable([other, record])
        except ValueError as error:
            notes[str(error)] = None
        else:
            return number
    known.append(record)
    return len(known)


def _called(record: Record, number: int) -> Record:
    if number == 1:
        return record
    return replace(record, metric=f"{record.metric} ({number})", title=f"{record.title or record.metric} ({number})")


def _environment(folder: Path) -> dict[str, Any]:
    try:
        tree = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in tree.items() if key != "command"} if isinstance(tree, dict) else {}


def _common(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One value where all runs agree, else every different one."""
    keys = dict.fromkeys(key for environment in environments for key in environment)
    every = {key: list(dict.fromkeys(str(e[key]) for e in environments if e.get(key) is not None)) for key in keys}
    return {key: values[0] if len(values) == 1 else values for key, values in every.items() if values}
