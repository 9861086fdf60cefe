"""What is wrong with the detections of an image, counted by kind."""

from __future__ import annotations

from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

# The kinds of TIDE (Bolya et al., 2020): right place and wrong class, right class and wrong place,
# an object found twice, nothing there, and objects that no detection is close to.
KINDS = ("wrong_class", "misplaced", "duplicate", "background", "missed")
_FOUND_IOU = 0.5
_NEAR_IOU = 0.1


def count_mistakes(truth: Instances, predictions: Instances) -> dict[str, int]:
    """Count the mistakes of one image.

    Args:
        truth: ``gt_boxes`` and ``gt_classes`` of N objects.
        predictions: ``pred_boxes``, ``pred_classes`` and ``scores`` of the detections that count.

    Returns:
        A number for each of KINDS; all zero if every object is found once and nothing else.
    """
    counts = dict.fromkeys(KINDS, 0)
    order = predictions.scores.argsort(descending=True)
    predictions = predictions[order]
    boxes = Boxes(truth.gt_boxes.tensor.float())
    ious = pairwise_iou(Boxes(predictions.pred_boxes.tensor.float()), boxes)
    found: set[int] = set()
    touched: set[int] = set()
    for label, row in zip(predictions.pred_classes.tolist(), ious, strict=True):
        same = row * (truth.gt_classes == label)
        free = same.clone()
        free[list(found)] = 0
        best = int(free.argmax()) if len(free) else -1
        if best >= 0 and free[best] >= _FOUND_IOU:
            found.add(best)
            continue
        kind = _kind(same, row)
        counts[kind] += 1
        if kind in ("wrong_class", "misplaced"):
            touched.add(int((row if kind == "wrong_class" else same).argmax()))
    counts["missed"] = len(set(range(len(truth))) - found - touched)
    return counts


def _kind(same_class: Tensor, any_class: Tensor) -> str:
    highest = float(same_class.max()) if len(same_class) else 0.0
    if highest >= _FOUND_IOU:
        return "duplicate"
    if len(any_class) and float(any_class.max()) >= _FOUND_IOU:
        return "wrong_class"
    return "misplaced" if highest >= _NEAR_IOU else "background"
