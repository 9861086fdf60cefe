"""The focal loss (Lin et al., 2017) of classes that shall be absent."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _SumOfFocal(Function):
    """Loss and slope at once, row by row, for millions of logits would not fit into a cache."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gamma: float) -> Tensor:
        slopes = torch.empty_like(logits)
        sums = []
        for row, slope in zip(logits, slopes, strict=True):
            p, loss = row.sigmoid(), F.softplus(row)
            modulation = p**gamma
            torch.addcmul(loss, loss, p, value=-1, out=slope).mul_(gamma).add_(p).mul_(modulation)
            sums.append(loss.mul_(modulation).sum())
        ctx.save_for_backward(slopes)
        return torch.stack(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None], None


def sum_of_focal(logits: Tensor, gamma: float) -> Tensor:
    """Sum the focal loss of classes that shall be absent, without weights.

    It can be differentiated once.

    Args:
        logits: (L, ...).
        gamma: how much what is easy counts less.

    Returns:
        (L,) sums of sigmoid(logits) ** gamma * softplus(logits).
    """
    return _SumOfFocal.apply(logits.flatten(1), gamma)
