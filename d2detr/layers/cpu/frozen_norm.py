from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class FoldedConv2d(Conv2d):
    """Detectron2's Conv2d, with its frozen normalisation folded into weight and bias.

    Scaling the weight instead of the output saves a pass over the output. Gradients, parameters and
    state dict stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        geometry = self.stride, self.padding, self.dilation, self.groups
        # Autocast must see a plain convolution to cast it.
        is_cast = torch.is_autocast_enabled(x.device.type)
        if self._learns() and not (is_cast or is_captured()):
            x = _ScaledConv.apply(x, self.weight, *self._scale_and_bias(), *geometry)
        else:
            x = F.conv2d(x, *self.folded(), *geometry)
        return x if self.activation is None else self.activation(x)

    def train(self, mode: bool = True) -> "FoldedConv2d":
        self._cache = None
        return super().train(mode)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution and the normalisation in one."""
        if self._learns() or is_captured():
            return self._fold()
        sources = (self.weight, *self.norm.buffers())
        if any(x.is_inference() for x in sources):  # their changes are not counted
            return self._fold()
        key = [(x.data_ptr(), x._version, x.device, x.dtype) for x in sources]
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = key, self._fold()
        return self._cache[1]

    def _learns(self) -> bool:
        return self.weight.requires_grad and torch.is_grad_enabled()

    def _fold(self) -> tuple[Tensor, Tensor]:
        scale, bias = self._scale_and_bias()
        return self.weight * scale[:, None, None, None], bias

    def _scale_and_bias(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        return scale, bias


def is_captured() -> bool:
    """Whether torch is tracing or compiling, and must see plain operators on the weights."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class _ScaledConv(torch.autograd.Function):
    """A convolution with ``scale * weight``, which it does not keep for the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, *geometry: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry = geometry
        return F.conv2d(x, weight * scale[:, None, None, None], bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        *geometry, groups = ctx.geometry
        scale = scale[:, None, None, None]
        wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight * scale, [len(weight)], *geometry, False, [0, 0], groups, wanted
        )
        return grad_x, grad_weight.mul_(scale), None, grad_bias, None, None, None, None


def fold_frozen_norms(module: nn.Module) -> None:
    """Fold every frozen normalisation below ``module`` that follows a convolution, in place."""
    for conv in module.modules():
        if type(conv) is Conv2d and isinstance(conv.norm, FrozenBatchNorm2d):
            conv.__class__ = FoldedConv2d
            conv._cache = None
