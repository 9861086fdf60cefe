"""Which format a state dict has, told by its keys alone."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from d2detr.checkpoint.conditional import from_conditional
from d2detr.checkpoint.deformable import from_deformable
from d2detr.checkpoint.detrex import (
    from_detrex,
    from_detrex_conditional,
    from_detrex_deformable,
)
from d2detr.checkpoint.huggingface import from_huggingface
from d2detr.checkpoint.huggingface_conditional import (
    from_huggingface_conditional,
    from_huggingface_dab,
)
from d2detr.checkpoint.huggingface_deformable import from_huggingface_deformable
from d2detr.checkpoint.imagenet import from_detectron2, from_swin, from_torchvision
from d2detr.checkpoint.original import from_original
from d2detr.checkpoint.renaming import StateDict
from d2detr.checkpoint.wrapper import from_wrapper


@dataclass(frozen=True)
class WeightFormat:
    """A naming of DETR's weights.

    Attributes:
        name: for people.
        pattern: begins at least one key of this format, and no key of the formats after it.
        to_d2detr: renames a state dict to the keys of :class:`d2detr.modeling.DETR`.
        backbone_only: whether it has weights of the backbone alone.
        classification: of its class heads; None if the metadata of the weights tells.
    """

    name: str
    pattern: str
    to_d2detr: Callable[[StateDict], dict[str, Tensor]]
    backbone_only: bool = False
    classification: str | None = "softmax"


FORMATS = (
    WeightFormat("d2detr", r"heads\.(\d+\.)?(class|bbox)_embed\.", dict, classification=None),
    WeightFormat("DETR's Detectron2 wrapper", r"(detr\.)+backbone\.0\.backbone\.", from_wrapper),
    WeightFormat(
        "original Conditional DETR, DAB-DETR or DN-DETR",
        r"transformer\.decoder\.layers\.0\.ca_qcontent_proj\.",
        from_conditional,
        classification="focal",
    ),
    WeightFormat(
        "original Deformable DETR or DINO",
        r"transformer\.decoder\.layers\.0\.cross_attn\.sampling_offsets\.",
        from_deformable,
        classification="focal",
    ),
    WeightFormat("original DETR", r"(detr\.)?backbone\.0\.body\.", from_original),
    WeightFormat(
        "Hugging Face Conditional DETR",
        r"(model\.)?decoder\.layers\.0\.(sa_qcontent|self_attn\.q_content)_proj\.",
        from_huggingface_conditional,
        classification="focal",
    ),
    WeightFormat(
        "Hugging Face DAB-DETR",
        r"(model\.)?query_refpoint_embeddings\.",
        from_huggingface_dab,
        classification="focal",
    ),
    WeightFormat(
        "Hugging Face Deformable DETR",
        r"(model\.)?encoder\.layers\.0\.self_attn\.sampling_offsets\.",
        from_huggingface_deformable,
        classification="focal",
    ),
    WeightFormat(
        "Hugging Face DETR", r"(detr\.)?(model\.)?query_position_embeddings\.", from_huggingface
    ),
    WeightFormat(
        "detrex Conditional DETR, DAB-DETR or DN-DETR",
        r"transformer\.decoder\.layers\.0\.attentions\.0\.query_content_proj\.",
        from_detrex_conditional,
        classification="focal",
    ),
    WeightFormat(
        "detrex Deformable DETR or DINO",
        r"transformer\.encoder\.layers\.0\.attentions\.0\.sampling_offsets\.",
        from_detrex_deformable,
        classification="focal",
    ),
    WeightFormat("detrex DETR", r"transformer\.encoder\.layers\.0\.attentions\.", from_detrex),
    WeightFormat("torchvision Swin", r"features\.1\.0\.attn\.relative_", from_swin, True),
    WeightFormat("torchvision or timm ResNet", r"layer1\.0\.conv1\.", from_torchvision, True),
    WeightFormat("Detectron2 ResNet", r"(backbone\.)?res2\.0\.conv1\.", from_detectron2, True),
)

# Other architectures that people try to load, told by a key that DETR has not. Models built on
# DETR come first, because they have DETR's keys too.
_OTHER_ARCHITECTURES = (
    (
        "a model built on Deformable DETR",
        r"(?!(transformer|model)\.(encoder|decoder)\.layers\.).*\.sampling_offsets\.",
    ),
    ("RT-DETR", r".*(dec_score_head|enc_score_head)\."),
    ("Mask2Former or MaskFormer", r"(sem_seg_head\.predictor|model\.pixel_level_module)\."),
    ("Sparse R-CNN", r"init_proposal_(features|boxes)\."),
    ("Mask R-CNN", r"roi_heads?\.mask_(head|predictor)\."),
    ("Faster R-CNN", r"(roi_heads?\.|rpn_head\.|rpn\.head\.)"),
    ("SSD", r"head\.classification_head\.module_list\."),
    (
        "FCOS",
        r"(head\.ctrness|head\.regression_head\.bbox_ctrness|proposal_generator\.fcos_head)\.",
    ),
    ("RetinaNet", r"(head\.cls_subnet|head\.classification_head|bbox_head\.retina_cls)\."),
    ("YOLO", r"(module_list\.0\.|model\.0\.conv\.|model\.model\.0\.|.*stem\.conv\.conv\.)"),
    ("Segment Anything", r"(image_encoder\.|mask_decoder\.)"),
    ("a vision transformer", r"(.*\.)?(cls_token|patch_embed\.proj)"),
)


def recognise_format(keys: Iterable[str]) -> WeightFormat | None:
    """Return the format that keys belong to, or None."""
    keys = list(keys)
    return next((x for x in FORMATS if _any_starts(x.pattern, keys)), None)


def recognise_other_architecture(keys: Iterable[str]) -> str | None:
    """Return the name of the architecture, other than DETR, that keys belong to, or None."""
    keys = list(keys)
    return next((x for x, pattern in _OTHER_ARCHITECTURES if _any_starts(pattern, keys)), None)


def _any_starts(pattern: str, keys: list[str]) -> bool:
    start = re.compile(pattern)
    return any(start.match(key) for key in keys)
