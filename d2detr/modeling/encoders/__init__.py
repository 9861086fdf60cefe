"""The encoders, one file each."""

from d2detr.modeling.encoders.deformable import DeformableEncoder
from d2detr.modeling.encoders.detr import DETREncoder
from d2detr.modeling.encoders.encoder import ENCODER_REGISTRY, Encoder, build_encoder

__all__ = ["ENCODER_REGISTRY", "DETREncoder", "DeformableEncoder", "Encoder", "build_encoder"]
