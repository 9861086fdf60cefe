"""From feature maps to the cells that a transformer reads; DETR has one map, others several."""

from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.modeling.backbone import feature_padding_mask
from d2detr.modeling.queries import Memory

_GROUPS = 32  # of the GroupNorm of several levels


class OneLevel(nn.Conv2d):
    """The projection of one feature map (paper, section 3.2)."""

    def __init__(self, channels: int, embed_dim: int):
        super().__init__(channels, embed_dim, 1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Project one feature map (B, C, h, w) to (B, D, h, w)."""
        (feature,) = features
        return [super().forward(feature)]


class SeveralLevels(nn.ModuleList):
    """The projections of several feature maps, and of coarser ones made of the last (Zhu et al.).

    Args:
        channels: of every feature map, fine to coarse.
        embed_dim: width D of the projections; a multiple of 32.
        num_levels: of all maps; each of those beyond ``channels`` is half as fine as the one
            before.

    Raises:
        UserError: ``embed_dim`` cannot be normalised.
    """

    def __init__(self, channels: Sequence[int], embed_dim: int, num_levels: int):
        if embed_dim % _GROUPS:
            raise UserError(
                f"embed_dim is {embed_dim}, but the projections of several levels need a multiple "
                f"of {_GROUPS}."
            )
        convolutions = [nn.Conv2d(count, embed_dim, 1) for count in channels]
        inputs = [channels[-1], *[embed_dim] * num_levels]
        convolutions += [
            nn.Conv2d(count, embed_dim, 3, stride=2, padding=1)
            for count in inputs[: num_levels - len(channels)]
        ]
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        super().__init__(nn.Sequential(x, nn.GroupNorm(_GROUPS, embed_dim)) for x in convolutions)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Project feature maps (B, C, h, w) to (B, D, h, w), and add coarser ones."""
        maps = [project(x) for project, x in zip(self, features, strict=False)]
        coarsest = features[-1]
        for project in list(self)[len(features) :]:
            coarsest = project(coarsest)
            maps.append(coarsest)
        return maps


def check_in_features(in_features: Sequence[str], backbone: Backbone) -> None:
    """Check that a backbone gives features, from fine to coarse.

    Raises:
        UserError: there are none, some are missing, or they are in another order.
    """
    shapes = backbone.output_shape()
    if not in_features or not set(in_features) <= set(shapes):
        raise UserError(
            f"in_features are {list(in_features)}, but the backbone gives {sorted(shapes)}. For a "
            "ResNet, see MODEL.RESNETS.OUT_FEATURES."
        )
    strides = [shapes[name].stride for name in in_features]
    if strides != sorted(set(strides)):
        raise UserError(
            f"in_features are {list(in_features)} with strides {strides}, but must go from fine to "
            "coarse."
        )


def build_projection(
    channels: Sequence[int], embed_dim: int, num_levels: int
) -> OneLevel | SeveralLevels:
    """Build what projects feature maps to the width of the transformer.

    Args:
        channels: of every feature map, fine to coarse.
        embed_dim: width D of the transformer.
        num_levels: of all maps, at least as many as ``channels``.

    Raises:
        UserError: the numbers do not fit together.
    """
    if num_levels < len(channels):
        raise UserError(
            f"num_levels is {num_levels}, but there are {len(channels)} in_features already."
        )
    if num_levels == 1:
        return OneLevel(channels[0], embed_dim)
    return SeveralLevels(channels, embed_dim, num_levels)


def join_levels(
    maps: Sequence[Tensor], images: ImageList, position_encoding: nn.Module, has_padding: bool
) -> Memory:
    """Put the cells of all maps in one run, each with its position within its own map.

    Args:
        maps: (B, D, h, w) each, of the images.
        images: whose sizes tell what is padding.
        position_encoding: maps a padding mask (B, h, w) to an encoding (B, h, w, D).
        has_padding: False if nothing is padded.
    """
    paddings = [feature_padding_mask(images.image_sizes, images.tensor, x) for x in maps]
    positions = [
        position_encoding(padding).flatten(1, 2).to(x.dtype)
        for padding, x in zip(paddings, maps, strict=True)
    ]
    return Memory(
        tokens=_join([x.flatten(2).transpose(1, 2) for x in maps]),
        pos=_join(positions),
        mask=~_join([x.flatten(1) for x in paddings]) if has_padding else None,
        shapes=tuple(tuple(x.shape[-2:]) for x in maps),
    )


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
