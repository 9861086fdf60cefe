from d2detr.modeling.classification import Classification, SigmoidFocal, SoftmaxWithNoObject
from d2detr.modeling.criterion import Group, SetCriterion
from d2detr.modeling.decoders import DECODER_REGISTRY, Decoder, DETRDecoder
from d2detr.modeling.encoders import ENCODER_REGISTRY, DETREncoder, Encoder
from d2detr.modeling.matcher import HungarianMatcher, Matching
from d2detr.modeling.meta_arch import DETR, Encoded
from d2detr.modeling.queries import Decoded, Memory, Queries
from d2detr.modeling.swin import Swin
from d2detr.modeling.targets import Targets
from d2detr.modeling.transformer import Transformer

__all__ = [
    "DECODER_REGISTRY",
    "DETR",
    "ENCODER_REGISTRY",
    "Classification",
    "DETRDecoder",
    "DETREncoder",
    "Encoded",
    "Decoded",
    "Decoder",
    "Encoder",
    "Group",
    "HungarianMatcher",
    "Matching",
    "Memory",
    "Queries",
    "SetCriterion",
    "SigmoidFocal",
    "SoftmaxWithNoObject",
    "Swin",
    "Targets",
    "Transformer",
]
