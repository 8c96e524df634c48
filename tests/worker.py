"""One process of the distributed tests: trains every case of a file and writes what came out. Run by torchrun."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from genobj.assembly import Assembly
from genobj.experiment import Experiment
from genobj.training import distributed, optim
from genobj.training.loop import Hook, train
from genobj.training.weights import whole as gathered
from genobj.training.weights import write

STEPS = 20


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def trained(tree: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Weights, averages and first gradients of a short run, whole, and the logged losses of every step."""
    whole = Assembly(Experiment.model_validate(tree | {"train": tree["train"] | {"device": "cpu"}}))
    e, model, state = whole.experiment, whole.model, whole.state
    step, first = whole.ready(whole.step_module()), dict[str, Tensor]()
    losses, norm = dict[str, list[float]](), optim.global_norm

    def keep(parameters: Any, limit: float) -> Tensor:
        parameters = list(parameters)
        if not first:
            first.update(
                {f"gradient/{n}": full(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
            )
        return norm(parameters, limit)

    import genobj.training.loop as loop

    loop.global_norm = keep  # type: ignore[attr-defined]
    try:
        record = Hook(1, lambda _, means: [losses.setdefault(k, []).append(v) for k, v in means.items()], means=True)
        train(state, step, whole.source, e.train, e.optim, e.seed, [record], whole.ranks)
    finally:
        loop.global_norm = norm  # type: ignore[attr-defined]
    tensors = {
        f"{file}/{k}": v.clone() for file, values in state.weights().items() for k, v in gathered(values).items()
    }
    return tensors | first, losses


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out = Path(sys.argv[1])
    for name, tree in json.loads((out / "cases.json").read_text()).items():
        tensors, losses = trained(tree)
        if torch.distributed.get_rank() == 0:
            write(out / f"{name}.safetensors", tensors)
            (out / f"{name}.json").write_text(json.dumps(losses))
    distributed.leave()
    os._exit(0)  # as the command line ends: threads of process groups can abort an interpreter that ends


if __name__ == "__main__":
    main()
