"""Queries that start from what the encoder sees (two-stage Deformable DETR; DINO, section 3.4)."""

import torch
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.modeling.classification import Classification
from d2detr.modeling.heads import PredictionHeads
from d2detr.modeling.queries import Memory, Proposed, Queries


class Proposals(nn.Module):
    """Lets every cell of the memory predict an object, and queries start from the best ones.

    A cell's box starts from a square at its centre. The boxes that are chosen are the references of
    the first queries, which keep their contents (DINO's mixed query selection); no gradient flows
    through the choice.

    Args:
        num_queries: Q, how many cells are chosen.
        embed_dim: width D of the cells.
        classification: as of the decoder's predictions.
        reference_eps: of the inverse sigmoid of references.
        box_size: side of the square that a cell's box starts from, relative to the image's, in
            (0, 1).

    Raises:
        UserError: an argument makes no sense.
    """

    def __init__(
        self,
        *,
        num_queries: int,
        embed_dim: int,
        classification: Classification,
        reference_eps: float,
        box_size: float = 0.1,
    ):
        super().__init__()
        if not 0 < box_size < 1:
            raise UserError(f"box_size of the proposals is {box_size}; it must be in (0, 1).")
        self.num_queries = num_queries
        self.classification = classification
        self.box_size = box_size
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.heads = PredictionHeads(embed_dim, classification, reference_eps)

    def forward(self, queries: Queries, memory: Memory) -> tuple[Queries, Proposed]:
        """Give the first queries the boxes of the cells that most likely hold an object.

        Raises:
            UserError: there are fewer cells than queries.
        """
        num_cells = memory.tokens.shape[1]
        if num_cells < self.num_queries:
            raise UserError(
                f"The images have {num_cells} cells, of which MODEL.DETR.TWO_STAGE cannot choose "
                f"{self.num_queries} queries: lower MODEL.DETR.NUM_OBJECT_QUERIES, take a finer "
                "MODEL.DETR.IN_FEATURE or larger images."
            )
        predicted = self.heads(self.norm(self.project(memory.tokens)), self._squares(memory))
        proposed = Proposed(predicted["pred_logits"], predicted["pred_boxes"])
        chosen = proposed.boxes.detach().gather(1, self._best(proposed, memory))
        reference = torch.cat((chosen, queries.reference[:, self.num_queries :]), 1)
        return queries._replace(reference=reference), proposed

    def _best(self, proposed: Proposed, memory: Memory) -> Tensor:
        score = self.classification.object_score(proposed.logits.detach())
        if memory.mask is not None:
            score = score.masked_fill(~memory.mask, -1.0)
        return score.topk(self.num_queries).indices[..., None].expand(-1, -1, 4)

    def _squares(self, memory: Memory) -> Tensor:
        """Squares (B, S, 4) at the cells, relative to the unpadded part of the images."""
        (shape,) = memory.shapes
        inside = memory.tokens.new_ones(memory.tokens.shape[:2], dtype=torch.float32)
        if memory.mask is not None:
            inside = inside * memory.mask
        inside = inside.unflatten(1, shape)
        y, x = (
            (inside.cumsum(dim) - 0.5) / inside.sum(dim, keepdim=True).clamp(1) for dim in (1, 2)
        )
        side = torch.full_like(x, self.box_size)
        return torch.stack((x, y, side, side), -1).clamp(0, 1).flatten(1, 2)
