from d2detr.evaluation.evaluators import build_evaluator
from d2detr.evaluation.panoptic_evaluation import PanopticEvaluator, evaluate_panoptic_files
from d2detr.evaluation.panoptic_quality import PanopticQuality
from d2detr.evaluation.things import ThingsEvaluator

__all__ = [
    "PanopticEvaluator",
    "PanopticQuality",
    "ThingsEvaluator",
    "build_evaluator",
    "evaluate_panoptic_files",
]
