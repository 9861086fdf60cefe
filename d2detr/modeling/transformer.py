"""The transformer (paper, section 3.2), batch first."""

from torch import nn

from d2detr.layers import DeformableAttention
from d2detr.modeling.decoders import Decoder
from d2detr.modeling.encoders import Encoder
from d2detr.modeling.heads import Heads
from d2detr.modeling.proposals import Proposals
from d2detr.modeling.queries import Decoded, Memory, Queries


class Transformer(nn.Module):
    """From the cells of feature maps to object embeddings.

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
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        self.proposals = proposals  # whose heads keep their own initial values

    def forward(self, cells: Memory, queries: Queries, heads: Heads) -> tuple[Decoded, Memory]:
        """Encode cells and decode queries; returns the latter, and the encoder's memory."""
        memory = self.encoder(cells)
        if self.proposals is None:
            return self.decoder(queries, memory, heads), memory
        boxes, proposed = self.proposals(memory)
        queries = self.decoder.start_from(boxes, queries)
        return self.decoder(queries, memory, heads)._replace(proposed=proposed), memory
