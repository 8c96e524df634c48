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
from diffusers.utils.torch_utils import randn_tensor
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
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """`batch_size` images.

        num_inference_steps: network evaluations without guidance; class_labels: one for all or one each, all of them in
        turn if not given; generator: of all noise, one for all images or one each; latents: (batch_size, *shape)
        standard normal noise to start from; output_type: PIL images, an array (n, H, W, C) in [0, 1], or a tensor
        (n, C, H, W) in [0, 1]; return_dict: False gives a tuple. ValueError for what cannot be.
        """
        source, device = self.network.source, self.device
        shape = (batch_size, *source.settings.shape)
        if self.dtype != torch.float32:
            raise ValueError(f"this pipeline samples in float32, not in {self.dtype}; type pipe.to(torch.float32)")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators do not fit {batch_size} images: give one, or one each")
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}, this call wants {shape}")
        y = source.labels(batch_size, class_labels)
        y = source.labels_of(range(batch_size)) if y is None else y

        def fresh(_: int = 0) -> Tensor:
            return randn_tensor(shape, generator or None, None if generator else torch.device("cpu")).to(device)

        samples = source.sampler(num_inference_steps, guidance_scale)(
            self.network.net,
            fresh() if latents is None else latents.to(device),
            None if y is None else y.to(device),
            path=source.settings.path,
            null=source.settings.classes or None,
            noise=fresh,
            keep=False,
        ).samples
        images = _as(pixels(source.settings, samples, device).cpu(), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


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
