"""The encoder of Deformable DETR (Zhu et al., ICLR 2021; section 4.1)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from d2detr.layers import DeformableAttention, TransformerLayer
from d2detr.modeling.encoders.encoder import ENCODER_REGISTRY, Encoder
from d2detr.modeling.options import sampling_options
from d2detr.modeling.queries import Memory


class DeformableEncoderLayer(TransformerLayer):
    """Every cell samples all levels around itself, then the feed-forward part."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        **shared: Any,
    ):
        super().__init__(embed_dim=embed_dim, **shared)
        self.self_attn = DeformableAttention(
            embed_dim, num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        src: Tensor,
        pos: Tensor,
        reference: Tensor,
        mask: Tensor | None,
        shapes: tuple[tuple[int, int], ...],
    ) -> Tensor:
        """Refine what the cells hold.

        Args:
            src: (B, S, D).
            pos: (B, S, D).
            reference: (B, S, levels, 2) where each cell lies in every level, in [0, 1].
            mask: (B, S) True at unpadded cells, or None where nothing is padded.
            shapes: rows and columns of each level.
        """

        def self_attention(x: Tensor) -> Tensor:
            return self.self_attn(x + pos, reference, x, mask, shapes)

        src = self.residual(src, self.norm1, self_attention)
        return self.residual(src, self.norm2, self.feedforward)


@ENCODER_REGISTRY.register("deformable")
class DeformableEncoder(Encoder):
    """Cells sample all levels; an embedding of the level is part of each cell's position.

    Args:
        embed_dim: width D of all tokens.
        num_levels: feature maps.
        num_points: samples of every head in every level.
        options: see :class:`Encoder`.
    """

    @configurable
    def __init__(
        self, *, embed_dim: int = 256, num_levels: int = 4, num_points: int = 4, **options: Any
    ):
        super().__init__(
            embed_dim=embed_dim, num_levels=num_levels, num_points=num_points, **options
        )
        self.level_embed = nn.Embedding(num_levels, embed_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **sampling_options(cfg)}

    def make_layer(self, **options: Any) -> nn.Module:
        return DeformableEncoderLayer(**options)

    def forward(self, cells: Memory) -> Memory:
        """Encode cells; the position encoding of the result is that of ``cells``."""
        tokens, reference = cells.tokens, _reference(cells)
        levels = [
            embedding.expand(count, -1)
            for embedding, count in zip(self.level_embed.weight, cells.cells_per_level, strict=True)
        ]
        pos = cells.pos + torch.cat(levels)
        for layer in self.layers:
            tokens = layer(tokens, pos, reference, cells.mask, cells.shapes)
        return cells._replace(tokens=self.norm(tokens))


def _reference(cells: Memory) -> Tensor:
    """(B, S, levels, 2) the centre of every cell, relative to every level with its padding."""
    ratios = cells.valid_ratios()
    return cells.centres(ratios)[:, :, None] * ratios[:, None]
