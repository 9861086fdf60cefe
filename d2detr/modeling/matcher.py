from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from d2detr.layers import at_least_float32, box_cxcywh_to_xyxy, generalized_box_iou
from d2detr.modeling.classification import Classification
from d2detr.modeling.targets import Targets


@dataclass
class Matching:
    """M matched pairs of a query and a target in each of L decoder layers.

    A pair keeps its image in every layer, since an image has min(targets, queries) pairs in each.

    Attributes:
        pairs: (1 + 2L, M) int64, all of the below in one tensor that one copy moves.
    """

    pairs: Tensor

    @property
    def image(self) -> Tensor:
        """(M,) index of the image in the batch."""
        return self.pairs[0]

    @property
    def query(self) -> Tensor:
        """(L, M) index of the query in its image."""
        return self.pairs[1 : 1 + len(self.pairs) // 2]

    @property
    def target(self) -> Tensor:
        """(L, M) index into the batch's targets."""
        return self.pairs[1 + len(self.pairs) // 2 :]

    def to(self, device: torch.device) -> "Matching":
        """Move to a device, without waiting for it."""
        return Matching(self.pairs.to(device, non_blocking=True))


class HungarianMatcher(nn.Module):
    """The assignment of queries to targets with the lowest total cost (paper, equation 1).

    The cost of a pair is ``class_weight * class cost + l1_weight * L1 - giou_weight * GIoU``.

    Args:
        classification: gives the class cost.
        class_weight: weight of the class cost.
        l1_weight: weight of the L1 distance between the boxes.
        giou_weight: weight of the generalised IoU of the boxes.
    """

    def __init__(
        self,
        classification: Classification,
        *,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
    ):
        super().__init__()
        self.classification = classification
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Matching:
        """Match every decoder layer's predictions with the targets of the same image.

        Args:
            logits: (L, B, Q, C).
            boxes: (L, B, Q, 4), centre, width, height in [0, 1].
            targets: T targets in all.

        Returns:
            The matching, on the device of ``logits``.
        """
        cost = self.cost(
            self.classification.normalise(at_least_float32(logits)), boxes, targets
        ).cpu()
        return self.solve(cost, targets.counts).to(logits.device)

    @torch.no_grad()
    def cost(self, normalised: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost (L, T, Q) of every target with every query of its own image.

        Args:
            normalised: (L, B, Q, C), what the classification made of the logits.
            boxes: (L, B, Q, 4).
            targets: T targets.
        """
        image = targets.image
        class_cost = self.classification.cost(normalised[:, image, :, targets.labels])

        boxes = at_least_float32(boxes)
        # Coordinates first: broadcasting along the queries is fast, along coordinates it is not.
        coordinates = torch.cat((boxes, box_cxcywh_to_xyxy(boxes)), -1).movedim(-1, 0)
        centred, corners = coordinates.contiguous()[:, :, image].split(4)  # (4, L, T, Q) each
        l1 = (centred - targets.boxes.T[:, None, :, None]).abs().sum(0)
        giou = generalized_box_iou(
            corners.movedim(0, -1), box_cxcywh_to_xyxy(targets.boxes)[:, None]
        )
        class_cost = self.class_weight * class_cost.transpose(0, 1)
        return self.l1_weight * l1 + class_cost - self.giou_weight * giou

    def solve(self, cost: Tensor, counts: list[int]) -> Matching:
        """Solve each layer's and image's assignment.

        Args:
            cost: (L, T, Q), finite, on the host.
            counts: number of targets of each image.

        Returns:
            The matching, on the host.
        """
        queries, matched = [], []
        for layer in cost.numpy():
            start = 0
            for count in counts:
                rows, columns = linear_sum_assignment(layer[start : start + count])
                matched.append(rows + start)
                queries.append(columns)
                start += count
        num_layers, _, num_queries = cost.shape
        pairs = np.concatenate((*queries, *matched)).reshape(2 * num_layers, -1)
        image = torch.repeat_interleave(torch.tensor(counts).clamp(max=num_queries))
        return Matching(torch.cat((image[None], torch.from_numpy(pairs))))
