"""The decoders, one file each, over one loop."""

from d2detr.modeling.decoders.conditional import ConditionalDecoder
from d2detr.modeling.decoders.dab import DABDecoder
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY, Decoder, build_decoder
from d2detr.modeling.decoders.deformable import DeformableDecoder
from d2detr.modeling.decoders.detr import DETRDecoder
from d2detr.modeling.decoders.dino import DINODecoder

__all__ = [
    "DECODER_REGISTRY",
    "ConditionalDecoder",
    "DABDecoder",
    "DETRDecoder",
    "DINODecoder",
    "Decoder",
    "DeformableDecoder",
    "build_decoder",
]
