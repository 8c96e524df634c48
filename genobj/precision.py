"""Float32 that is float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Full float32 inside: no autocast, and on GPUs no TF32, which convolutions use by default. What was set before
    is set again afterwards; cuDNN itself stays as it is.
    """
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    known, gpu = device.type in ("cpu", "cuda"), device.type == "cuda"
    plain: AbstractContextManager[object] = torch.autocast(device.type, enabled=False) if known else nullcontext()
    if not gpu:
        with plain:
            yield
        return
    before = matmul.allow_tf32, convolution.allow_tf32
    try:
        matmul.allow_tf32 = False
        convolution.allow_tf32 = False  # pyright: ignore[reportAttributeAccessIssue]
        with plain:
            yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before  # pyright: ignore[reportAttributeAccessIssue]
