import torch
from torch import Tensor, nn

from d2detr.layers.attention import ScaledDotProduct
from d2detr.layers.cpu.dropout import dropout


class DroppingScaledDotProduct(ScaledDotProduct):
    """Attention with the faster dropout, since torch has no fused kernel for this on a CPU."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if not (self.training and self.dropout and q.device.type == "cpu"):
            return super().attend(q, k, v, mask)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if mask is not None:
            weights = weights.masked_fill(~mask, -torch.inf)
        return dropout(weights.softmax(-1), self.dropout) @ v


def replace_attention(network: nn.Module) -> None:
    """Give every attention below ``network`` the faster dropout, in place."""
    for module in network.modules():
        if type(module) is ScaledDotProduct:
            module.__class__ = DroppingScaledDotProduct
