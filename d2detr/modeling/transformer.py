"""The encoder of DETR and its transformer (paper, section 3.2 and appendix A.3), batch first."""

from typing import Any

from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import MLP, MultiheadAttention, TransformerLayer
from d2detr.modeling.decoders import Decoder
from d2detr.modeling.heads import PredictionHeads
from d2detr.modeling.proposals import Proposals
from d2detr.modeling.queries import Decoded, Memory, Queries


class EncoderLayer(TransformerLayer):
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


class Encoder(nn.Module):
    """A stack of encoder layers; with pre-norm layers the output is normalised once more.

    Args:
        num_layers: 0 leaves the feature map as it is.
        embed_dim: width D of all tokens.
        pre_norm: see :class:`TransformerLayer`.
        scales_positions: multiply the position encoding, before each layer, with what a small
            network makes of the cells (DAB-DETR).
        layer_options: ``num_heads``, ``feedforward_dim``, ``dropout`` and ``activation``.

    Raises:
        UserError: an argument makes no sense.
    """

    def __init__(
        self,
        *,
        num_layers: int = 6,
        embed_dim: int = 256,
        pre_norm: bool = False,
        scales_positions: bool = False,
        **layer_options: Any,
    ):
        super().__init__()
        if num_layers < 0:
            raise UserError(f"num_layers of the encoder is {num_layers}, but must be at least 0.")
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dim=embed_dim, pre_norm=pre_norm, **layer_options)
            for _ in range(num_layers)
        )
        self.position_scale = MLP(embed_dim, embed_dim, embed_dim, 2) if scales_positions else None
        self.norm = nn.LayerNorm(embed_dim) if pre_norm else nn.Identity()

    def forward(self, cells: Memory) -> Memory:
        """Encode a feature map."""
        tokens, pos = cells.tokens, cells.pos
        for layer in self.layers:
            if self.position_scale is not None:
                pos = cells.pos * self.position_scale(tokens)
            tokens = layer(tokens, pos, cells.mask)
        return cells._replace(tokens=self.norm(tokens))


class Transformer(nn.Module):
    """From feature map to object embeddings.

    Args:
        encoder: of the same width as ``decoder``.
        decoder: any; decides the width D of all tokens and the number of queries.
        proposals: gives queries that are boxes their places; None leaves them where they start.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, proposals: Proposals | None = None):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        embeddings = {x.weight for x in self.modules() if isinstance(x, nn.Embedding)}
        for parameter in self.parameters():
            if parameter.dim() > 1 and parameter not in embeddings:
                nn.init.xavier_uniform_(parameter)
        self.proposals = proposals  # whose heads keep their own initial values

    def forward(
        self, cells: Memory, queries: Queries, heads: PredictionHeads
    ) -> tuple[Decoded, Memory]:
        """Encode a feature map and decode queries; returns the latter, and the encoder's memory."""
        memory = self.encoder(cells)
        if self.proposals is None:
            return self.decoder(queries, memory, heads), memory
        queries, proposed = self.proposals(queries, memory)
        return self.decoder(queries, memory, heads)._replace(proposed=proposed), memory
