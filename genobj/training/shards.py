"""Between whole tensors and their shards on one device (FSDP2's DTensor); plain tensors stay as they are.

torch.distributed.tensor takes 0.4 s to import, so it is imported only where a tensor of another class is met.
"""

from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)


def local(tensor: Tensor) -> Tensor:
    """The shard on this device."""
    if type(tensor) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """All shards together; every device of the mesh has to ask."""
    if type(tensor) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(shard: Tensor, like: Tensor) -> Tensor:
    """All shards together, given the one on this device of a tensor that is distributed as `like`."""
    if type(like) in PLAIN:
        return shard
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor), "parameters are plain tensors or DTensors"
    mesh, shape, stride = like.device_mesh, like.shape, like.stride()
    return gathered(DTensor.from_local(shard, mesh, like.placements, run_check=False, shape=shape, stride=stride))


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """The shard that belongs on this device, of a tensor that every device holds, as `like` is distributed."""
    if type(like) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor), "parameters are plain tensors or DTensors"
    copies = DTensor.from_local(tensor, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return copies.redistribute(placements=like.placements).to_local()
