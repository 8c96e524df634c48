"""Load a finished run, draw samples with two samplers, score them.

python examples/sample_and_score.py [RUN] [COUNT]      (RUN: a run folder, runs/latest if not given)
"""

import sys
from pathlib import Path

import torch

from genobj.config.load import read_toml
from genobj.evaluation import Generator, Scorer
from genobj.experiment import Experiment
from genobj.hub import load
from genobj.samplers.heun import Heun
from genobj.samplers.restart import Restart


def main(run: Path, count: int) -> None:
    loaded = load(run, weights="ema")  # "live", or the decay of an average such as "0.999"
    experiment = Experiment.model_validate(read_toml(run / "config.toml"))
    generate = Generator(loaded.model, loaded.settings, torch.device("cpu"))

    batch, nfe = generate(Restart(), 8, seed=0)  # sample i depends on (seed, i) alone
    print(f"{nfe} NFE, head u jumps to data:", tuple(batch.x.shape))

    settings = experiment.evaluation.model_copy(update={"count": count})
    scorer = Scorer(settings, experiment.data, experiment.data.open())
    for record in scorer.score([Restart(), Restart(steps=2, kappa=0.5), Heun(steps=16)], generate, loaded.weights):
        floor = "" if record.floor is None else f"  floor {record.floor:.5f}"
        print(f"{record.sampler:<8} {record.nfe:>3} NFE  {record.metric:<10} {record.value:.5f}{floor}")


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "runs/latest"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 2000,
    )
