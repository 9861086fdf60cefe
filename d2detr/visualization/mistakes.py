"""What is wrong with the detections of an image, counted by kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectron2.structures import Boxes, Instances, pairwise_iou

# The kinds of TIDE (Bolya et al., 2020): right place and wrong class, right class and wrong place,
# an object found twice, nothing there, and objects that no detection is close to.
KINDS = ("wrong_class", "misplaced", "duplicate", "background", "missed")
FOUND = "found"  # of a detection: no mistake
_FOUND_IOU = 0.5
_NEAR_IOU = 0.1


@dataclass(frozen=True)
class Judgement:
    """What the D detections of an image are, in their order.

    Attributes:
        kinds: (D,) FOUND or one of KINDS. Detections with lower scores change nothing about it.
        objects: (D,) index of the object that a detection is meant for, -1 for "background".
        num_objects: of the image.
    """

    kinds: np.ndarray
    objects: np.ndarray
    num_objects: int

    def missed(self, counts: np.ndarray) -> list[int]:
        """Return the indices of the objects that none of the detections is close to.

        Args:
            counts: (D,) whether a detection counts.
        """
        return sorted(set(range(self.num_objects)) - set(self.objects[counts].tolist()))

    def mistakes(self, counts: np.ndarray) -> dict[str, int]:
        """Return the number of mistakes of each of KINDS.

        Args:
            counts: (D,) whether a detection counts.
        """
        kinds = self.kinds[counts]
        numbers = {kind: int((kinds == kind).sum()) for kind in KINDS}
        numbers["missed"] = len(self.missed(counts))
        return numbers


def judge(truth: Instances, predictions: Instances) -> Judgement:
    """Say of each detection of an image what is wrong with it.

    Args:
        truth: ``gt_boxes`` and ``gt_classes`` of N objects.
        predictions: ``pred_boxes``, ``pred_classes`` and ``scores`` of D detections.
    """
    boxes = Boxes(predictions.pred_boxes.tensor.float())
    ious = pairwise_iou(boxes, Boxes(truth.gt_boxes.tensor.float())).numpy()
    same = ious * (predictions.pred_classes[:, None] == truth.gt_classes[None]).numpy()
    kinds, objects = np.full(len(ious), "background", dtype=object), np.full(len(ious), -1)
    free = np.ones(len(truth), dtype=bool)
    near = np.flatnonzero(ious.max(axis=1, initial=0) >= _NEAR_IOU)  # the rest is background
    scores = predictions.scores.numpy()
    for row in near[np.argsort(-scores[near], kind="stable")]:
        best = int((same[row] * free).argmax())
        if free[best] and same[row, best] >= _FOUND_IOU:
            kinds[row], objects[row] = FOUND, best
            free[best] = False
            continue
        kinds[row] = _kind(same[row], ious[row])
        if kinds[row] != "background":
            objects[row] = (ious if kinds[row] == "wrong_class" else same)[row].argmax()
    return Judgement(kinds, objects, len(truth))


def count_mistakes(truth: Instances, predictions: Instances) -> dict[str, int]:
    """Count the mistakes of one image.

    Args:
        truth: ``gt_boxes`` and ``gt_classes`` of N objects.
        predictions: ``pred_boxes``, ``pred_classes`` and ``scores`` of the detections that count.

    Returns:
        A number for each of KINDS; all zero if every object is found once and nothing else.
    """
    return judge(truth, predictions).mistakes(np.ones(len(predictions), dtype=bool))


def _kind(same_class: np.ndarray, any_class: np.ndarray) -> str:
    highest = same_class.max()
    if highest >= _FOUND_IOU:
        return "duplicate"
    if any_class.max() >= _FOUND_IOU:
        return "wrong_class"
    return "misplaced" if highest >= _NEAR_IOU else "background"
