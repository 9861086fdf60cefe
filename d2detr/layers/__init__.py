from d2detr.layers.attention import MultiheadAttention, project_memory
from d2detr.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_box_iou
from d2detr.layers.checkpointing import recompute_activations
from d2detr.layers.dropout import dropout, relu_dropout
from d2detr.layers.frozen_norm import fold_frozen_norms
from d2detr.layers.fused_bottleneck import fuse_bottlenecks
from d2detr.layers.position_encoding import (
    LearnedPositionEncoding,
    SinePositionEncoding,
    build_position_encoding,
)
from d2detr.layers.precision import at_least_float32

__all__ = [
    "LearnedPositionEncoding",
    "MultiheadAttention",
    "SinePositionEncoding",
    "at_least_float32",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "build_position_encoding",
    "dropout",
    "fold_frozen_norms",
    "fuse_bottlenecks",
    "generalized_box_iou",
    "project_memory",
    "recompute_activations",
    "relu_dropout",
]
