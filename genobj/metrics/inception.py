"""Inception v3 as FID is defined on it, by torch-fidelity's port of the TensorFlow graph of 2015."""

import contextlib
import os
import pickle
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genobj.metrics.features import Extractor, Look, Space, hash_of
from genobj.types import Samples

CHANNELS = 7
"""Channels of mixed_6/conv that sFID looks at, as ADM's evaluator does."""


class Inception(Extractor):
    """Inception v3 with torch-fidelity's weights, which FID, sFID and the Inception score are defined by.

    Grey images are shown in three equal channels.
    """

    citations: ClassVar[tuple[str, ...]] = ("obukhov2020torchfidelity", "heusel2017fid")

    weights: Annotated[str, Field(min_length=1)] | None = None
    """Local weights file of torch-fidelity; unset: its own, downloaded once into TORCH_HOME (or ~/.cache/torch)."""

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """It sees grey or colour images."""
        if len(shape) == 3 and shape[0] in (1, 3):
            return None
        return (
            f"Inception sees images of one or three channels, and this data has shape {shape}: "
            "use a metric of raw samples (mmd, energy, sliced_w2, w2)."
        )

    def open(self, device: torch.device) -> Space:
        """The network. ValueError if torch-fidelity or the weights are missing or damaged."""
        net, file = _network(None if self.weights is None else Path(self.weights))
        return Space("inception", hash_of(file), 2048, Watched(net.to(device)), device, spatial=True)


class Watched:
    """Pooled features, logits without bias and the places of mixed_6/conv, in one forward."""

    def __init__(self, net: nn.Module):
        self.net, self._places = net, list[Tensor]()
        # TensorFlow's mixed_6 is Mixed_6d here, and its "conv" the branch of 1 x 1 convolutions after the ReLU.
        block: Any = net.get_submodule("Mixed_6d.branch1x1")
        block.register_forward_hook(lambda module, inputs, output: self._places.append(output[:, :CHANNELS]))

    def __call__(self, x: Samples) -> Look:
        """x: images in [-1, 1] that are whole levels."""
        pixels = (127.5 * (x + 1)).round().byte()
        features, logits = self.net(pixels.expand(-1, 3, -1, -1))
        spatial = self._places.pop().permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order: row, column, channel
        return Look(features, logits, spatial)


def _network(file: Path | None) -> tuple[nn.Module, Path]:
    """torch-fidelity's network and the file that its weights came from."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as port
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(
            f"Inception needs torch-fidelity, which is not there ({error}); type pip install 'genobj[fid]'"
        ) from None
    name = port.URL_INCEPTION_V3.rpartition("/")[2]
    usual = Path(torch.hub.get_dir()) / "checkpoints" / name
    if file is not None or usual.exists():
        _harmless(file or usual)
    try:
        with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stderr(quiet):
            net = port.FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], None if file is None else str(file)
            )
    except OSError as error:
        raise ValueError(
            f"Inception's weights could not be downloaded ({error}); put {name} into {usual.parent}, "
            "or say where it is: --inception FILE, evaluation.inception=FILE in settings; or take other metrics, as in "
            "evaluation.metrics=sliced_w2"
        ) from None
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{file or usual} does not hold torch-fidelity's Inception weights: {first}") from None
    return net, file or usual


def _harmless(file: Path) -> None:
    """ValueError if the file is not there, or holds more than tensors: it is read by pickle."""
    try:
        torch.load(file, map_location="meta", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no {file}; evaluation.inception names torch-fidelity's weights file") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{file} does not hold torch-fidelity's Inception weights: {first}") from None
