"""Box formats and overlaps. All functions broadcast over the leading dimensions."""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from centre, width, height to the two corners."""
    return box_convert(boxes, "cxcywh", "xyxy")


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from the two corners to centre, width, height."""
    return box_convert(boxes, "xyxy", "cxcywh")


def box_area(boxes: Tensor) -> Tensor:
    """Area (...) of (..., 4) XYXY boxes."""
    size = boxes[..., 2:] - boxes[..., :2]
    return size[..., 0] * size[..., 1]


def _overlap_and_hull(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas (...) of intersection, union and the smallest box that encloses both."""
    low = torch.max(boxes1[..., :2], boxes2[..., :2])
    high = torch.min(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = box_area(boxes1) + box_area(boxes2) - intersection
    low = torch.min(boxes1[..., :2], boxes2[..., :2])
    high = torch.max(boxes1[..., 2:], boxes2[..., 2:])
    return intersection, union, (high - low).clamp(min=0).prod(-1)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., 2019) of corresponding boxes.

    torchvision has the loss of aligned boxes and the matrix of all pairs; matching needs every
    query of an image against the targets of that image alone, hence broadcasting.

    Args:
        boxes1: (..., 4) XYXY boxes.
        boxes2: (..., 4) XYXY boxes, broadcastable against ``boxes1``.

    Returns:
        (...) values in [-1, 1]; 0 where both boxes are the same point.
    """
    intersection, union, hull = _overlap_and_hull(boxes1, boxes2)
    # Two boxes without area would divide by zero, and one NaN cost voids a whole matching.
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
