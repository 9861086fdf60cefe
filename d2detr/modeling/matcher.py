from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from d2detr.layers import box_cxcywh_to_xyxy, generalized_box_iou
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

    The cost of a pair is ``-class_weight * probability + l1_weight * L1 - giou_weight * GIoU``.

    Args:
        class_weight: weight of the predicted probability of the target's class.
        l1_weight: weight of the L1 distance between the boxes.
        giou_weight: weight of the generalised IoU of the boxes.
    """

    def __init__(
        self, *, class_weight: float = 1.0, l1_weight: float = 5.0, giou_weight: float = 2.0
    ):
        super().__init__()
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Matching:
        """Match every decoder layer's predictions with the targets of the same image.

        Args:
            logits: (L, B, Q, K+1).
            boxes: (L, B, Q, 4), centre, width, height in [0, 1].
            targets: T targets in all.

        Returns:
            The matching, on the device of ``logits``.
        """
        cost = self.cost(logits, boxes, targets).cpu()
        return self.solve(cost, targets.counts).to(logits.device)

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost (L, T, Q) of every target with every query of its own image."""
        image = targets.image
        boxes = boxes.float()[:, image]  # (L, T, Q, 4)
        target_boxes = targets.boxes[:, None]  # (T, 1, 4)
        l1 = (boxes - target_boxes).abs().sum(-1)
        giou = generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes))

        logits = logits.float()
        log_sum = logits.logsumexp(-1)[:, image]  # (L, T, Q)
        target_logits = logits[:, image, :, targets.labels].transpose(0, 1)
        probability = (target_logits - log_sum).exp()
        return self.l1_weight * l1 - self.class_weight * probability - self.giou_weight * giou

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
