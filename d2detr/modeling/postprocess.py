from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2detr.layers import box_cxcywh_to_xyxy


def postprocess_boxes(
    logits: Tensor,
    boxes: Tensor,
    sizes: Sequence,
    *,
    score_threshold: float = 0.0,
    detections_per_image: int = 0,
    with_query_index: bool = False,
) -> list[Instances]:
    """Turn the last decoder layer's predictions into detections, without suppression.

    Every query gives its best class that is not no-object (paper, section 4: inference).

    Args:
        logits: (B, Q, K+1), no-object last.
        boxes: (B, Q, 4), centre, width, height in [0, 1].
        sizes: B pairs of height and width that the boxes shall refer to.
        score_threshold: detections with a lower score are dropped.
        detections_per_image: the best-scored detections to keep, best first; 0 keeps all queries
            in their order.
        with_query_index: whether to tell which query each detection is of.

    Returns:
        B Instances with ``pred_boxes`` (XYXY pixels, not clipped), ``scores``, ``pred_classes``
        and, if asked for, ``query_index``.
    """
    scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)
    scale = _as_tensor([(width, height, width, height) for height, width in sizes])
    boxes = box_cxcywh_to_xyxy(boxes) * scale.to(boxes, non_blocking=True)[:, None]
    results = []
    for size, image_boxes, image_scores, image_classes in zip(
        sizes, boxes.unbind(), scores.unbind(), classes.unbind(), strict=True
    ):
        result = Instances(tuple(size))
        result.pred_boxes = Boxes(image_boxes)
        result.scores = image_scores
        result.pred_classes = image_classes
        if with_query_index:
            result.query_index = torch.arange(len(image_scores), device=image_scores.device)
        if detections_per_image:
            best = image_scores.topk(min(detections_per_image, len(image_scores))).indices
            result = result[best]
        if score_threshold > 0:
            result = result[result.scores >= score_threshold]
        results.append(result)
    return results


def _as_tensor(sizes: list[tuple]) -> Tensor:
    if torch.jit.is_tracing():  # sizes are tensors, which a trace must follow
        return torch.stack([torch.stack([torch.as_tensor(x) for x in row]) for row in sizes])
    return torch.tensor(sizes)
