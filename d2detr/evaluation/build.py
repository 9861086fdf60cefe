from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
)

from d2detr.errors import UserError
from d2detr.evaluation.pascal_voc import build_voc_evaluator

_EVALUATORS = {
    "coco": lambda name, output_dir: COCOEvaluator(name, output_dir=output_dir),
    "lvis": lambda name, output_dir: LVISEvaluator(name, output_dir=output_dir),
    "pascal_voc": build_voc_evaluator,
}


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | None = None
) -> DatasetEvaluator:
    """Build the evaluator that a dataset's metadata asks for by ``evaluator_type``.

    Args:
        cfg: ``OUTPUT_DIR`` is read.
        dataset_name: a registered dataset; without ``evaluator_type`` it is evaluated as COCO.
        output_dir: where results are written; default ``OUTPUT_DIR/inference``.

    Raises:
        UserError: no evaluator is known for the type.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if evaluator_type not in _EVALUATORS:
        raise UserError(
            f"Dataset {dataset_name} has evaluator_type {evaluator_type!r}; known are "
            f"{', '.join(_EVALUATORS)}. Override Trainer.build_evaluator for another one."
        )
    output_dir = output_dir or str(Path(cfg.OUTPUT_DIR) / "inference")
    return _EVALUATORS[evaluator_type](dataset_name, output_dir)
