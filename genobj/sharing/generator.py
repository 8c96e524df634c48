"""The whole generator as one graph, noise to samples: ONNX and torch.export, checked against genobj once written."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genobj.model import Model, ModelSettings
from genobj.samplers.base import Sampler, Walk
from genobj.seeds import noise

TOLERANCE = 1e-3
"""Largest difference from genobj's own samples, in units of the largest number in them."""
EXAMPLE, CHECK = 3, 5
"""Batches to export with and to check with: two sizes, since the batch is free."""
LARGEST = 2**31 - 2**27
"""Bytes of weights that one ONNX file can hold; more lie in a second file beside it."""


class Unrolled(nn.Module):
    """A sampler's walk in float32 with its steps written out.

    Inputs: z (batch, *shape) standard normal noise; y (batch,) int64 labels, if the model has labels; noise
    (batch, steps, *shape) standard normal, if the sampler puts noise back. ValueError if the model's heads or labels
    cannot answer the sampler.
    """

    def __init__(self, model: Model, settings: ModelSettings, sampler: Sampler):
        super().__init__()
        self.model, self.settings, self.sampler = model.float().eval(), settings, sampler
        self.asks, asked = tuple[int, ...](), list[int]()
        given = self._inputs(1)
        walk = self._walk(given["z"], given.get("y"), lambda i: (asked.append(i), torch.zeros_like(given["z"]))[1])
        self.asks, self.nfe = tuple(asked), walk.nfe
        """Steps that draw fresh noise, and the evaluations of a walk."""

    def forward(self, z: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Samples (batch, *shape): images in [-1, 1] up to the network's error, latents or points."""
        fresh = dict(zip(self.asks, () if noise is None else noise.unbind(1), strict=True))
        return self._walk(z, y, fresh.__getitem__).samples

    def _walk(self, z: Tensor, y: Tensor | None, fresh: Callable[[int], Tensor]) -> Walk:
        null = self.settings.classes or None
        return self.sampler(self.model, z, y, path=self.settings.path, null=null, noise=fresh, keep=False)

    def _inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs by name."""
        shape, classes = self.settings.shape, self.settings.classes
        given = {"z": noise(shape, range(batch), 0, 0)}
        given |= {"y": torch.arange(batch) % classes} if classes else {}
        return given | ({"noise": noise((len(self.asks), *shape), range(batch), 0, 1)} if self.asks else {})

    def shapes(self) -> dict[str, list[Any]]:
        """Name -> shape of every input, the batch by name."""
        return {name: ["batch", *value.shape[1:]] for name, value in self._inputs(1).items()}

    def exported(self) -> torch.export.ExportedProgram:
        """The graph, for any batch. ValueError for a network that torch cannot trace."""
        given = self._inputs(EXAMPLE)
        batch = torch.export.Dim("batch", min=1, max=2**16)
        with torch.no_grad(), _quiet(), _told("torch.export cannot trace this network"):
            free = {name: {0: batch} if name in given else None for name in ("z", "y", "noise")}
            return torch.export.export(self, (), given, dynamic_shapes={k: v for k, v in free.items() if k in given})

    def difference(self, other: Callable[[dict[str, Tensor]], Tensor]) -> float:
        """Largest difference of another implementation on random inputs; ValueError if it is no longer rounding."""
        given = self._inputs(CHECK)
        with torch.no_grad():
            ours = self(**given)
        error = (ours - other(given)).abs().max().item()
        if not error <= TOLERANCE * ours.abs().max().item():
            raise ValueError(f"what was written gives other samples than genobj (off by {error:.1e}); it was removed")
        return error


def write_torch(unrolled: Unrolled, file: Path) -> float:
    """Write a .pt2 file that torch.export.load reads; gives the largest difference from genobj's samples."""
    with _removed_on_error(file), _quiet():
        torch.export.save(unrolled.exported(), file)
        loaded = torch.export.load(file).module()
        return unrolled.difference(lambda given: loaded(**given))


def write_onnx(unrolled: Unrolled, file: Path) -> float:
    """Write an ONNX file; gives the largest difference of onnxruntime from genobj's samples.

    ValueError if a package is missing, or if what was written computes something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except (ImportError, RuntimeError, OSError):
        raise ValueError("ONNX needs onnx, onnxscript and onnxruntime; type pip install 'genobj[onnx]'") from None
    size = sum(value.numel() * 4 for value in unrolled.model.state_dict().values())
    with _removed_on_error(file), _quiet():
        graph = unrolled.exported()
        with _told("this network cannot be said in ONNX"):
            program = torch.onnx.export(graph, dynamo=True, verbose=False, output_names=["samples"])
            assert program is not None
            program.save(file, external_data=size > LARGEST)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return unrolled.difference(
            lambda given: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in given.items()})[0])
        )


@contextlib.contextmanager
def _removed_on_error(file: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for written in (file, file.with_name(f"{file.name}.data")):  # the second one has weights beyond LARGEST
            written.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """A sentence in place of whatever an exporter raises: its errors have no common class."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {str(error).strip().partition(chr(10))[0]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress, warnings and logs of the exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
