"""Queries that start from what the encoder sees (two-stage Deformable DETR; DINO, section 3.4)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import at_least_float32
from d2detr.modeling.classification import Classification
from d2detr.modeling.criterion import Divisor, Group
from d2detr.modeling.heads import PredictionHeads
from d2detr.modeling.queries import Memory, Proposed
from d2detr.modeling.targets import Targets

_NEAR_BORDER = 0.01  # of the image; a cell proposes nothing where its square lies or ends there


class Proposals(nn.Module):
    """Lets every cell of the memory predict an object, and queries start from the best ones.

    A cell's box starts from a square at its centre. Every cell learns, like a query, the class and
    the box of an object. No gradient flows through the choice.

    Args:
        num_queries: Q, how many cells are chosen.
        embed_dim: width D of the cells.
        classification: as of the decoder's predictions.
        reference_eps: of the inverse sigmoid of references.
        box_size: side of the square that a cell's box starts from, relative to the image's, in
            (0, 1); that of each further level is twice as large.
        num_levels: feature maps.

    Attributes:
        have_classes: whether the logits of cells stand for classes.

    Raises:
        UserError: an argument makes no sense.
    """

    have_classes = True

    def __init__(
        self,
        *,
        num_queries: int,
        embed_dim: int,
        classification: Classification,
        reference_eps: float,
        box_size: float = 0.05,
        num_levels: int = 1,
    ):
        super().__init__()
        largest = box_size * 2 ** (num_levels - 1)
        if not _NEAR_BORDER < box_size <= largest < 1 - _NEAR_BORDER:
            raise UserError(
                f"box_size of the proposals is {box_size}, and {largest} in the last of "
                f"{num_levels} levels; both must be in ({_NEAR_BORDER}, {1 - _NEAR_BORDER})."
            )
        self.num_queries = num_queries
        self.classification = classification
        self.box_size = box_size
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.heads = PredictionHeads(embed_dim, classification, reference_eps)

    def forward(self, memory: Memory) -> tuple[Tensor, Proposed]:
        """Choose the cells that most likely hold an object.

        Returns:
            Their boxes (B, Q, 4), without gradient, and what all cells propose.

        Raises:
            UserError: there are fewer cells than queries.
        """
        num_cells = memory.tokens.shape[1]
        if num_cells < self.num_queries:
            raise UserError(
                f"The images have {num_cells} cells, of which MODEL.DETR.TWO_STAGE cannot choose "
                f"{self.num_queries} queries: lower MODEL.DETR.NUM_OBJECT_QUERIES, take finer "
                "MODEL.DETR.IN_FEATURES or larger images."
            )
        squares = self._squares(memory)
        inside = ((squares > _NEAR_BORDER) & (squares < 1 - _NEAR_BORDER)).all(-1)
        valid = inside if memory.mask is None else inside & memory.mask
        tokens = memory.tokens * valid[..., None]
        embeddings = self.norm(self.project(tokens))
        logits = self.heads.class_embed(embeddings)
        score = self.score(logits.detach())
        if memory.mask is not None:  # cells near the border may be chosen, padding never
            score = score.masked_fill(~memory.mask, -torch.inf)
        index = score.topk(self.num_queries).indices
        chosen = (_gather(x, index) for x in (embeddings, squares, valid[..., None]))
        boxes = self._boxes(*chosen)
        return boxes.detach(), Proposed(embeddings, logits, squares, valid, index, boxes)

    def score(self, logits: Tensor) -> Tensor:
        """Return how likely cells hold an object (B, S), of (B, S, C) logits."""
        return self.classification.object_score(logits)

    def as_group(self, proposed: Proposed, targets: Targets, divisor: Divisor) -> Group:
        """Return what the cells predict, to be compared with the objects.

        Args:
            proposed: of :meth:`forward`.
            targets: of the images.
            divisor: of the batch: what is divided by weights of classes is weighed as the decoder's
                queries, of which there are fewer.
        """
        boxes = self._boxes(proposed.embeddings, proposed.squares, proposed.valid[..., None])
        return Group(proposed.logits[None], boxes[None], targets, divisor=divisor, suffix="_enc")

    def _boxes(self, embeddings: Tensor, squares: Tensor, valid: Tensor) -> Tensor:
        """Boxes (B, N, 4); those of cells that propose nothing fill the image."""
        return torch.where(valid, self.heads.predict_boxes(embeddings, squares), 1.0)

    def _squares(self, memory: Memory) -> Tensor:
        """Squares (B, S, 4) at the cells, relative to the unpadded part of the images."""
        centres = memory.centres(memory.valid_ratios())
        sides = [
            centres.new_full((count,), self.box_size * 2**level)
            for level, count in enumerate(memory.cells_per_level)
        ]
        side = torch.cat(sides)[:, None].expand(*centres.shape)
        return torch.cat((centres, side), -1)


class ChosenProposals(Proposals):
    """Only the chosen cells learn (DINO)."""

    def as_group(self, proposed: Proposed, targets: Targets, divisor: Divisor) -> Group:
        logits = _gather(proposed.logits, proposed.index)
        return Group(logits[None], proposed.boxes[None], targets, divisor=divisor, suffix="_enc")


class ObjectnessProposals(Proposals):
    """Cells learn, in the first logit, whether there is any object (Deformable DETR)."""

    have_classes = False

    def score(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits[..., 0])

    def as_group(self, proposed: Proposed, targets: Targets, divisor: Divisor) -> Group:
        objects = replace(targets, labels=torch.zeros_like(targets.labels))
        return super().as_group(proposed, objects, divisor)


PROPOSALS = {
    "classes": Proposals,
    "chosen": ChosenProposals,
    "objectness": ObjectnessProposals,
}


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, N, ...) of cells (B, S, ...) by their index (B, N)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
