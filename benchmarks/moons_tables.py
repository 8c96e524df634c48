"""Two moons, every composition of the paper's Sec. 3.1 and 4.3 on equal terms: tables of 1000 x MMD^2.

    python benchmarks/moons_tables.py [--features smooth rough] [--seeds 0 1 2] [--only dumo single other] [--out FILE]

Same network, data, optimiser, steps and time law everywhere: an MLP of five layers of 128, batch 256, 4,000 steps,
learning rate 1.5e-3 with a cosine, average .999, t uniform. Only heads, objectives, weights and the law of r differ.
`smooth` feeds 4 time features up to frequency 2, `rough` 16 up to 8. Every run is a line of FILE, and runs that
FILE holds already are not repeated. The table gives mean and standard deviation over seeds.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from genobj.experiment import Experiment
from genobj.run import Run

FEATURES = {"smooth": (4, 2.0), "rough": (16, 8.0)}
BETAS = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)
RHOS = (0, 0.25, 0.5, 0.75, 0.8, 0.9, 1)
Tree = dict[str, Any]


def dumo() -> Iterator[tuple[str, Tree]]:
    """fm and cm with weights beta and 1 - beta (DuMo Eq. 9)."""
    for beta in BETAS:
        weights = {"fm": {"weight": beta}, "cm": {"weight": 1 - beta}}
        yield f"DuMo beta {beta}", {"objectives": weights, "evaluation": {"nfe": [1, 2, 32]}}


def single() -> Iterator[tuple[str, Tree]]:
    """One head, a share rho of the rows with r = t, the others with r = 0 (DuMo Eq. 5)."""
    for rho in RHOS:
        pairs = {"kind": "zero", "equal_share": float(rho)}
        yield f"single branch rho {rho}", {"objectives": {"mf": {}}, "pairs": pairs, "evaluation": {"nfe": [1]}}


def other() -> Iterator[tuple[str, Tree]]:
    """Alone, dual and tri-heads; r uniform below t, a quarter of the rows with r = t where jumps need an anchor."""
    quarter = {"kind": "below", "equal_share": 0.25}
    fm, cm = {"kind": "fm", "head": "v"}, {"kind": "cm", "head": "u"}
    mf, sc = {"kind": "mf", "head": "w"}, {"kind": "sc", "head": "w", "weights": "online"}
    yield "cm alone", {"objectives": {"cm": cm}, "evaluation": {"nfe": [1, 2]}}
    yield "Shortcut alone", {"objectives": {"sc": sc}, "pairs": quarter, "evaluation": {"nfe": [1, 2]}}
    yield "dual FM+MF", {"objectives": {"fm": fm, "mf": mf}, "pairs": quarter, "evaluation": {"nfe": [1]}}
    for name, middle in (("MF", mf), ("SC", sc)):
        for where in ("head", "trunk"):
            heads = {"v": {}, "w": {"r_in": where}, "u": {}}
            tree = {"objectives": {"fm": fm, "middle": middle, "cm": cm}, "heads": heads, "pairs": quarter}
            yield f"tri FM+{name}+CM, r in {where}", {**tree, "evaluation": {"nfe": [1]}}


def shifted() -> Iterator[tuple[str, Tree]]:
    """The tri-heads with t the larger and r the smaller of two uniform times (MeanFlow's law): t has density 2 t."""
    pairs = {"kind": "sorted", "equal_share": 0.25}
    for name, tree in other():
        if name.startswith("tri") and name.endswith("head"):
            yield f"{name}, sorted times", {**tree, "pairs": pairs}


GROUPS = {"dumo": dumo, "single": single, "other": other, "shifted": shifted}


def run(tree: Tree, features: str, seed: int) -> dict[str, float]:
    """Scores of one run: {"mmd 1": ..., "sliced_w2 1": ...}, MMD^2 times 1000."""
    count, top = FEATURES[features]
    base = {
        "seed": seed,
        "backbone": {"kind": "mlp", "depth": 5, "time_features": count, "top_frequency": top},
        "optim": {"lr": 1.5e-3, "betas": [0.9, 0.99], "schedule": "cosine"},
        "ema": {"decays": [0.999]},
        "pictures": {"every": 10**6},
        "checkpoint": {"every": 10**6},
    }
    with tempfile.TemporaryDirectory() as folder:
        outcome = Run(Experiment.model_validate(base | tree), Path(folder) / "run").go()
    return {f"{r.metric} {r.nfe}": r.value * (1000 if r.metric == "mmd" else 1) for r in outcome.records}


def table(lines: list[dict[str, Any]], features: str) -> Table:
    """Mean and standard deviation over seeds, a row per composition."""
    result = Table(title=f"two moons, {features} time features: 1000 x MMD^2 (sliced W2)")
    for column in ("composition", "1 NFE", "2 NFE", "32 NFE", "seeds"):
        result.add_column(column, justify="left" if column == "composition" else "right")
    names = dict.fromkeys(line["name"] for line in lines if line["features"] == features)
    for name in names:
        mine = [line["scores"] for line in lines if line["features"] == features and line["name"] == name]
        cells = [_cell(mine, nfe) for nfe in (1, 2, 32)]
        result.add_row(name, *cells, str(len(mine)))
    return result


def _cell(scores: list[dict[str, float]], nfe: int) -> str:
    values = [s[f"mmd {nfe}"] for s in scores if f"mmd {nfe}" in s]
    if not values:
        return ""
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({statistics.mean(s[f'sliced_w2 {nfe}'] for s in scores):.3f})"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", nargs="+", choices=list(FEATURES), default=list(FEATURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--out", type=Path, default=Path("moons_tables.jsonl"))
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {(line["features"], line["seed"], line["name"]) for line in lines}
    console = Console()
    for seed in arguments.seeds:
        for features in arguments.features:
            for name, tree in (item for group in arguments.only for item in GROUPS[group]()):
                if (features, seed, name) in done:
                    continue
                console.print(f"{features}, seed {seed}: {name}", end=" ")
                lines.append({"features": features, "seed": seed, "name": name, "scores": run(tree, features, seed)})
                console.print(f"{lines[-1]['scores']['mmd 1']:.2f}")
                with arguments.out.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    for features in arguments.features:
        console.print(table(lines, features))


if __name__ == "__main__":
    main()
