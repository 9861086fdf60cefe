"""AP of detections by class and size, and precision at every recall: COCO's own, in full."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = {"bbox": "boxes", "segm": "masks"}
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # areas
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True)
class AveragePrecision:
    """An evaluation of boxes or masks.

    Attributes:
        kind: one of KINDS.
        class_names: of K classes.
        num_objects: (K,) that count.
        precision: (10, 101, K, 4) by IoU (0.5 to 0.95), recall (0 to 1), class and size (all,
            small, medium, large); -1 where there are no objects.
    """

    kind: str
    class_names: list[str]
    num_objects: np.ndarray
    precision: np.ndarray

    @property
    def summary(self) -> dict[str, float]:
        """COCO's numbers in percent, NaN where there are no objects."""
        precision = self.precision
        return {
            "AP": _mean(precision[..., _ALL]),
            "AP50": _mean(precision[_IOU_50, ..., _ALL]),
            "AP75": _mean(precision[_IOU_75, ..., _ALL]),
            "APs": _mean(precision[..., _SMALL]),
            "APm": _mean(precision[..., _MEDIUM]),
            "APl": _mean(precision[..., _LARGE]),
        }

    @property
    def of_classes(self) -> dict[str, list[float]]:
        """AP, AP50 and AP75 in percent of each class."""
        return {
            name: [_mean(part[:, :, label, _ALL]) for part in self._at_ious()]
            for label, name in enumerate(self.class_names)
        }

    def _at_ious(self) -> list[np.ndarray]:
        return [self.precision, self.precision[[_IOU_50]], self.precision[[_IOU_75]]]

    def curve(self, iou: int, label: int | None = None) -> np.ndarray:
        """Return precision at recalls 0, 0.01 ... 1, at the IoU with an index, of one class or all.

        Where a class has no objects, it is NaN.
        """
        values = self.precision[iou, :, :, _ALL]
        values = np.where(values < 0, np.nan, values)
        if label is not None:
            return values[:, label]
        known = ~np.isnan(values).all(axis=0)
        return values[:, known].mean(axis=1) if known.any() else np.full(len(values), np.nan)


def evaluate_detections(
    dataset_name: str,
    detections: dict[Any, list[dict[str, Any]]],
    records: Sequence[dict[str, Any]],
) -> list[AveragePrecision]:
    """Evaluate the boxes, and the masks where truth and detections have them.

    Args:
        dataset_name: of a dataset that is loaded.
        detections: of COCO's results, by the id of the image.
        records: of the dataset.
    """
    results = [x for found in detections.values() for x in found]
    with contextlib.redirect_stdout(io.StringIO()):  # COCO's code says each of its steps
        truth = _read_truth(dataset_name)
        annotations = truth.dataset.get("annotations", [])
        kinds = ["bbox"]
        if all("segmentation" in x for x in [*annotations, *results]) and results and annotations:
            kinds.append("segm")
        image_ids = [record["image_id"] for record in records]
        return [_evaluate(truth, results, image_ids, kind) for kind in kinds]


def _read_truth(dataset_name: str) -> COCO:
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file and Path(json_file).is_file():
        return COCO(json_file)
    truth = COCO()
    truth.dataset = convert_to_coco_dict(dataset_name)
    truth.createIndex()
    return truth


def _evaluate(
    truth: COCO, results: list[dict[str, Any]], image_ids: list[Any], kind: str
) -> AveragePrecision:
    unused = "bbox" if kind == "segm" else "segmentation"  # from which areas would be taken
    found = truth.loadRes([{k: v for k, v in x.items() if k != unused} for x in results])
    # The fast implementation takes numbers as image ids only.
    is_numbered = all(isinstance(image_id, int) for image_id in image_ids)
    evaluation_class = coco_evaluation.COCOeval_opt if is_numbered else COCOeval
    evaluation = evaluation_class(truth, found, kind)
    evaluation.params.imgIds = image_ids
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    category_ids = evaluation.params.catIds
    known, counts = set(image_ids), dict.fromkeys(category_ids, 0)
    for annotation in truth.dataset["annotations"]:
        if annotation["image_id"] in known and not annotation.get("iscrowd", 0):
            counts[annotation["category_id"]] += 1
    names = [truth.cats[category_id]["name"] for category_id in category_ids]
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    return AveragePrecision(kind, names, np.array([*counts.values()]), precision)


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")
