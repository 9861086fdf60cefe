import logging
from importlib import import_module
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
)

from d2detr.errors import UserError
from d2detr.evaluation.coco_evaluation import FastCOCOEvaluator
from d2detr.evaluation.panoptic_evaluation import PanopticEvaluator
from d2detr.evaluation.pascal_voc import build_voc_evaluator
from d2detr.evaluation.things import ThingsEvaluator

logger = logging.getLogger(__name__)


def _build_panoptic(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    """Boxes and masks of things, and panoptic quality if the model segments."""
    evaluators = []
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file and Path(json_file).is_file():
        evaluators.append(ThingsEvaluator(name, output_dir=output_dir))
    else:
        logger.warning(f"{name} has no instance annotations ({json_file}): no box and mask AP.")
    if cfg.MODEL.DETR.TEST.PANOPTIC_ON:
        # Last, because Detectron2's changes the predictions.
        api = cfg.TEST.PANOPTIC_API
        if api:
            _require_panopticapi()
        evaluators.append((COCOPanopticEvaluator if api else PanopticEvaluator)(name, output_dir))
    if not evaluators:
        raise UserError(
            f"Nothing of dataset {name} can be evaluated: it has no instance annotations "
            f"({json_file}), and MODEL.DETR.TEST.PANOPTIC_ON is False."
        )
    return DatasetEvaluators(evaluators)


def _require_panopticapi() -> None:
    try:
        import_module("panopticapi")
    except ImportError as error:
        raise UserError(
            "TEST.PANOPTIC_API needs panopticapi: pip install "
            "git+https://github.com/cocodataset/panopticapi.git, or set it to False for the same "
            "numbers without it."
        ) from error


_EVALUATORS = {
    "coco": lambda cfg, name, output_dir: FastCOCOEvaluator(name, output_dir=output_dir),
    "coco_panoptic_seg": _build_panoptic,
    "lvis": lambda cfg, name, output_dir: LVISEvaluator(name, output_dir=output_dir),
    "pascal_voc": lambda cfg, name, output_dir: build_voc_evaluator(name, output_dir),
}


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | None = None
) -> DatasetEvaluator:
    """Build the evaluator that a dataset's metadata asks for by ``evaluator_type``.

    Args:
        cfg: ``OUTPUT_DIR`` is read, and for panoptic datasets what the model predicts.
        dataset_name: a registered dataset; without ``evaluator_type`` it is evaluated as COCO.
        output_dir: where results are written; default ``OUTPUT_DIR/inference``.

    Raises:
        UserError: no evaluator is known for the type, or it lacks what it needs.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if evaluator_type not in _EVALUATORS:
        raise UserError(
            f"Dataset {dataset_name} has evaluator_type {evaluator_type!r}; known are "
            f"{', '.join(_EVALUATORS)}. Override Trainer.build_evaluator for another one."
        )
    output_dir = output_dir or str(Path(cfg.OUTPUT_DIR) / "inference")
    return _EVALUATORS[evaluator_type](cfg, dataset_name, output_dir)
