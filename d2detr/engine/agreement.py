"""Whether the processes of a training start from the same state."""

import zlib

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from d2detr.errors import UserError

_ITERATION = "the iteration to start from"


def check_same_start(model: nn.Module, start_iter: int) -> None:
    """Check that all processes hold the same parameters and buffers, and start at one iteration.

    Processes that start apart stay apart without a sign of it, because only gradients are shared.
    All of them must call this. It reads every tensor once, on the CPU.

    Args:
        model: as it is after its weights are loaded or resumed.
        start_iter: the first iteration.

    Raises:
        UserError: in all processes; names the first that differs from rank 0, and a tensor.
    """
    if comm.get_world_size() == 1:
        return
    tensors = model.state_dict().items()
    own = {name: _checksum(value) for name, value in tensors if isinstance(value, Tensor)}
    first, *others = comm.all_gather({_ITERATION: start_iter, **own})
    for rank, other in enumerate(others, start=1):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            raise UserError(
                f"The processes would train apart: rank {rank} differs from rank 0 in "
                f"{len(names)} of {len({**first, **other})} values, first in {names[0]}. Every "
                "process must register the same datasets with the same classes, read the same "
                "MODEL.WEIGHTS and, to resume, see the same OUTPUT_DIR: with several machines, "
                "put it on a disk that they share."
            )


def _checksum(tensor: Tensor) -> tuple[int, ...]:
    values = tensor.detach().cpu().flatten().view(torch.uint8).numpy()
    return (*tensor.shape, zlib.crc32(values.data))
