from d2detr.modeling.criterion import SetCriterion
from d2detr.modeling.matcher import HungarianMatcher, Matching
from d2detr.modeling.meta_arch import DETR
from d2detr.modeling.targets import Targets
from d2detr.modeling.transformer import Transformer

__all__ = ["DETR", "HungarianMatcher", "Matching", "SetCriterion", "Targets", "Transformer"]
