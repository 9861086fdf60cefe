"""Denoising with objects beside them that are none (DINO, Zhang et al., ICLR 2023; section 3.3)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2detr.errors import UserError
from d2detr.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from d2detr.modeling.classification import Classification
from d2detr.modeling.criterion import Divisor, Group
from d2detr.modeling.denoising import Denoising, Noised
from d2detr.modeling.matcher import Matching
from d2detr.modeling.targets import Targets


@dataclass
class Contrasted(Noised):
    """Noised objects to be found; all other queries from ``start`` on shall find nothing.

    Attributes:
        classification: of the queries.
    """

    classification: Classification

    def as_group(self, logits: Tensor, boxes: Tensor, targets: Targets, divisor: Divisor) -> Group:
        """Return the predictions of all noised queries; see :meth:`Noised.as_group`."""
        logits, boxes = logits[:, :, self.start :], boxes[:, :, self.start :]
        layers = len(logits)
        pairs = (
            self.image[None],
            (self.query - self.start).expand(layers, -1),
            self.target.expand(layers, -1),
        )
        num_pairs = len(self.image)
        num_boxes = divisor.num_boxes * self.groups
        weight = self.classification.total_weight(
            num_pairs, logits.shape[1] * logits.shape[2] - num_pairs
        )
        return Group(
            logits,
            boxes,
            targets,
            Matching(torch.cat(pairs)),
            Divisor(num_boxes, weight or num_boxes, num_boxes),
            suffix="_dn",
        )


class ContrastiveDenoising(Denoising):
    """Noises every object twice: slightly, to be found, and more, to be told from the first.

    There are as many groups as make about ``num_noised`` queries that shall find an object.

    Args:
        classification: of the queries.
        num_noised: queries that shall find an object, at least 1.
        options: see :class:`Denoising`; ``box_noise`` is the largest shift of a corner, relative to
            half of the box's size, and that of the second copy twice as large, but not smaller
            than that of the first.
    """

    copies = 2

    def __init__(self, *, classification: Classification, num_noised: int = 100, **options: Any):
        if num_noised < 1:
            raise UserError(f"num_noised is {num_noised}, but must be at least 1.")
        super().__init__(num_classes=classification.num_classes, **options)
        self.classification = classification
        self.num_noised = num_noised

    def label_dim(self, embed_dim: int) -> int:
        return embed_dim

    def own_content(self, content: Tensor) -> Tensor:
        return content

    def content_of(self, labels: Tensor) -> Tensor:
        return self.label_embed(labels)

    def count_groups(self, longest: int) -> int:
        return max(1, self.num_noised // longest) if longest else 1

    def draw(self, labels: Tensor, boxes: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise; a box that its corners' noise turns inside out has a negative size."""
        share = torch.rand_like(boxes) + negative[:, None]
        sign = torch.where(torch.rand_like(boxes) < 0.5, -1, 1)
        reach = boxes[:, 2:].repeat(1, 2) / 2 * self.box_noise
        corners = box_cxcywh_to_xyxy(boxes) + sign * share * reach
        return self.draw_labels(labels), box_xyxy_to_cxcywh(corners.clamp(0, 1))

    def describe(self, noised: Noised, negative: Tensor) -> Contrasted:
        found = ~negative
        return Contrasted(
            noised.start,
            noised.image[found],
            noised.query[found],
            noised.target[found],
            noised.groups,
            self.classification,
        )
