"""Pascal VOC's own AP beside that of COCO, which tells small objects from large ones."""

from __future__ import annotations

from typing import Any

from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
)

from d2detr.evaluation.coco_evaluation import FastCOCOEvaluator


def build_voc_evaluator(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    """Build an evaluator whose results are "bbox", as of COCO, and "voc", as of Pascal VOC.

    Objects that are marked as difficult count for COCO's AP; for Pascal VOC's they do not.

    Args:
        dataset_name: a dataset that Detectron2 registered as Pascal VOC.
        output_dir: gets the annotations in COCO's format, and the results.
    """
    # The fast implementation takes numbers as image ids only; those of VOC are words.
    coco = FastCOCOEvaluator(dataset_name, output_dir=output_dir, use_fast_impl=False)
    return DatasetEvaluators([coco, _VocEvaluator(dataset_name)])


class _VocEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluator, whose results have a name of their own."""

    def evaluate(self) -> dict[str, Any] | None:
        results = super().evaluate()
        return results and {"voc": results["bbox"]}
