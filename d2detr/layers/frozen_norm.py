import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn


class FoldedConv2d(Conv2d):
    """Detectron2's Conv2d, with its frozen normalisation folded into weight and bias.

    Scaling the weight instead of the output saves a pass over the output, and in training the
    memory for it. Gradients, parameters and state dict stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def train(self, mode: bool = True) -> "FoldedConv2d":
        self._cache = None
        return super().train(mode)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution and the normalisation in one."""
        needs_grad = self.weight.requires_grad and torch.is_grad_enabled()
        if needs_grad or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._fold()
        sources = (self.weight, *self.norm.buffers())
        if any(x.is_inference() for x in sources):  # their changes are not counted
            return self._fold()
        key = [(x.data_ptr(), x._version, x.device, x.dtype) for x in sources]
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = key, self._fold()
        return self._cache[1]

    def _fold(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        return self.weight * scale[:, None, None, None], bias


def fold_frozen_norms(module: nn.Module) -> None:
    """Fold every frozen normalisation below ``module`` that follows a convolution, in place."""
    for conv in module.modules():
        if type(conv) is Conv2d and isinstance(conv.norm, FrozenBatchNorm2d):
            conv.__class__ = FoldedConv2d
            conv._cache = None
