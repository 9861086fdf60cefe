from d2detr.layers.attention import MultiheadAttention, ScaledDotProduct
from d2detr.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_box_iou
from d2detr.layers.checkpointing import recompute_activations
from d2detr.layers.conditional_attention import (
    ConditionalCrossAttention,
    ContentPositionSelfAttention,
)
from d2detr.layers.deformable_attention import DeformableAttention, sample_levels
from d2detr.layers.focal import sum_of_focal
from d2detr.layers.mlp import MLP
from d2detr.layers.position_encoding import (
    LearnedPositionEncoding,
    SinePositionEncoding,
    build_position_encoding,
)
from d2detr.layers.precision import at_least_float32
from d2detr.layers.reference import inverse_sigmoid, move_reference, sine_of_reference
from d2detr.layers.transformer_layer import TransformerLayer

__all__ = [
    "MLP",
    "ConditionalCrossAttention",
    "ContentPositionSelfAttention",
    "DeformableAttention",
    "LearnedPositionEncoding",
    "MultiheadAttention",
    "ScaledDotProduct",
    "SinePositionEncoding",
    "TransformerLayer",
    "at_least_float32",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "build_position_encoding",
    "generalized_box_iou",
    "inverse_sigmoid",
    "move_reference",
    "recompute_activations",
    "sample_levels",
    "sine_of_reference",
    "sum_of_focal",
]
