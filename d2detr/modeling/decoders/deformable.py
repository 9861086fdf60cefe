"""The decoder of Deformable DETR (Zhu et al., ICLR 2021), also two-stage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import (
    DeformableAttention,
    MultiheadAttention,
    TransformerLayer,
    at_least_float32,
    sine_of_reference,
)
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY, Decoder
from d2detr.modeling.options import sampling_options
from d2detr.modeling.queries import Memory, Queries


class SampledMemory(NamedTuple):
    """The memory as deformable attention reads it.

    Attributes:
        tokens: (B, S, D).
        mask: (B, S) True at unpadded cells, or None where nothing is padded.
        shapes: rows and columns of each level.
        valid_ratios: (B, levels, 2) which share of each level's width and height is not padding.
    """

    tokens: Tensor
    mask: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor

    @classmethod
    def of(cls, memory: Memory) -> "SampledMemory":
        return cls(memory.tokens, memory.mask, memory.shapes, memory.valid_ratios())

    def in_levels(self, reference: Tensor) -> Tensor:
        """Return where references (B, Q, 2 or 4) are in every level: (B, Q, levels, 2 or 4)."""
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
        return reference[:, :, None] * ratios[:, None]


class SampledPlace(NamedTuple):
    """Where queries are.

    Attributes:
        position: (B, Q, D).
        reference: (B, Q, levels, 2 or 4).
    """

    position: Tensor
    reference: Tensor


class DeformableDecoderLayer(TransformerLayer):
    """Self-attention among queries, samples of the memory, then the feed-forward part."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int = 8,
        dropout: float = 0.1,
        num_levels: int = 4,
        num_points: int = 4,
        **shared: Any,
    ):
        super().__init__(embed_dim=embed_dim, dropout=dropout, **shared)
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.cross_attn = DeformableAttention(
            embed_dim, num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        content: Tensor,
        place: SampledPlace,
        memory: SampledMemory,
        query_mask: Tensor | None,
    ) -> Tensor:
        """Refine what the queries hold.

        Args:
            content: (B, Q, D).
            place: of the queries.
            memory: of the encoder.
            query_mask: (Q, Q) True where a query may attend to another, or None for everywhere.
        """

        def self_attention(x: Tensor) -> Tensor:
            query = x + place.position
            return self.self_attn(query, query, x, None, query_mask)

        def cross_attention(x: Tensor) -> Tensor:
            return self.cross_attn(
                x + place.position, place.reference, memory.tokens, memory.mask, memory.shapes
            )

        content = self.residual(content, self.norm1, self_attention)
        content = self.residual(content, self.norm2, cross_attention)
        return self.residual(content, self.norm3, self.feedforward)


class SamplingDecoder:
    """What decoders share whose layers sample the memory; stands before a :class:`Decoder`."""

    def make_layer(self, index: int, **options: Any) -> nn.Module:
        return DeformableDecoderLayer(**options)

    def views(self, memory: Memory) -> Sequence[SampledMemory]:
        return [SampledMemory.of(memory)] * len(self.layers)


@DECODER_REGISTRY.register("deformable")
class DeformableDecoder(SamplingDecoder, Decoder):
    """Queries sample the levels around a point, or around a box that every layer refines.

    Args:
        embed_dim: width D of all tokens.
        num_levels: feature maps.
        num_points: samples of every head in every level.
        refines: whether every layer refines the boxes that the next one samples around.
        two_stage: whether position and content of the queries follow from boxes that the encoder
            proposes, or are learned.
        options: see :class:`Decoder`.

    Raises:
        UserError: two stages without refinement.
    """

    looks_forward_twice = False
    takes_proposals = True
    reference_eps = 1e-5

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int = 256,
        refines: bool = False,
        two_stage: bool = False,
        **options: Any,
    ):
        if two_stage and not refines:
            raise UserError("two_stage needs layers that refine boxes, but refine_boxes is False.")
        super().__init__(
            embed_dim=embed_dim, query_dim=0 if two_stage else 2 * embed_dim, **options
        )
        self.refines = refines
        self.size_bias = 0.0 if two_stage else -2.0
        self.norm = nn.Identity()
        if two_stage:
            self.query_head = nn.Linear(2 * embed_dim, 2 * embed_dim)
            self.query_norm = nn.LayerNorm(2 * embed_dim)
        else:
            self.reference_head = nn.Linear(embed_dim, 2)
            nn.init.zeros_(self.reference_head.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {
            **super().from_config(cfg),
            **sampling_options(cfg),
            "refines": detr.REFINE_BOXES,
            "two_stage": detr.TWO_STAGE,
        }

    def start(self, batch_size: int) -> Queries:
        if self.query_embed is None:
            content = self.query_norm.weight.new_zeros(batch_size, self.num_queries, self.embed_dim)
            return Queries(content)
        queries = self.query_embed.weight.expand(batch_size, -1, -1)
        position, content = queries.split(self.embed_dim, -1)
        reference = at_least_float32(self.reference_head(position)).sigmoid()
        return Queries(content, position, reference)

    def start_from(self, boxes: Tensor, queries: Queries) -> Queries:
        """Make position and content of the boxes' coordinates."""
        x_first = sine_of_reference(boxes[..., [1, 0, 2, 3]], self.embed_dim // 2)
        made = self.query_norm(self.query_head(x_first))
        position, content = made.split(self.embed_dim, -1)
        return queries._replace(content=content, position=position, reference=boxes)

    def position(
        self,
        index: int,
        content: Tensor,
        queries: Queries,
        reference: Tensor,
        view: SampledMemory,
    ) -> SampledPlace:
        return SampledPlace(queries.position, view.in_levels(reference))
