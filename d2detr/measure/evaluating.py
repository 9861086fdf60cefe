"""COCO's AP of made-up predictions, encoding of their masks included."""

import contextlib
import io
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from fvcore.transforms.transform import NoOpTransform
from torch import Tensor

from d2detr.data import annotations_to_instances
from d2detr.errors import UserError
from d2detr.evaluation.coco_evaluation import FastCOCOEvaluator
from d2detr.measure.timing import Step
from d2detr.measure.workload import Workload

_DETECTIONS = 100
_DEFAULT = "shapes_val"


def our_evaluation(workload: Workload) -> Step:
    """Process and evaluate the predictions of ``batch`` images; returns the results' mean."""
    return _evaluation(workload, FastCOCOEvaluator, use_fast_impl=True)


def peer_evaluation(workload: Workload) -> Step:
    """The same with Detectron2's evaluator and pycocotools' COCOeval."""
    return _evaluation(workload, COCOEvaluator, use_fast_impl=False)


def _evaluation(workload: Workload, kind: type[COCOEvaluator], *, use_fast_impl: bool) -> Step:
    records = workload.load_dataset(_DEFAULT)
    if workload.batch > len(records):
        raise UserError(f"--batch {workload.batch}: the dataset has {len(records)} images.")
    records = records[: workload.batch]
    tasks = ("bbox", "segm") if workload.has_masks else ("bbox",)
    name = workload.dataset or _DEFAULT
    evaluator = kind(name, tasks, distributed=False, use_fast_impl=use_fast_impl)
    num_classes = len(MetadataCatalog.get(name).thing_classes)
    generator = np.random.default_rng(0)
    outputs = [
        {"instances": _predictions(x, num_classes, workload.has_masks, generator)} for x in records
    ]
    image_ids = [x["image_id"] for x in records]

    def run() -> Tensor:
        evaluator.reset()
        with contextlib.redirect_stdout(io.StringIO()):
            for record, output in zip(records, outputs, strict=True):
                evaluator.process([record], [output])
            results = evaluator.evaluate(image_ids)
        return torch.tensor([x for task in tasks for x in results[task].values()]).nanmean()

    return run


def _predictions(
    record: dict[str, Any], num_classes: int, with_masks: bool, generator: np.random.Generator
) -> Instances:
    """Objects of the truth, moved a little and partly misnamed, over and over, with any score."""
    size = record["height"], record["width"]
    annotations = [x for x in record["annotations"] if not x.get("iscrowd", 0)]
    truth = annotations_to_instances(annotations, NoOpTransform(), size, with_masks)
    instances = Instances(size)
    count = _DETECTIONS if len(truth) else 0
    chosen = torch.from_numpy(generator.integers(max(len(truth), 1), size=count))
    shifts = torch.from_numpy(generator.normal(scale=5, size=(count, 2))).round().long()
    boxes = truth.gt_boxes.tensor[chosen] + shifts.repeat(1, 2)
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.from_numpy(generator.random(count))
    named = torch.from_numpy(generator.random(count)) < 0.7
    others = torch.from_numpy(generator.integers(num_classes, size=count))
    instances.pred_classes = torch.where(named, truth.gt_classes[chosen], others)
    if with_masks:
        masks = truth.gt_masks.tensor[chosen]
        instances.pred_masks = torch.empty_like(masks)
        for i, (x, y) in enumerate(shifts.tolist()):
            instances.pred_masks[i] = masks[i].roll((y, x), (0, 1))
    return instances
