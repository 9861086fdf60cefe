"""The detections of every image of a dataset, compared with its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances, pairwise_iou
from PIL import Image

from d2detr.datasets.image_files import displayed_size
from d2detr.errors import UserError
from d2detr.visualization.mistakes import FOUND, Judgement, judge
from d2detr.visualization.results import predicted_instances, true_instances

SCORE_THRESHOLD = 0.5  # of the detections that count as mistakes, as in draw_results
_IOUS = np.linspace(0.5, 0.95, 10)  # COCO's
_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class ImageResult:
    """What was found in an image.

    Attributes:
        record: of the dataset.
        truth: its objects, without crowds.
        predictions: all detections.
        judgement: of these.
        ap: of the image alone, in [0, 1]; see :func:`image_ap`.
    """

    record: dict[str, Any]
    truth: Instances
    predictions: Instances
    judgement: Judgement
    ap: float

    @property
    def counted(self) -> np.ndarray:
        """Which detections (D,) count as mistakes if they are some."""
        return self.predictions.scores.numpy() >= SCORE_THRESHOLD

    @cached_property
    def mistakes(self) -> dict[str, int]:
        """The number of mistakes of each kind."""
        return self.judgement.mistakes(self.counted)


def compare(
    records: Sequence[dict[str, Any]],
    detections: dict[Any, list[dict[str, Any]]],
    metadata: Metadata,
) -> list[ImageResult]:
    """Compare the detections of a dataset's images with their objects, by boxes.

    Args:
        records: of the dataset.
        detections: of COCO's results, by the id of the image.
        metadata: of the dataset.
    """
    return [
        _compare(record, detections.get(record["image_id"], []), metadata) for record in records
    ]


def _compare(
    record: dict[str, Any], detections: list[dict[str, Any]], metadata: Metadata
) -> ImageResult:
    if "height" not in record:  # as in panoptic datasets
        record = {**record, **_read_size(record["file_name"])}
    size = record["height"], record["width"]
    boxes = [{key: x[key] for key in ("bbox", "category_id", "score")} for x in detections]
    predictions = predicted_instances(boxes, size, metadata)
    truth = true_instances(record, size, draws_masks=False)
    ap = image_ap(truth, predictions)
    return ImageResult(record, truth, predictions, judge(truth, predictions), ap)


def _read_size(file_name: str) -> dict[str, int]:
    try:
        with Image.open(file_name) as image:
            width, height = displayed_size(image)
    except OSError as error:
        raise UserError(f"Image {file_name} cannot be read: {error}.") from error
    return {"width": width, "height": height}


def image_ap(truth: Instances, predictions: Instances) -> float:
    """Return the average precision of one image in [0, 1].

    The detections of all classes are ranked together; precision is averaged over all objects and
    COCO's ten IoUs. Without objects it is 1 if no detection counts, and else 0.

    Args:
        truth: ``gt_boxes`` and ``gt_classes``.
        predictions: ``pred_boxes``, ``pred_classes`` and ``scores``.
    """
    if not len(truth):
        return float(not (predictions.scores >= SCORE_THRESHOLD).any())
    order = predictions.scores.argsort(descending=True, stable=True)
    ranked = predictions[order]
    ious = pairwise_iou(ranked.pred_boxes, Boxes(truth.gt_boxes.tensor.float())).numpy()
    ious = ious * (ranked.pred_classes[:, None] == truth.gt_classes[None]).numpy()
    free = np.ones((len(_IOUS), len(truth)), dtype=bool)
    hits = np.zeros((len(_IOUS), len(ious)), dtype=bool)
    for row in np.flatnonzero(ious.max(axis=1) >= _IOUS[0]):
        best = (free * ious[row]).argmax(axis=1)
        hits[:, row] = free[range(len(_IOUS)), best] & (ious[row, best] >= _IOUS)
        free[hits[:, row], best[hits[:, row]]] = False
    precision = hits.cumsum(axis=1) / np.arange(1, len(ious) + 1)
    highest_later = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return float((highest_later * hits).sum(axis=1).mean() / len(truth))


@dataclass(frozen=True)
class Calibration:
    """How often detections are right, by their score.

    Attributes:
        scores: (B,) mean score of the detections of a bin, NaN in empty ones.
        precision: (B,) share of them that find an object.
        counts: (B,) detections.
    """

    scores: np.ndarray
    precision: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: mean difference of score and precision."""
        difference = np.abs(self.scores - self.precision) * self.counts
        return float(np.nansum(difference) / max(1, self.counts.sum()))


def calibrate(images: Sequence[ImageResult]) -> Calibration:
    """Compare scores with the share of detections that find an object of their class."""
    scores = np.concatenate([image.predictions.scores.numpy() for image in images])
    right = np.concatenate([image.judgement.kinds == FOUND for image in images])
    bins = np.minimum((scores * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=_CALIBRATION_BINS)
    filled = np.where(counts, counts, np.nan)
    sums = [np.bincount(bins, values, _CALIBRATION_BINS) for values in (scores, right)]
    return Calibration(sums[0] / filled, sums[1] / filled, counts)
