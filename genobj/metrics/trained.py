"""A small residual classifier as feature space, where Inception is unfit or not at hand.

`genobj extractor train` makes the folder that `Trained` reads: extractor.json and extractor.safetensors. Distances on
its features compare only between users of one such folder, and are never called FID.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genobj.config.base import Config, problems
from genobj.metrics.features import Extractor, Look, Space, hash_of
from genobj.types import Samples

SETTINGS, WEIGHTS = "extractor.json", "extractor.safetensors"
COARSE = 24
"""Images with more rows are first looked at in steps of two, twice as many in steps of four, and so on."""


class Architecture(Config):
    """What rebuilds the network."""

    shape: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    """Channels, height and width of an image."""
    classes: Annotated[int, Field(ge=2)]
    """Labels."""
    width: Annotated[int, Field(gt=0, le=512)] = 32
    """Channels of the first stage; the features are four times as many."""


class Facts(Config):
    """What extractor.json holds."""

    network: Architecture
    """The network."""
    sha256: str
    """Of extractor.safetensors."""
    accuracy: Annotated[float, Field(ge=0, le=1)]
    """Share of held-out images recognised."""
    held_out: Annotated[int, Field(ge=0)]
    """Number of held-out images."""
    unseen: bool = True
    """Whether it never saw them; false where the data held nothing out, so that they are training images."""
    data: dict[str, Any]
    """Settings of the data that it learnt."""
    training: dict[str, Any]
    """How it was trained: seed, steps, batch, rate, versions."""


class Residual(nn.Module):
    """x + f(x) with two convolutions; a convolution of one pixel where sizes differ."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch more h w"]:
        """The block."""
        return torch.relu(self.skip(x) + self.body(x))


class SmallNet(nn.Module):
    """A first convolution, three residual blocks of 1, 2 and 4 times `width` channels, the mean over places, logits.

    310,000 parameters at width 32 for ten labels of colour images.
    """

    def __init__(self, settings: Architecture):
        super().__init__()
        (channels, height, wide), width = settings.shape, settings.width
        step = 1
        while min(height, wide) > COARSE * step:
            step *= 2
        self.first = nn.Sequential(
            nn.Conv2d(channels, width, 2 * step + 1, step, step, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        sizes = ((width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2))
        self.blocks = nn.Sequential(*(Residual(*size) for size in sizes))
        self.classify = nn.Linear(4 * width, settings.classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Samples) -> Look:
        """Features (divided by `scale`, so that their mean square is 1 on what was learnt) and logits."""
        features = self.blocks(self.first(x)).mean(dim=(2, 3))
        return Look(features / self.get_buffer("scale"), self.classify(features))


class Trained(Extractor):
    """A feature network of your own data, made by `genobj extractor train`."""

    path: Annotated[str, Field(min_length=1)] = "extractor"
    """Its folder."""

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """It sees images of the size that it learnt.

        A folder that is not there is refused when it is opened: a run can be read and sampled from without it.
        """
        network = self._network()
        if network is None or tuple(shape) == network.shape:
            return None
        return f"the extractor {self.path} sees shape {network.shape}, and this data has shape {tuple(shape)}."

    @property
    def classes(self) -> int | None:
        """Labels that it learnt; None if the folder is not there."""
        network = self._network()
        return None if network is None else network.classes

    def _network(self) -> Architecture | None:
        return self.facts().network if (Path(self.path) / SETTINGS).is_file() else None

    def facts(self) -> Facts:
        """What extractor.json says; ValueError if there is none or it is damaged."""
        file = Path(self.path) / SETTINGS
        try:
            return Facts.model_validate(json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"{self.path} is no folder of an extractor (it has no {SETTINGS}); make one: genobj extractor train "
                f"DATA --to {self.path}"
            ) from None
        except ValidationError as error:
            where, message = next(problems(error))
            raise ValueError(f"{file} does not describe an extractor: {where}: {message}") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{file} is damaged: {error}") from None

    def open(self, device: torch.device) -> Space:
        """The network; ValueError if its weights are not those that were written."""
        facts, file = self.facts(), Path(self.path) / WEIGHTS
        net = SmallNet(facts.network)
        try:
            found = hash_of(file)
            if found != facts.sha256:
                raise ValueError(f"its SHA-256 starts with {found[:8]}, {SETTINGS} says {facts.sha256[:8]}")
            net.load_state_dict(load_file(file), strict=True)
        except (SafetensorError, RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{file} does not hold this extractor's weights: {str(error).splitlines()[0]}") from None
        net.eval().requires_grad_(False).to(device)
        return Space("trained", found, 4 * facts.network.width, net, device)


def save(net: SmallNet, network: Architecture, folder: Path, **facts: Any) -> Facts:
    """Write the folder and return what its extractor.json says. facts: the other fields of Facts."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in net.state_dict().items()}, folder / WEIGHTS)
    whole = Facts(network=network, sha256=hash_of(folder / WEIGHTS), **facts)
    (folder / SETTINGS).write_text(json.dumps(whole.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    return whole
