from d2detr.modeling.classification import Classification, SigmoidFocal, SoftmaxWithNoObject
from d2detr.modeling.criterion import Group, SetCriterion
from d2detr.modeling.decoders import DECODER_REGISTRY, Decoder, DETRDecoder
from d2detr.modeling.matcher import HungarianMatcher, Matching
from d2detr.modeling.meta_arch import DETR, Encoded
from d2detr.modeling.queries import Decoded, Memory, Queries
from d2detr.modeling.targets import Targets
from d2detr.modeling.transformer import Encoder, Transformer

__all__ = [
    "DECODER_REGISTRY",
    "DETR",
    "Classification",
    "DETRDecoder",
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
    "Targets",
    "Transformer",
]
