"""Everything worth knowing about speed on one GPU, in one call of less than nine minutes.

    python benchmarks/gpu.py --out gpu.json            (--tiny: the same measurements of a tiny network, also on a CPU)

DiT-B/2, L/2 and XL/2 on 4 x 32 x 32 latents in bf16 at batch 64 and 256: steps/s of FM, DuMo and MeanFlow (central
differences) and their ratios, share of the measured matrix-product rate, optimizer and averages, peak memory; blocks
compiled, and weights in bf16; derivatives by central differences, jvp (through the attention's fallback) and tangent;
DDP and FSDP2 on one device under torchrun; no host synchronisation between log lines. Every measurement stands alone:
one that fails is recorded with its reason, one for which no time is left as such, and the file is written after each.

On the lent machine (Python 3.12, torch 2.11, no network), in the repository's root. Once, here:

    echo /.whl/ >> .git/info/exclude
    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl pydantic==VERSION \
        pydantic-core==VERSION annotated-types typing-inspection tomli-w        (versions: pip list, here)

then `run` with carry [".whl"], timeout_s 600 and the command

    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1
    python3 benchmarks/gpu.py --out $OUT/gpu.json
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from genobj.bench import Timed, matmul_rate
from genobj.experiment import Experiment

Tree = dict[str, Any]
Found = dict[str, Any]
SINGLE = {"guidance": {"kind": "mean_flow", "omega": 0.2, "kappa": 0.92, "interval": [0.0, 0.75]}}
BERNOULLI = {"pairs": {"kind": "sorted", "equal_share": 0.75, "share_by": "bernoulli"}}
OBJECTIVES: dict[str, Tree] = {
    "FM": {"objectives": {"fm": {}}, "guidance": "self"},
    "DuMo": {"objectives": {"fm": {"weight": 0.7}, "cm": {"weight": 0.3}}, "guidance": "self"},
    "MeanFlow": {"objectives": {"mf": {}}, **SINGLE, **BERNOULLI},
}
"""All guided: 1 + 1, 1 + 3 and 1 + 4 passes (DuMo, Sec. 3.3)."""


class Bench:
    """The measurements that were asked for, and what they found."""

    def __init__(self, asked: argparse.Namespace):
        self.tiny, self.out, self.skip = asked.tiny, asked.out, asked.skip
        self.end = time.monotonic() + 60 * asked.minutes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sizes = ["dit-tiny"] if self.tiny else ["dit-b/2", "dit-xl/2", "dit-l/2"]
        self.batches = [4, 8] if self.tiny else [64, 256]
        self.rounds, self.steps = (1, 1) if self.tiny else (3, 0)
        self.rates: dict[str, float] = {}
        self.found: dict[str, Found] = {}

    def settings(self, name: str, size: str, batch: int, **more: Any) -> Tree:
        """An experiment on latents; `more` are settings of train."""
        latents = {"kind": "normal", "sizes": [4, 8, 8], "labels": 10} if self.tiny else {}
        data = {"kind": "normal", "sizes": [4, 32, 32], "labels": 1000, **latents}
        settings = {"steps": 1, "batch": batch, "device": self.device.type, "precision": "bf16", **more}
        return {"data": data, "backbone": size, **OBJECTIVES[name], "train": settings}

    def steps_of(self, tree: Tree) -> Found:
        """Time of a step and its parts."""
        experiment = Experiment.model_validate(tree)
        start = time.monotonic()
        run = Timed("run", experiment, self.rate(experiment.train.precision), self.steps)
        ready = time.monotonic() - start
        for _ in range(self.rounds):
            run.go()
        run.split()
        told = run.report().as_dict()
        told["optimizer_and_averages"] = told["split"]["optimizer"] + told["split"]["averages"]
        return told | {"seconds_until_ready": ready}

    def rate(self, precision: str) -> float:
        """FLOP/s of a matrix product, measured once per precision."""
        if precision not in self.rates:
            self.rates[precision] = matmul_rate(self.device, precision)
        return self.rates[precision]

    def plan(self) -> Iterator[tuple[str, Callable[[], Found]]]:
        """Names and measurements, the most important first."""
        yield "machine", self._machine
        small, *_ = self.batches
        largest = self.sizes[min(1, len(self.sizes) - 1)]
        for batch in self.batches:
            for size in self.sizes:
                for name in OBJECTIVES:
                    yield self._steps(f"{name} {size} {batch}", self.settings(name, size, batch))
            if batch != small:
                continue
            yield "sync", self._no_sync
            for size in dict.fromkeys([self.sizes[0], largest]):
                for precision in ("bf16", "bf16_pure"):
                    if precision != "bf16":
                        yield self._steps(f"{precision} DuMo {size}", self._dumo(size, precision=precision))
                    compiled = self._dumo(size, precision=precision, compile="blocks")
                    yield self._steps(f"{precision} compile DuMo {size}", compiled)
                for method in ("central", "jvp", "tangent"):
                    yield self._steps(f"derivative {method} MeanFlow {size}", self._derived(size, method))
            for strategy in ("none", "ddp", "fsdp2"):
                yield f"torchrun {strategy}", lambda strategy=strategy: self._launched(strategy)

    def _steps(self, name: str, tree: Tree) -> tuple[str, Callable[[], Found]]:
        return name, lambda: self.steps_of(tree)

    def _dumo(self, size: str, **more: Any) -> Tree:
        return self.settings("DuMo", size, self.batches[0], **more)

    def _derived(self, size: str, method: str) -> Tree:
        """MeanFlow without guidance, so that the derivative is what counts; a tangent is as precise as its forward."""
        tree = self.settings("MeanFlow", size, self.batches[0])
        precision = "autocast" if method == "tangent" else "float32"
        derivative = {"method": method, "precision": precision}
        return tree | {"objectives": {"mf": {"derivative": derivative}}, "guidance": "none"}

    def _machine(self) -> Found:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        rates = {precision: self.rate(precision) for precision in ("bf16", "float32")}
        return {"device": name, "torch": torch.__version__, "python": sys.version.split()[0], "matmul": rates}

    def _no_sync(self) -> Found:
        """Some steps in which every wait for the device raises."""
        run = Timed("sync", Experiment.model_validate(self._dumo(self.sizes[0])), 1.0, 1)
        if self.device.type != "cuda":
            return {"checked": False, "why": "no GPU"}
        torch.cuda.set_sync_debug_mode("error")
        try:
            run.take(4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"checked": True}

    def _launched(self, strategy: str) -> Found:
        """One process under torchrun, in float32 weights and bf16 passes; fsdp2 shards them over one device."""
        tree = self._dumo(self.sizes[0])
        data = [f"data.{key}={json.dumps(value)}" for key, value in tree["data"].items() if key != "kind"]
        train = [f"train.{key}={value}" for key, value in tree["train"].items() if key != "steps"]
        words = ["bench", "--json", "--rounds", str(self.rounds), "--steps", str(self.steps), "-r", "dumo-digits"]
        words += [
            "--data",
            "normal",
            "--backbone",
            self.sizes[0],
            *data,
            *train,
            "guidance=self",
            "evaluation.metrics={}",
        ]
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "genobj"]
        left = max(self.end - time.monotonic(), 10)
        command = [sys.executable, *launch, *words, f"distributed.strategy={strategy}"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=left, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            lines = [
                line for line in done.stderr.splitlines() if "rror: " in line
            ]  # the process's own, then torchrun's
            raise RuntimeError(lines[0] if lines else done.stderr[-600:])
        return json.loads(done.stdout)["runs"][0]

    def go(self) -> None:
        """Take all measurements; the file is whole after each of them."""
        for name, measurement in self.plan():
            if any(word in name for word in self.skip):
                continue
            start = time.monotonic()
            if start > self.end:
                self.found[name] = {"error": "no time was left"}
            else:
                self.found[name] = attempt(measurement) | {"took": time.monotonic() - start}
            print(f"{time.monotonic() - start:6.1f} s  {name}  {self.found[name].get('error', '')}", flush=True)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.out.write_text(json.dumps({"found": self.found, "ratios": ratios(self.found)}, indent=1) + "\n")


def attempt(measurement: Callable[[], Found]) -> Found:
    """What it found, or why it did not."""
    try:
        return measurement()
    except Exception as error:  # out of memory, a setting that does not exist, a kernel that fails: noted
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}


def ratios(found: dict[str, Found]) -> dict[str, float]:
    """Time of a step over that of another, by what they differ in; above 1 the first is slower."""

    def over(first: str, second: str) -> None:
        times = [found.get(name, {}).get("seconds_per_step", {}).get("median") for name in (first, second)]
        if all(times):
            told[f"{first} / {second}"] = times[0] / times[1]

    told: dict[str, float] = {}
    for case in [name.removeprefix("FM ") for name in found if name.startswith("FM ")]:
        over(f"DuMo {case}", f"FM {case}")
        over(f"MeanFlow {case}", f"DuMo {case}")
    for name in found:
        kind, _, rest = name.partition(" DuMo ")
        eager = [other for other in found if rest and other.startswith(f"DuMo {rest} ")]
        if kind in ("bf16_pure", "bf16 compile", "bf16_pure compile") and eager:
            over(name, eager[0])
        if name.startswith(("derivative jvp ", "derivative tangent ")):
            over(name, f"derivative central {' '.join(name.split()[2:])}")
    for strategy in ("ddp", "fsdp2"):
        over(f"torchrun {strategy}", "torchrun none")
    return told


def table(found: dict[str, Found]) -> Table:
    """A line per measurement of steps."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "steps/s", "ms", "utilisation", "optimizer + averages", "peak GiB", "ready after s"):
        result.add_column(column, justify="right" if column else "left")
    for name, one in found.items():
        if "error" in one or "steps_per_second" not in one:
            result.add_row(name, str(one.get("error", "done"))[:60])
            continue
        split = one["split"]
        result.add_row(
            name,
            f"{one['steps_per_second']:.3g}",
            f"{1000 * one['seconds_per_step']['median']:.4g}",
            f"{100 * one['utilisation']:.1f} %",
            f"{100 * (split['optimizer'] + split['averages']):.1f} %",
            f"{(one['peak_memory'] or 0) / 2**30:.1f}",
            f"{one.get('seconds_until_ready', one['took']):.0f}",
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.5, help="nothing starts after so many")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, one step each")
    parser.add_argument(
        "--skip", action="append", default=[], help="leave out measurements with this word in their name"
    )
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    bench = Bench(parser.parse_args())
    bench.go()
    console = Console(width=140, highlight=False)
    console.print(table(bench.found))
    for name, value in ratios(bench.found).items():
        console.print(f"{name} = {value:.3f}")


if __name__ == "__main__":
    main()
