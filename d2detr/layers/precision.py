import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return a float tensor of lower precision than float32 in float32, and others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
