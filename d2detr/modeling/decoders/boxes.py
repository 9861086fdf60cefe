"""Queries that are boxes, as DAB-DETR (Liu et al., ICLR 2022) has them."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import nn

from d2detr.errors import UserError
from d2detr.modeling.decoders.decoder import Decoder
from d2detr.modeling.queries import Queries


class BoxDecoder(Decoder):
    """A decoder whose queries are boxes, which every layer refines.

    Args:
        embed_dim: width D of all tokens.
        num_queries: learned boxes.
        num_patterns: contents that each box is a query with; 0 lets each be one without.
        learns_boxes: whether boxes are learned, or contents, where proposals give the boxes.
        options: see :class:`Decoder`.
    """

    refines = True
    has_boxes = True
    takes_proposals = True
    reference_eps = 1e-3

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_queries: int = 300,
        num_patterns: int = 0,
        learns_boxes: bool = True,
        **options: Any,
    ):
        if num_patterns < 0:
            raise UserError(f"num_patterns is {num_patterns}, but must be at least 0.")
        if num_patterns and not learns_boxes:
            raise UserError(f"num_patterns is {num_patterns}, but proposals take no patterns.")
        query_dim = 4 if learns_boxes else embed_dim
        super().__init__(
            embed_dim=embed_dim, num_queries=num_queries, query_dim=query_dim, **options
        )
        self.learns_boxes = learns_boxes
        self.patterns = nn.Parameter(torch.zeros(num_patterns, embed_dim)) if num_patterns else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {
            **super().from_config(cfg),
            "num_patterns": detr.NUM_PATTERNS,
            "learns_boxes": not detr.TWO_STAGE,
        }

    @property
    def num_queries(self) -> int:
        num_patterns = 1 if self.patterns is None else len(self.patterns)
        return num_patterns * self.num_learned

    def start(self, batch_size: int) -> Queries:
        if not self.learns_boxes:
            content = self.query_embed.weight.expand(batch_size, -1, -1)
            return Queries(content, reference=content.new_full((*content.shape[:2], 4), 0.5))
        boxes = self.query_embed.weight.sigmoid()
        content = boxes.new_zeros(len(boxes), self.embed_dim)
        if self.patterns is not None:
            content = self.patterns.repeat_interleave(len(boxes), 0)
            boxes = boxes.repeat(len(self.patterns), 1)
        return Queries(
            content.expand(batch_size, -1, -1), reference=boxes.expand(batch_size, -1, -1)
        )
