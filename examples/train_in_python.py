"""Train without the command line: the whole run, then the pieces by hand.

python examples/train_in_python.py [STEPS] [FOLDER]
"""

import sys
from pathlib import Path

import torch

from genobj.experiment import Experiment
from genobj.run import Run
from genobj.seeds import generator


def whole_run(steps: int, folder: Path) -> None:
    """Settings, then a run with its folder, checkpoints, scores and picture: what `genobj train` does."""
    experiment = Experiment.model_validate(
        {
            "name": "python-moons",
            "objectives": {"fm": {"head": "v", "weight": 0.5}, "cm": {"head": "u", "weight": 0.5}},
            "optim": {"lr": 3e-3, "betas": [0.9, 0.99], "schedule": "cosine"},
            "ema": {"decays": [0.999]},
            "train": {"steps": steps},
            "evaluation": {"nfe": [1, 4], "count": 1000, "reference": 1000},
        }
    )
    outcome = Run(experiment, folder).go(show=lambda line: print(f"step {line['step']}  loss {line['loss']:.3f}"))
    for record in outcome.records:
        print(f"{record.metric} at {record.nfe} NFE: {record.value:.5f} (real data {record.floor:.5f})")
    print(outcome.picture)


def by_hand(steps: int) -> None:
    """Your own loop: a model, a composer, an optimiser."""
    experiment = Experiment.model_validate({"objectives": ["fm", "cm"]})
    model, composer, source = experiment.model_settings().build(seed=0), experiment.composer(), experiment.data.open()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        x, y, _ = source.train(range(256 * step, 256 * (step + 1)), seed=0)
        loss = composer({"online": model}, x, y, generator(0, step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    print({name: round(float(term), 3) for name, term in loss.terms.items()}, loss.passes)


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    whole_run(steps, Path(sys.argv[2] if len(sys.argv) > 2 else "runs/python-moons"))
    by_hand(steps)
