from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2detr.layers import box_cxcywh_to_xyxy
from d2detr.modeling.classification import Classification


def postprocess_boxes(
    logits: Tensor,
    boxes: Tensor,
    sizes: Sequence,
    *,
    classification: Classification,
    score_threshold: float = 0.0,
    detections_per_image: int = 0,
    with_query_index: bool = False,
) -> list[Instances]:
    """Turn the last decoder layer's predictions into detections, without suppression.

    Args:
        logits: (B, Q, C).
        boxes: (B, Q, 4), centre, width, height in [0, 1].
        sizes: B pairs of height and width that the boxes shall refer to.
        classification: chooses detections by the logits.
        score_threshold: detections with a lower score are dropped.
        detections_per_image: the best-scored detections to keep, best first; 0 keeps as many as
            there are queries.
        with_query_index: whether to tell which query each detection is of.

    Returns:
        B Instances with ``pred_boxes`` (XYXY pixels, not clipped), ``scores``, ``pred_classes``
        and, if asked for, ``query_index``.
    """
    best = classification.choose(logits, detections_per_image)
    scale = _as_tensor([(width, height, width, height) for height, width in sizes])
    boxes = box_cxcywh_to_xyxy(boxes) * scale.to(boxes, non_blocking=True)[:, None]
    if best.query is not None:
        boxes = boxes.gather(1, best.query[..., None].expand(-1, -1, 4))
    results = []
    for i, size in enumerate(sizes):
        result = Instances(tuple(size))
        result.pred_boxes = Boxes(boxes[i])
        result.scores = best.scores[i]
        result.pred_classes = best.classes[i]
        if with_query_index:
            device = boxes.device
            result.query_index = (
                torch.arange(len(result), device=device) if best.query is None else best.query[i]
            )
        if score_threshold > 0:
            result = result[result.scores >= score_threshold]
        results.append(result)
    return results


def _as_tensor(sizes: list[tuple]) -> Tensor:
    if torch.jit.is_tracing():  # sizes are tensors, which a trace must follow
        return torch.stack([torch.stack([torch.as_tensor(x) for x in row]) for row in sizes])
    return torch.tensor(sizes)
