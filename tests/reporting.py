"""Results of studies that nobody ran, and runs that nobody trained: what reports are tested with."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from genobj import hub
from genobj.cli.resolve import resolve
from genobj.config.load import write_toml
from genobj.metrics.records import Record
from genobj.studies.results import Cell, Look, Results, Value, Variant, Verdict
from genobj.training import weights as files

NFE = (1, 2, 4, 32)
MEASURED = "2.16 +- .75 against 10.2 +- 0.8; difference -8.1, 95 % interval -9.9 to -6.0"
VERDICTS = (
    Verdict("MeanFlow diverges at rho = 0.", "DuMo Fig. 3", "disagrees", "rho=0 10.2 +- 0.8 (3 seeds), none diverged"),
    Verdict("DuMo is better than MeanFlow at 1 NFE.", "DuMo Tab. 1", "agrees", MEASURED),
    Verdict("A third head helps.", "DuMo Sec. 4.3", "inconclusive", "difference 0.02, 95 % interval -0.4 to 0.5"),
)


def record(metric: str, nfe: int, value: float, n: int = 4096, **more: Any) -> Record:
    """A record of 1000 x MMD^2 or of sliced Wasserstein distance."""
    factor, title = (1000.0, "1000 x MMD^2") if metric == "mmd" else (1.0, "sliced W2")
    known: dict[str, Any] = {"floor": 0.0002 if metric == "mmd" else 0.03, "floor_n": n, "protocol": {"samples": n}}
    about: dict[str, Any] = {"sampler": "flow_map", "head": "u", "settings": {}, "weights": "ema_0.999", "n": n}
    about |= {"reference": 8192, "seed": 0, "higher_is_better": False, "title": title, "factor": factor}
    return Record(metric=metric, kind=metric, value=value, nfe=nfe, **(about | known | more))


def value_of(metric: str, level: float, nfe: int, seed: int, step: float = 1.0) -> float:
    """A smooth value that falls with training and evaluations, and scatters with the seed."""
    noise = 1 + 0.12 * math.sin(17.0 * seed + 31.0 * level + nfe)
    scale = 0.002 if metric == "mmd" else 0.05
    return scale * level * noise * (0.35 + 1 / nfe) * (1 + 30 * math.exp(-5 * step))


def cell(variant: str, level: float, seed: int, metrics: Sequence[str], looks: int, **more: Any) -> Cell:
    """A finished run whose scores during training are of fewer samples."""
    steps, speed = 4000, 110 + 10 * level

    def look(step: int) -> Look:
        made = [record(m, n, value_of(m, level, n, seed, step / steps), 1024) for m in metrics for n in NFE]
        return Look(step, step * 256, step / speed, tuple(made))

    curve = tuple(look(steps * i // looks) for i in range(1, looks))
    end = tuple(record(m, n, value_of(m, level, n, seed)) for m in metrics for n in NFE)
    about: dict[str, Any] = {"state": "done", "steps": steps, "seen": steps * 256, "passes": steps * 1024.0}
    return Cell(
        variant=variant, seed=seed, **(about | {"seconds": steps / speed, "records": end, "curve": curve} | more)
    )


def study(
    groups: Mapping[str, Sequence[tuple[Mapping[str, Value], float]]],
    seeds: Sequence[int] = (0, 1, 2),
    metrics: Sequence[str] = ("mmd", "sliced_w2"),
    looks: int = 12,
    folders: Sequence[Path] = (),
    **more: Any,
) -> Results:
    """A study of groups of points, each with its level: the higher, the worse."""
    variants, cells = list[Variant](), list[Cell]()
    for group, points in groups.items():
        for point, level in points:
            inner = ",".join(f"{axis}={value}" for axis, value in point.items())
            name = f"{group}[{inner}]" if inner else group
            settings = {"name": group, "objectives": {"fm": {"weight": level}}, "train": {"steps": 4000, "batch": 256}}
            command = f"genobj train -r dumo-moons objectives.fm.weight={level} --seed 0"
            variants.append(Variant(name, group, group, dict(point), command, settings, 4.0, 12_345))
            for seed in seeds:
                folder = str(folders[len(variants) - 1]) if folders and seed == seeds[0] else ""
                cells.append(cell(name, level, seed, metrics, looks, folder=folder))
    plain: dict[str, Any] = {
        "name": "made",
        "title": "A study of nothing",
        "question": "Does it look right?",
        "nfe": list(NFE),
    }
    plain |= {"baseline": variants[0].name, "budget": {"kind": "steps", "amount": 4000}, "measure": "scores"}
    environment = {
        "python": "3.11.7",
        "torch": "2.15.0",
        "processors": 2,
        "command": ["genobj", "compare", "a study.toml"],
    }
    return Results(plain | more, "toy", tuple(variants), tuple(cells), environment, VERDICTS, "0.1.0")


def three() -> dict[str, Any]:
    """Three methods."""
    return {"DuMo": [({}, 1.0)], "MeanFlow": [({}, 2.5)], "Flow matching": [({}, 9.0)]}


def two_sweeps() -> dict[str, Any]:
    """Twenty-one points of two groups, one axis each."""
    betas = [({"beta": i / 10}, 1 + 12 * (i / 10 - 0.6) ** 2) for i in range(11)]
    return {"DuMo": betas, "MeanFlow": [({"beta": i / 10}, 2 + 15 * (i / 10 - 0.4) ** 2) for i in range(10)]}


def matrix() -> dict[str, Any]:
    """Three by three."""
    return {"DuMo": [({"theta1": a, "theta2": b}, a + 3 * b) for a in (0.5, 1.0, 2.0) for b in (0.5, 1.0, 2.0)]}


def make_run(
    folder: Path, *words: str, data: str = "moons", recipe: str | None = None, seed: int = 0, speed: bool = True
) -> Path:
    """A run's folder as training leaves it, with random weights and made-up scores."""
    small = ["backbone.width=16"] if data == "moons" else []
    overrides = [*small, "ema.decays=[0.9]", *words]
    flags = (None, None) if recipe else ("v,u", "fm,cm")
    backbone = None if recipe else "mlp" if data == "moons" else "unet-tiny"
    e, _ = resolve(recipe, *flags, backbone, None if recipe else data, seed, overrides, None)
    (folder / "samples").mkdir(parents=True)
    (folder / "config.toml").write_text(write_toml(e.tree()))
    (folder / "config.json").write_text(hub.description(e.model_settings(), e.ema.decays))
    (folder / "env.json").write_text(
        json.dumps({"python": "3.11.7", "torch": "2.15.0", "command": ["genobj", "train"]})
    )
    found = [record("mmd", n, value_of("mmd", 1 + seed, n, seed)).as_dict() for n in (1, 2)]
    (folder / "results.json").write_text(json.dumps(found))
    log = [
        {"step": s, "seen": 16 * s, "loss": 1.0} | ({"seconds": s / 10} if speed else {"samples_per_second": 160.0})
        for s in (50, 100)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    looks = [
        {"step": s, "seen": 16 * s, "seconds": s / 10, "records": [record("mmd", 1, 0.1 / s, 1024).as_dict()]}
        for s in (20, 50)
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in looks))
    (folder / "diagnostics.jsonl").write_text(
        "".join(json.dumps({"step": s, "seen": 16 * s, "cosine/fm/cm": math.cos(s / 20)}) + "\n" for s in (20, 40, 60))
    )
    for name in ("model", "ema_0.9"):
        model = e.model_settings().build(0)
        draw = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.2, generator=draw)
        files.write(folder / f"{name}.safetensors", model.state_dict())
    return folder
