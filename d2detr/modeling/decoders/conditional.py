"""The decoder of Conditional DETR (Meng et al., ICCV 2021)."""

from typing import Any, NamedTuple

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from d2detr.layers import (
    MLP,
    ConditionalCrossAttention,
    ContentPositionSelfAttention,
    TransformerLayer,
    at_least_float32,
    sine_of_reference,
)
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY, Decoder
from d2detr.modeling.queries import Memory, Queries


class Place(NamedTuple):
    """Where queries are, (B, Q, D) for other queries, and for the image (``spatial``)."""

    position: Tensor
    spatial: Tensor


class ConditionalLayer(TransformerLayer):
    """DETR's decoder layer, with content and position projected separately.

    Args:
        is_first: whether positions are added to contents in the attention to the memory, too.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int = 8,
        dropout: float = 0.1,
        is_first: bool = False,
        **shared: Any,
    ):
        super().__init__(embed_dim=embed_dim, dropout=dropout, **shared)
        self.self_attn = ContentPositionSelfAttention(embed_dim, num_heads, dropout)
        self.cross_attn = ConditionalCrossAttention(
            embed_dim, num_heads, dropout, adds_positions=is_first
        )
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self, content: Tensor, place: Place, memory: Memory, query_mask: Tensor | None
    ) -> Tensor:
        """Refine what the queries hold.

        Args:
            content: (B, Q, D).
            place: of the queries.
            memory: of the encoder.
            query_mask: (Q, Q) True where a query may attend to another, or None for everywhere.
        """

        def self_attention(x: Tensor) -> Tensor:
            return self.self_attn(x, place.position, query_mask)

        def cross_attention(x: Tensor) -> Tensor:
            return self.cross_attn(
                x, place.position, place.spatial, memory.tokens, memory.pos, memory.mask
            )

        content = self.residual(content, self.norm1, self_attention)
        content = self.residual(content, self.norm2, cross_attention)
        return self.residual(content, self.norm3, self.feedforward)


@DECODER_REGISTRY.register("conditional")
class ConditionalDecoder(Decoder):
    """Queries look at a point that follows from their learned position, in every layer anew."""

    reference_eps = 1e-5

    @configurable
    def __init__(self, *, embed_dim: int = 256, num_queries: int = 300, **options: Any):
        super().__init__(embed_dim=embed_dim, num_queries=num_queries, **options)
        self.content_scale = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.reference_head = MLP(embed_dim, embed_dim, 2, 2)

    def make_layer(self, index: int, **options: Any) -> nn.Module:
        return ConditionalLayer(is_first=index == 0, **options)

    def start(self, batch_size: int) -> Queries:
        position = self.query_embed.weight
        reference = at_least_float32(self.reference_head(position)).sigmoid()
        position = position.expand(batch_size, -1, -1)
        reference = reference.expand(batch_size, -1, -1)
        return Queries(torch.zeros_like(position), position, reference)

    def position(
        self, index: int, content: Tensor, queries: Queries, reference: Tensor, view: Any
    ) -> Place:
        """Place the queries; what they hold decides how much each feature of their point counts."""
        spatial = sine_of_reference(reference, self.embed_dim // 2)
        if index:
            spatial = spatial * self.content_scale(content)
        return Place(queries.position, spatial)
