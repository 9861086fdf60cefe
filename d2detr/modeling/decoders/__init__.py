"""The decoders, one file each, over one loop."""

from d2detr.modeling.decoders.conditional import ConditionalDecoder
from d2detr.modeling.decoders.dab import DABDecoder
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY, Decoder, build_decoder
from d2detr.modeling.decoders.detr import DETRDecoder

__all__ = [
    "DECODER_REGISTRY",
    "ConditionalDecoder",
    "DABDecoder",
    "DETRDecoder",
    "Decoder",
    "build_decoder",
]
