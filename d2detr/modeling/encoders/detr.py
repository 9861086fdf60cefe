"""The encoder of DETR (Carion et al., ECCV 2020; appendix A.3)."""

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from d2detr.layers import MLP, MultiheadAttention, TransformerLayer
from d2detr.modeling.encoders.encoder import ENCODER_REGISTRY, Encoder
from d2detr.modeling.queries import Memory


class DETREncoderLayer(TransformerLayer):
    """Self-attention among the cells of the feature map, then the feed-forward part."""

    def __init__(self, *, embed_dim: int, num_heads: int = 8, dropout: float = 0.1, **shared: Any):
        super().__init__(embed_dim=embed_dim, dropout=dropout, **shared)
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(self, src: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        def self_attention(x: Tensor) -> Tensor:
            query = x + pos
            return self.self_attn(query, query, x, mask)

        src = self.residual(src, self.norm1, self_attention)
        return self.residual(src, self.norm2, self.feedforward)


@ENCODER_REGISTRY.register("detr")
class DETREncoder(Encoder):
    """Every cell attends to every other.

    Args:
        embed_dim: width D of all tokens.
        scales_positions: multiply the position encoding, before each layer, with what a small
            network makes of the cells (DAB-DETR).
        options: see :class:`Encoder`.
    """

    @configurable
    def __init__(self, *, embed_dim: int = 256, scales_positions: bool = False, **options: Any):
        super().__init__(embed_dim=embed_dim, **options)
        self.position_scale = MLP(embed_dim, embed_dim, embed_dim, 2) if scales_positions else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {**super().from_config(cfg), "scales_positions": detr.ENC_SCALES_POSITIONS}

    def make_layer(self, **options: Any) -> nn.Module:
        return DETREncoderLayer(**options)

    def forward(self, cells: Memory) -> Memory:
        tokens, pos = cells.tokens, cells.pos
        for layer in self.layers:
            if self.position_scale is not None:
                pos = cells.pos * self.position_scale(tokens)
            tokens = layer(tokens, pos, cells.mask)
        return cells._replace(tokens=self.norm(tokens))
