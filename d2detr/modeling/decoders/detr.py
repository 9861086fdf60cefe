"""The decoder of DETR (Carion et al., ECCV 2020; section 3.2 and appendix A.3)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.layers import MultiheadAttention, TransformerLayer
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY, Decoder
from d2detr.modeling.queries import Memory, Queries


class ProjectedMemory(NamedTuple):
    """The memory as one layer's attention reads it: (B, S, D) keys and values, and their mask."""

    key: Tensor
    value: Tensor
    mask: Tensor | None


class DETRDecoderLayer(TransformerLayer):
    """Self-attention among queries, attention to the memory, then the feed-forward part."""

    def __init__(self, *, embed_dim: int, num_heads: int = 8, dropout: float = 0.1, **shared: Any):
        super().__init__(embed_dim=embed_dim, dropout=dropout, **shared)
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self, content: Tensor, position: Tensor, memory: ProjectedMemory, query_mask: Tensor | None
    ) -> Tensor:
        """Refine what the queries hold.

        Args:
            content: (B, Q, D), or (1, 1, D) in inference if all queries hold the same.
            position: (B, Q, D) object queries.
            memory: for this layer.
            query_mask: (Q, Q) True where a query may attend to another, or None for everywhere.
        """

        def self_attention(x: Tensor) -> Tensor:
            if x.shape[1] < position.shape[1]:
                return _attend_to_one(self.self_attn, x)
            query = x + position
            return self.self_attn(query, query, x, None, query_mask)

        def cross_attention(x: Tensor) -> Tensor:
            return _attend_to_projected(self.multihead_attn, x + position, memory)

        content = self.residual(content, self.norm1, self_attention)
        content = self.residual(content, self.norm2, cross_attention)
        return self.residual(content, self.norm3, self.feedforward)


@DECODER_REGISTRY.register("detr")
class DETRDecoder(Decoder):
    """Queries are learned positions, added wherever a layer asks or is asked."""

    def make_layer(self, index: int, **options: Any) -> nn.Module:
        return DETRDecoderLayer(**options)

    def start(self, batch_size: int) -> Queries:
        position = self.query_embed.weight.expand(batch_size, -1, -1)
        # All queries start from zero. Without dropout they stay alike until the first layer looks
        # at the image.
        return Queries(torch.zeros_like(position if self.training else position[:1, :1]), position)

    def views(self, memory: Memory) -> Sequence[ProjectedMemory]:
        """Project the memory for all layers in two products, not in two per layer."""
        attentions = [layer.multihead_attn for layer in self.layers]
        weights = [x.in_proj_weight.split(self.embed_dim) for x in attentions]
        biases = [x.in_proj_bias.split(self.embed_dim) for x in attentions]
        keys, values = (
            F.linear(x, torch.cat([w[part] for w in weights]), torch.cat([b[part] for b in biases]))
            for part, x in ((1, memory.tokens + memory.pos), (2, memory.tokens))
        )
        return [
            ProjectedMemory(key, value, memory.mask)
            for key, value in zip(
                keys.split(self.embed_dim, -1), values.split(self.embed_dim, -1), strict=True
            )
        ]


def _attend_to_projected(
    attention: MultiheadAttention, query: Tensor, memory: ProjectedMemory
) -> Tensor:
    weight, bias = (
        x[: query.shape[-1]] for x in (attention.in_proj_weight, attention.in_proj_bias)
    )
    q = F.linear(query, weight, bias)
    return attention.out_proj(attention.attend(q, memory.key, memory.value, memory.mask))


def _attend_to_one(attention: MultiheadAttention, value: Tensor) -> Tensor:
    """What any query gets from attending, without dropout, to values (..., D) that are the same."""
    weight, bias = (
        x[-value.shape[-1] :] for x in (attention.in_proj_weight, attention.in_proj_bias)
    )
    return attention.out_proj(F.linear(value, weight, bias))
