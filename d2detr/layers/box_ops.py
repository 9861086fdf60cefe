"""Box formats and overlaps. All functions broadcast over the leading dimensions."""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from centre, width, height to the two corners."""
    centre, size = boxes.split(2, dim=-1)
    half = 0.5 * size
    return torch.cat((centre - half, centre + half), dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from the two corners to centre, width, height."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


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
    # Coordinate by coordinate: rows of two numbers would be slow on a CPU.
    left1, top1, right1, bottom1 = boxes1.unbind(-1)
    left2, top2, right2, bottom2 = boxes2.unbind(-1)
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    intersection = width * height
    area1 = (right1 - left1) * (bottom1 - top1)
    area2 = (right2 - left2) * (bottom2 - top2)
    union = area1 + area2 - intersection
    width = (torch.maximum(right1, right2) - torch.minimum(left1, left2)).clamp(min=0)
    height = (torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)).clamp(min=0)
    hull = width * height
    # Two boxes without area would divide by zero, and one NaN cost voids a whole matching.
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
