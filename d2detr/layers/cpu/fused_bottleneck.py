import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor

from d2detr.layers.cpu.frozen_norm import FoldedConv2d, is_captured


class FusedBottleneck(BottleneckBlock):
    """Detectron2's block, whose last convolution adds the shortcut: on a CPU, without gradients.

    That spares a copy of the block's largest tensor and two passes over it; the result is the same
    to the last bit. Without a convolution in the shortcut, the input is overwritten.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._can_fuse(x):
            return super().forward(x)
        out = self.conv1(x).relu_()
        out = self.conv2(out).relu_()
        shortcut = x if self.shortcut is None else self.shortcut(x)
        conv = self.conv3
        geometry = [list(y) for y in (conv.padding, conv.stride, conv.dilation)]
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, out, *conv.folded(), *geometry, conv.groups, "add", 1.0, "relu", [], ""
        )

    def _can_fuse(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not (torch.is_grad_enabled() and self._has_gradients(x))
            and not torch.is_autocast_enabled("cpu")
            and not is_captured()
            and torch.backends.mkldnn.is_available()
            # Of the last convolution, which is not called.
            and not (self.conv3._forward_hooks or self.conv3._forward_pre_hooks)
        )

    def _has_gradients(self, x: Tensor) -> bool:
        return x.requires_grad or any(p.requires_grad for p in self.parameters())


def fuse_bottlenecks(backbone: ResNet) -> None:
    """Fuse the blocks of folded convolutions whose input nobody else reads, in place."""
    for stage in backbone.stages:
        for index, block in enumerate(stage):
            is_private = block.shortcut is not None or index > 0
            if (
                type(block) is BottleneckBlock
                and is_private
                and isinstance(block.conv3, FoldedConv2d)
            ):
                block.__class__ = FusedBottleneck
