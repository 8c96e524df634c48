"""Trains the feature network of the digits metrics and writes genobj/metrics/digits.safetensors (about ten seconds).

Repeatable on one machine and torch version, not bitwise across them: the weights are shipped so that figures compare.
Weights are rounded to float16 before they are measured.

    OMP_NUM_THREADS=1 python benchmarks/train_digits_extractor.py
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from genobj import seeds
from genobj.data.base import Batch
from genobj.data.digits import Digits
from genobj.metrics.extractor import WEIGHTS, DigitsNet, digits_net
from genobj.metrics.frechet import Frechet

SEED, EPOCHS, BATCH, RATE, NOISE = 0, 150, 32, 1e-3, 0.08


def train() -> DigitsNet:
    source = Digits().open()
    torch.manual_seed(SEED)
    net, steps = DigitsNet(), EPOCHS * 1437 // BATCH
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for step in range(steps):
        x, y, _ = source.train(range(step * BATCH, (step + 1) * BATCH), SEED)
        assert y is not None
        optimizer.param_groups[0]["lr"] = RATE / 2 * (1 + math.cos(math.pi * step / steps))
        noisy = x + NOISE * seeds.noise((1, 8, 8), range(step * BATCH, (step + 1) * BATCH), SEED)
        optimizer.zero_grad()
        F.cross_entropy(net(noisy).logits, y).backward()
        optimizer.step()
    return net


def reference_batches() -> dict[str, tuple[Batch, Batch]]:
    """The pairs of sets whose Frechet distances say what the scale of the features is."""
    source = Digits().open()
    every, held_out, rest = source.reference(0, 0), source.held_out(360, 0), source.train(range(1437), 0)
    assert every.y is not None
    means = torch.stack([every.x[every.y == label].mean(dim=0) for label in range(10)])
    noise = torch.randn(every.x.shape, generator=seeds.generator(SEED))
    return {
        "held_out_against_train": (held_out, rest),
        "held_out_against_all": (held_out, every),
        "class_means_against_all": (Batch(means[every.y], None), every),
        "standard_normal_noise_against_all": (Batch(noise, None), every),
    }


def figures() -> dict[str, float]:
    """What the weights on the disk are like."""
    held_out = Digits().open().held_out(360, 0)
    looks = digits_net()(held_out.x)
    accuracy = float((looks.logits.argmax(dim=1) == held_out.y).double().mean())
    distances = {name: Frechet()(*pair, seed=0) for name, pair in reference_batches().items()}
    return {"held_out_accuracy": accuracy} | {name: round(value, 3) for name, value in distances.items()}


def main() -> None:
    torch.set_num_threads(1)
    weights = {name: value.half().contiguous() for name, value in train().state_dict().items()}
    save_file(weights, WEIGHTS)
    digits_net.cache_clear()
    facts = figures()
    how = {"seed": SEED, "epochs": EPOCHS, "batch": BATCH, "rate": RATE, "noise": NOISE, "torch": torch.__version__}
    save_file(weights, WEIGHTS, metadata={"figures": json.dumps(facts), "training": json.dumps(how)})
    WEIGHTS.chmod(0o644)
    print(json.dumps(facts, indent=1), WEIGHTS.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
