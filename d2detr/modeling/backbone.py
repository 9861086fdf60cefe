"""Detectron2's backbones as DETR needs them, and the padding of their features."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet, build_backbone
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import Tensor, nn

from d2detr.errors import UserError

DC5_FIRST_BLOCKS = ("auto", "dilated", "undilated")


def build_detr_backbone(cfg: CfgNode) -> Backbone:
    """Build the backbone that ``cfg.MODEL.BACKBONE.NAME`` names.

    With ``RESNETS.RES5_DILATION: 2`` Detectron2 dilates the 3x3 convolutions of all blocks of res5.
    That of the first block stays so only if ``DETR.DC5_FIRST_BLOCK`` is "dilated": in torchvision
    and therefore in the DC5 weights of DETR its dilation is 1.

    Raises:
        UserError: ``DETR.DC5_FIRST_BLOCK`` has no such value.
    """
    first_block = cfg.MODEL.DETR.DC5_FIRST_BLOCK
    if first_block not in DC5_FIRST_BLOCKS:
        raise UserError(
            f"MODEL.DETR.DC5_FIRST_BLOCK is {first_block!r}; choose from "
            f"{', '.join(DC5_FIRST_BLOCKS)}."
        )
    backbone = build_backbone(cfg)
    if res5_dilation(backbone) > 1:
        dilate_first_block(backbone, first_block == "dilated")
    return backbone


def res5_dilation(backbone: Backbone) -> int:
    """Return the dilation of a ResNet's last stage: 2 for DC5, else 1."""
    return backbone.res5[-1].conv2.dilation[0] if _has_res5(backbone) else 1


def dilates_first_block(backbone: Backbone) -> bool:
    """Whether the 3x3 convolution of the first block of res5 is dilated."""
    return _has_res5(backbone) and backbone.res5[0].conv2.dilation[0] > 1


def dilate_first_block(backbone: Backbone, dilated: bool) -> None:
    """Dilate the 3x3 convolution of the first block of res5 like the other blocks', or not."""
    conv, dilation = backbone.res5[0].conv2, res5_dilation(backbone) if dilated else 1
    conv.dilation = conv.padding = (dilation, dilation)


def _has_res5(backbone: Backbone) -> bool:
    return isinstance(backbone, ResNet) and hasattr(backbone, "res5")


class PatchStem(CNNBlockBase):
    """Patches of 4 x 4 pixels, projected to ``out_channels`` and normalised; pads to whole ones."""

    def __init__(self, in_channels: int, out_channels: int, norm: Callable[[int], nn.Module]):
        super().__init__(in_channels, out_channels, stride=4)
        self.conv = Conv2d(in_channels, out_channels, 4, stride=4, norm=norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        # The convolution does not read what goes beyond whole patches, and compilers reason about
        # sizes without remainders in a fraction of the time.
        return F.relu_(self.conv(F.pad(x, (0, 3, 0, 3))))


@BACKBONE_REGISTRY.register()
def build_tiny_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet of two basic blocks for small images and training from scratch.

    Its features are "stem" (stride 4), "res2" (8) and "res3" (16). Normalisation is GroupNorm:
    frozen statistics need pretrained weights, and batch statistics larger batches than a small
    machine trains on. Only ``MODEL.RESNETS.OUT_FEATURES`` is read.
    """
    channels = (32, 64, 96)

    def norm(num_channels: int) -> nn.Module:
        return nn.GroupNorm(8, num_channels)

    stem = PatchStem(input_shape.channels, channels[0], norm)
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, stride=2, in_channels=before, out_channels=after, norm=norm
        )
        for before, after in zip(channels, channels[1:], strict=False)
    ]
    return ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_tiny_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid on the tiny ResNet, for Detectron2's own detectors to compare with.

    Its features are "p2" (stride 4), "p3" (8) and "p4" (16), as far as ``MODEL.FPN.IN_FEATURES``
    names those that they are made of; ``MODEL.RESNETS.OUT_FEATURES`` must name the same.
    """
    return FPN(
        build_tiny_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def feature_padding_mask(image_sizes: Sequence | Tensor, padded: Tensor, feature: Tensor) -> Tensor:
    """Tell which cells of a feature map are padding.

    A cell is padding if the pixel nearest to it is, which for most mixed batches differs from
    ``ceil(size / stride)``; the released weights are trained with the former.

    Args:
        image_sizes: B pairs of height and width before padding, or a tensor (B, 2) of them.
        padded: (B, C, H, W) the batch of padded images.
        feature: (B, D, h, w) feature map of the batch.

    Returns:
        (B, h, w) bool, True at padding.
    """
    if isinstance(image_sizes, Tensor):
        sizes = image_sizes
    else:
        rows = [torch.stack([torch.as_tensor(side) for side in size]) for size in image_sizes]
        sizes = torch.stack(rows)
    sizes = sizes.to(padded.device, non_blocking=True)
    rows, columns = (_nearest_pixel(padded, feature, dim) for dim in (-2, -1))
    inside_rows = rows < sizes[:, :1]
    inside_columns = columns < sizes[:, 1:]
    return ~(inside_rows[:, :, None] & inside_columns[:, None, :])


def _nearest_pixel(padded: Tensor, feature: Tensor, dim: int) -> Tensor:
    pixels = torch.arange(padded.shape[dim], dtype=torch.float32, device=padded.device)
    return F.interpolate(pixels[None, None], size=(feature.shape[dim],), mode="nearest")[0, 0]
