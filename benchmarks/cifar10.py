"""CIFAR-10 from EDM zips: DuMo, MeanFlow and flow matching for equally long, with one network.

    genobj extractor train zip data.path=DATA/cifar10-32x32-train.zip data.test=DATA/cifar10-32x32-test.zip \
        data.labels=10 --to cifar-extractor
    python benchmarks/cifar10.py --data DATA --extractor cifar-extractor --network unet --minutes 6 --out cifar-unet

The speed of each method is measured first, and its number of steps follows from the minutes: all get the same time of
training, whatever a step costs. Then 10,000 samples are compared with the 50,000 training images at 1, 2, 4 and 50
evaluations: the Frechet distance on the extractor's features, no FID. A folder per method under --out, and table.md
with what is there; --methods takes some of them, so that a limit on a command's time can be kept (one method: the
minutes, and about two more). --tiny runs the same on a CPU, with a small network and few samples.

On a lent machine without network see benchmarks/gpu.py for what has to be carried; the zips (64 MB) and the extractor's
folder come with them.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from genobj import bench
from genobj.experiment import Experiment
from genobj.run import Run
from genobj.training.log import Line

Tree = dict[str, Any]
METHODS: dict[str, Tree] = {
    "fm": {"objectives": {"fm": {"head": "v"}}, "times": {"kind": "uniform"}},
    "dumo": {
        "objectives": {"fm": {"head": "v", "weight": 0.7}, "cm": {"head": "u", "weight": 0.3}},
        "times": {"kind": "uniform"},
    },
    "meanflow": {
        "objectives": {"mf": {"head": "u", "distance": {"kind": "adaptive", "power": 0.75, "eps": 1e-3}}},
        "times": {"kind": "logit_normal", "mean": -2.0, "std": 2.0},
        "pairs": {"kind": "sorted", "equal_share": 0.25},
    },
}
"""As recipes dumo-cifar10 and meanflow-cifar10 say: unconditional, without guidance; 1 + 0, 1 + 2, 1 + 1.5 passes."""
NETWORKS: dict[str, Tree] = {
    "unet": {"backbone": {"kind": "unet-cifar10"}, "optim": {"lr": 6e-4, "betas": [0.9, 0.999]}},
    "dit": {"backbone": {"kind": "dit-s/2"}, "optim": {"lr": 4e-4, "betas": [0.9, 0.95]}},
}
TINY: Tree = {"backbone": {"kind": "dit-tiny", "patch": 4}, "optim": {"lr": 2e-3, "betas": [0.9, 0.95]}}
NFE = (1, 2, 4, 50)


def experiment(method: str, asked: argparse.Namespace, steps: int) -> Experiment:
    """One method's run."""
    network = TINY if asked.tiny else NETWORKS[asked.network]
    batch = 64 if asked.tiny else 256
    data = {
        name: str(asked.data / f"cifar10-32x32-{split}.zip") for name, split in (("path", "train"), ("test", "test"))
    }
    low = torch.cuda.is_available()
    return Experiment.model_validate(
        {
            "name": f"cifar10-{method}",
            "seed": asked.seed,
            "data": {"kind": "zip", "flip": True, **data},
            **METHODS[method],
            "backbone": network["backbone"],
            "optim": {**network["optim"], "warmup": batch * max(1, steps // 20), "schedule": "cosine", "clip": 1.0},
            "ema": {"decays": [0.999]},
            "train": {
                "steps": steps,
                "batch": batch,
                "precision": "bf16" if low else "float32",
                "compile": "blocks" if asked.compile else False,
            },
            "evaluation": {
                "nfe": NFE,
                "metrics": ["fd"],
                "extractor": {"kind": "trained", "path": str(asked.extractor)},
                "count": 500 if asked.tiny else 10_000,
                "reference": 50_000,
                "batch": 500,
            },
            "pictures": {"every": max(1, steps // 4), "count": 64},
            "checkpoint": {"every": steps, "keep": 1},
            "log": {"every": max(1, steps // 100)},
        }
    )


def row(method: str, asked: argparse.Namespace) -> Tree:
    """Measure the speed, train for as long as was asked for, score."""
    folder = asked.out / method
    if not (folder / "equal.json").exists():
        (report,) = bench.measure({method: experiment(method, asked, 1000)}, rounds=3)
        second = statistics.median(report.wall)
        steps = max(20, round(60 * asked.minutes / second))
        print(f"{method}: {1000 * second:.1f} ms a step, {steps} steps in {asked.minutes:g} minutes", flush=True)
        last: list[Line] = []
        outcome = Run(experiment(method, asked, steps), folder).go(lambda line: last.append(line))
        found = {record.nfe: record.value for record in outcome.records if record.metric == "fd"}
        told = {"method": method, "steps": steps, "ms": 1000 * second, "fd": found}
        told |= {"device": report.machine["device"], "floor": outcome.records[0].floor}
        (folder / "equal.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return json.loads((folder / "equal.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two zips")
    parser.add_argument("--extractor", type=Path, required=True, help="folder that genobj extractor train made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=NETWORKS, default="unet")
    parser.add_argument("--methods", default="fm,dumo,meanflow")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    for method in asked.methods.split(","):
        row(method, asked)
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(asked.out.glob("*/equal.json"))]
    lines = [
        "| method | steps | ms a step | " + " | ".join(f"{n} NFE" for n in NFE) + " |",
        "|---" * (3 + len(NFE)) + "|",
    ]
    for found in rows:
        values = " | ".join(f"{found['fd'][str(n)]:.3g}" for n in NFE)
        lines.append(f"| {found['method']} | {found['steps']} | {found['ms']:.1f} | {values} |")
    text = "\n".join(lines) + f"\n\nReal images: {rows[0]['floor']:.3g}. {rows[0]['device']}, seed {asked.seed}.\n"
    (asked.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
