"""Masks from attention maps (paper, section 4.4 and figure 8)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.modeling.queries import Memory


class AttentionMaps(nn.Module):
    """Where each object embedding attends in the encoder's memory: one map per head.

    There are no values to sum: the maps themselves are the output. Unlike in a transformer layer,
    the softmax is over heads and cells together, so that heads compete for an object.

    Args:
        embed_dim: width D of embeddings and memory.
        num_heads: number of maps; must divide ``embed_dim``.
    """

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(embed_dim, embed_dim)
        self.k_linear = nn.Linear(embed_dim, embed_dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, embeddings: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the maps.

        Args:
            embeddings: (B, Q, D).
            memory: (B, HW, D).
            mask: (B, HW) True at unpadded cells, or None where nothing is padded.

        Returns:
            (B, Q, heads, HW), non-negative, 0 at padding; the sum over heads and cells is 1.
        """
        q = self.q_linear(embeddings).unflatten(-1, (self.num_heads, -1))
        k = self.k_linear(memory).unflatten(-1, (self.num_heads, -1))
        weights = torch.einsum("bqnd,bsnd->bqns", q * q.shape[-1] ** -0.5, k)
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, None], -torch.inf)
        return weights.flatten(2).softmax(-1).view_as(weights)


class ConvNormReLU(nn.Module):
    """A 3x3 convolution, GroupNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 3)
        # 8 groups, or fewer in models too narrow for that.
        self.norm = nn.GroupNorm(math.gcd(8, out_channels), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class MaskInputs(NamedTuple):
    """What all masks of a batch have in common, computed once.

    Attributes:
        maps: (B, Q, heads, h, w) attention maps.
        context: (B, C, h, w) what the first convolution makes of the image's features.
        laterals: the projected finer features (B, C_i, H_i, W_i), coarse to fine.
    """

    maps: Tensor
    context: Tensor
    laterals: list[Tensor]


class MaskHead(nn.Module):
    """Attention maps, upsampled by small convolutions with the help of the finer features.

    A mask depends on its own query alone, so masks are only computed of queries that are asked
    for: the matched ones in training, the kept ones in inference.

    Args:
        embed_dim: width D of embeddings, memory and projected features.
        num_heads: attention maps per query; must divide ``embed_dim``.
        in_features: names of the backbone features to upsample with, coarse to fine.
        in_channels: their numbers of channels.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        in_features: Sequence[str],
        in_channels: Sequence[int],
    ):
        super().__init__()
        # Each of the 1 + F layers halves the width again: 256 becomes 128, 64, 32, 16.
        num_layers = len(in_features) + 1
        if embed_dim % 2**num_layers:
            raise UserError(
                f"embed_dim {embed_dim} is not divisible by {2**num_layers}, which a "
                f"mask head on {num_layers - 1} finer features needs."
            )
        widths = [embed_dim // 2**i for i in range(1, num_layers + 1)]
        self.in_features = tuple(in_features)
        self.attention = AttentionMaps(embed_dim, num_heads)
        self.first = ConvNormReLU(embed_dim + num_heads, embed_dim + num_heads)
        before = [embed_dim + num_heads, *widths[:-1]]
        self.layers = nn.ModuleList(map(ConvNormReLU, before, widths))
        self.adapters = nn.ModuleList(
            _conv(channels, width, 1)
            for channels, width in zip(in_channels, widths[:-1], strict=True)
        )
        self.predictor = _conv(widths[-1], 1, 3)

    @classmethod
    def for_backbone(
        cls, backbone: Backbone, in_feature: str, *, embed_dim: int, num_heads: int
    ) -> "MaskHead":
        """Build a head that uses all features of a backbone but that of the transformer.

        Raises:
            UserError: the backbone gives no other feature that is at least as fine.
        """
        shapes = backbone.output_shape()
        stride = shapes[in_feature].stride
        # sorted() keeps their order: with DC5, res4 and res5 have the same stride.
        names = sorted(
            (x for x in shapes if x != in_feature and shapes[x].stride <= stride),
            key=lambda name: shapes[name].stride,
        )[::-1]
        if not names:
            raise UserError(
                f"A mask_head needs backbone features that are finer than {in_feature!r} of "
                f"in_features, but the backbone gives only {sorted(shapes)}. For a ResNet set "
                "MODEL.RESNETS.OUT_FEATURES to ['res2', 'res3', 'res4', 'res5']."
            )
        return cls(
            embed_dim=embed_dim,
            num_heads=num_heads,
            in_features=names,
            in_channels=[shapes[name].channels for name in names],
        )

    def prepare(
        self,
        embeddings: Tensor,
        memory: Memory,
        src: Tensor,
        features: dict[str, Tensor],
    ) -> MaskInputs:
        """Compute what does not depend on which masks are asked for.

        Args:
            embeddings: (B, Q, D) of the last decoder layer.
            memory: what the encoder made of ``src``.
            src: (B, D, h, w) projected features that the transformer reads.
            features: the backbone's features, ``in_features`` among them.
        """
        maps = self.attention(embeddings, memory.tokens, memory.mask)
        conv = self.first.conv
        # The first convolution sees the features beside the maps. Features are the same for all
        # queries and convolutions are linear, so this larger part is done once per image.
        feature_weight = conv.weight[:, : src.shape[1]]
        return MaskInputs(
            maps=maps.unflatten(-1, src.shape[-2:]),
            context=F.conv2d(src, feature_weight, conv.bias, padding=1),
            laterals=[
                adapter(features[name])
                for adapter, name in zip(self.adapters, self.in_features, strict=True)
            ],
        )

    def forward(self, inputs: MaskInputs, image: Tensor, query: Tensor) -> Tensor:
        """Predict masks.

        Args:
            inputs: of :meth:`prepare`.
            image: (M,) index of each mask's image in the batch.
            query: (M,) index of its query.

        Returns:
            (M, H, W) logits, at the size of the finest feature.
        """
        maps = inputs.maps[image, query]
        map_weight = self.first.conv.weight[:, -maps.shape[1] :]
        x = inputs.context[image] + F.conv2d(maps, map_weight, padding=1)
        x = F.relu(self.first.norm(x))
        x = self.layers[0](x)
        for layer, lateral in zip(self.layers[1:], inputs.laterals, strict=True):
            x = layer(lateral[image] + F.interpolate(x, lateral.shape[-2:], mode="nearest"))
        return self.predictor(x).squeeze(1)


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)
    return conv
