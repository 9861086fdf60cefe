from d2detr.layers.attention import MultiheadAttention
from d2detr.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_box_iou
from d2detr.layers.frozen_norm import fold_frozen_norms
from d2detr.layers.position_encoding import (
    LearnedPositionEncoding,
    SinePositionEncoding,
    build_position_encoding,
)

__all__ = [
    "LearnedPositionEncoding",
    "MultiheadAttention",
    "SinePositionEncoding",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "build_position_encoding",
    "fold_frozen_norms",
    "generalized_box_iou",
]
