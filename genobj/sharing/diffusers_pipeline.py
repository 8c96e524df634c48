"""genobj models as pipelines of diffusers. Importing this file imports diffusers, which takes seconds.

`Pretrained.pipeline()` makes one; `save_pretrained` writes it and `GenobjPipeline.from_pretrained` reads it. The folder
below it, `network`, is an exported folder of genobj, so that loading is as strict as it is everywhere.
`DiffusionPipeline.from_pretrained` cannot read it: diffusers looks for the pipeline's class among its own only.
"""

from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from genobj import hub
from genobj.autoencoders import pixels
from genobj.images import to_uint8
from genobj.sharing.folder import store
from genobj.sharing.pretrained import Pretrained, opened


class GenobjModel(ModelMixin, ConfigMixin):
    """A network of genobj as a component of a pipeline."""

    config_name = hub.SETTINGS

    def __init__(self, source: Pretrained):
        super().__init__()
        self.net, self.source = source.model, source
        self.register_to_config(weights=source.weights, shape=list(source.settings.shape))

    def save_pretrained(self, save_directory: str | PathLike[str], **_: Any) -> None:  # type: ignore[override]
        """Write config.json and model.safetensors as `genobj export` does; what else diffusers says is left out."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        store(folder, self.source, "float32")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | PathLike[str], **_: Any
    ) -> "GenobjModel":
        """Read an exported folder, strictly, to the CPU in float32. ValueError as `genobj.load` raises."""
        return cls(opened(Path(pretrained_model_name_or_path), "ema", torch.device("cpu")))


class GenobjPipeline(DiffusionPipeline):
    """Noise to images with a network of genobj. ValueError for a model of points."""

    model_cpu_offload_seq = "network"

    def __init__(self, network: GenobjModel):
        super().__init__()
        if len(network.source.settings.shape) != 3:
            raise ValueError("diffusers makes images, and this model makes points; use model.sample")
        self.register_modules(network=network)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 1,
        class_labels: int | list[int] | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
    ) -> ImagePipelineOutput:
        """`batch_size` images.

        num_inference_steps: network evaluations without guidance; class_labels: one for all or one each, all of them in
        turn if not given; generator: of all noise; latents: (batch_size, *shape) standard normal noise to start from;
        output_type: PIL images, an array (n, H, W, C) in [0, 1], or a tensor (n, C, H, W) in [0, 1].
        """
        source, device = self.network.source, self.device
        shape = (batch_size, *source.settings.shape)
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}, this call wants {shape}")
        y = source.labels(batch_size, class_labels)
        y = source.labels_of(range(batch_size)) if y is None else y

        def fresh(_: int = 0) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device if generator else "cpu").to(device)

        samples = source.sampler(num_inference_steps, guidance_scale)(
            self.network.net,
            fresh() if latents is None else latents.to(device),
            None if y is None else y.to(device),
            path=source.settings.path,
            null=source.settings.classes or None,
            noise=fresh,
            keep=False,
        ).samples
        return ImagePipelineOutput(images=_as(pixels(source.settings, samples, device).cpu(), output_type))


def pipeline(source: Pretrained) -> GenobjPipeline:
    """A pipeline of a model, which it shares."""
    return GenobjPipeline(GenobjModel(source))


def _as(x: Tensor, kind: str) -> Any:
    if kind == "pt":
        return (x.clamp(-1, 1) + 1) / 2
    if kind == "np":
        return ((x.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    from PIL import Image

    arrays = to_uint8(x).permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]
