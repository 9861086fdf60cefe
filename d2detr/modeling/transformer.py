"""The encoder-decoder of DETR (paper, section 3.2 and appendix A.3), batch first."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import MultiheadAttention, dropout, project_memory, relu_dropout


class TransformerLayer(nn.Module):
    """What encoder and decoder layers share: the feed-forward part and the residual connection."""

    def __init__(self, *, embed_dim: int, feedforward_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.dropout = dropout

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add ``sublayer(x)`` to ``x``, normalising before the sub-layer or after the sum."""
        if self.pre_norm:
            return x + dropout(sublayer(norm(x)), self.dropout, self.training)
        return norm(x + dropout(sublayer(x), self.dropout, self.training))

    def feedforward(self, x: Tensor) -> Tensor:
        return self.linear2(relu_dropout(self.linear1(x), self.dropout, self.training))


class EncoderLayer(TransformerLayer):
    """Self-attention among the cells of the feature map, then the feed-forward part."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float, **shared):
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


class DecoderLayer(TransformerLayer):
    """Self-attention among queries, attention to the memory, then the feed-forward part."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float, **shared):
        super().__init__(embed_dim=embed_dim, dropout=dropout, **shared)
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self, tgt: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Refine what the queries hold.

        Args:
            tgt: (B, Q, D), or (1, 1, D) in inference if all queries hold the same.
            query_pos: (B, Q, D) object queries.
            key: (B, S, D) of the memory, projected.
            value: (B, S, D) of the memory, projected.
            mask: (B, S) True at unpadded cells, or None where nothing is padded.
        """

        def self_attention(x: Tensor) -> Tensor:
            if x.shape[1] < query_pos.shape[1]:
                return self.self_attn.attend_to_one(x)
            query = x + query_pos
            return self.self_attn(query, query, x, None)

        def cross_attention(x: Tensor) -> Tensor:
            return self.multihead_attn.attend_projected(x + query_pos, key, value, mask)

        tgt = self.residual(tgt, self.norm1, self_attention)
        tgt = self.residual(tgt, self.norm2, cross_attention)
        return self.residual(tgt, self.norm3, self.feedforward)


class Encoder(nn.Module):
    """A stack of encoder layers; with pre-norm layers the output is normalised once more."""

    def __init__(self, *, num_layers: int, embed_dim: int, pre_norm: bool, **shared):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dim=embed_dim, pre_norm=pre_norm, **shared)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim) if pre_norm else nn.Identity()

    def forward(self, src: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            src = layer(src, pos, mask)
        return self.norm(src)


class Decoder(nn.Module):
    """Object queries and the decoder layers that turn them into one embedding per object."""

    def __init__(self, *, num_layers: int, num_queries: int, embed_dim: int, **shared):
        super().__init__()
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.layers = nn.ModuleList(
            DecoderLayer(embed_dim=embed_dim, **shared) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, memory: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        query_pos = self.query_embed.weight.expand(len(memory), -1, -1)
        # All queries start from zero. Without dropout they stay alike until the first layer looks
        # at the image.
        tgt = torch.zeros_like(query_pos if self.training else query_pos[:1, :1])
        attentions = [layer.multihead_attn for layer in self.layers]
        projected = project_memory(attentions, memory + pos, memory)
        hs = []
        for layer, (key, value) in zip(self.layers, projected, strict=True):
            tgt = layer(tgt, query_pos, key, value, mask)
            hs.append(self.norm(tgt))
        return torch.stack(hs)


class Transformer(nn.Module):
    """DETR's transformer, from feature map to object embeddings.

    Args:
        embed_dim: width D of all tokens.
        num_heads: attention heads; must divide ``embed_dim``.
        num_encoder_layers: 0 leaves the feature map as it is.
        num_decoder_layers: L, at least 1.
        num_queries: Q, the most objects that can be found in an image.
        feedforward_dim: hidden width of the feed-forward parts.
        dropout: probability of dropping attention weights, hidden units and residual branches.
        pre_norm: normalise before each sub-layer instead of after it.

    Raises:
        UserError: the settings do not fit together.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        num_queries: int = 100,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ):
        super().__init__()
        _check_sizes(embed_dim, num_heads, num_encoder_layers, num_decoder_layers, num_queries)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        shared = {
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "feedforward_dim": feedforward_dim,
            "dropout": dropout,
            "pre_norm": pre_norm,
        }
        self.encoder = Encoder(num_layers=num_encoder_layers, **shared)
        self.decoder = Decoder(num_layers=num_decoder_layers, num_queries=num_queries, **shared)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.endswith("query_embed.weight"):
                nn.init.xavier_uniform_(parameter)

    def forward(self, src: Tensor, pos: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode a feature map and decode the queries.

        Args:
            src: (B, HW, D) projected features.
            pos: (B, HW, D) position encoding.
            mask: (B, HW) True at unpadded cells, or None where nothing is padded.

        Returns:
            hs (L, B, Q, D), the normalised output of every decoder layer; memory (B, HW, D).
        """
        memory = self.encoder(src, pos, mask)
        return self.decoder(memory, pos, mask), memory


def _check_sizes(
    embed_dim: int, num_heads: int, encoder_layers: int, decoder_layers: int, num_queries: int
) -> None:
    if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
        raise UserError(
            f"MODEL.DETR.HIDDEN_DIM {embed_dim} is not divisible by MODEL.DETR.NHEADS {num_heads}: "
            "every attention head needs an equal share of the features."
        )
    for key, value, least in (
        ("ENC_LAYERS", encoder_layers, 0),
        ("DEC_LAYERS", decoder_layers, 1),
        ("NUM_OBJECT_QUERIES", num_queries, 1),
    ):
        if value < least:
            raise UserError(f"MODEL.DETR.{key} is {value}, but must be at least {least}.")
