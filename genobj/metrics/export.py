"""Generated images as the file that ADM's evaluator reads: arr_0, uint8, (n, height, width, channels)."""

import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genobj.images import Bytes
from genobj.metrics.team import ALONE, Team


class SampleFile:
    """A sample file that is written while samples come in, whatever their number; labels go to arr_1.

    Used as a context; the file appears under its name when all `count` images are in it.
    """

    def __init__(self, file: Path, count: int, team: Team = ALONE):
        self.file, self.count, self.team = file, count, team
        self.temporary = file.with_name(f".{file.name}.tmp")
        self._zip: zipfile.ZipFile | None = None
        self._stream: Any = None
        self._labels: list[Tensor] = []

    def __enter__(self) -> "SampleFile":
        if self.team.first:
            self._zip = zipfile.ZipFile(self.temporary, "w", allowZip64=True)
        return self

    def add(self, pixels: Bytes, labels: Tensor | None) -> None:
        """A round of chunks, one of every process, in the order of ranks; an empty one where there is nothing left.

        pixels: (n, channels, height, width).
        """
        images = self.team.gathered(pixels.movedim(1, -1) if len(pixels) else pixels)
        self._labels += [] if labels is None else self.team.gathered(labels)
        for chunk in images:
            if len(chunk):
                self._opened(chunk).write(chunk.numpy().tobytes())

    def _opened(self, chunk: Tensor) -> Any:
        """The stream behind the header of arr_0."""
        if self._stream is None:
            assert self._zip is not None
            self._stream = self._zip.open("arr_0.npy", "w", force_zip64=True)
            about = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *chunk.shape[1:])}
            np.lib.format.write_array_header_1_0(self._stream, about)
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._zip is None:
            return
        if kind is None and self._labels:
            with self._zip.open("arr_1.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, torch.cat(self._labels).numpy(), allow_pickle=False)
        self._zip.close()
        if kind is None:
            self.temporary.replace(self.file)
        else:
            self.temporary.unlink(missing_ok=True)
