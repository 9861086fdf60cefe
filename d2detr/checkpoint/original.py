"""The key names of the original DETR release."""

import re
from collections.abc import Mapping

from torch import Tensor

_PREFIXES = {
    "backbone.1.": "position_encoding.",
    "query_embed.": "transformer.decoder.query_embed.",
    "class_embed.": "heads.class_embed.",
    "bbox_embed.": "heads.bbox_embed.",
    "bbox_attention.": "mask_head.attention.",
    "mask_head.lay1.": "mask_head.first.conv.",
    "mask_head.gn1.": "mask_head.first.norm.",
    "mask_head.out_lay.": "mask_head.predictor.",
    **{f"mask_head.lay{i + 2}.": f"mask_head.layers.{i}.conv." for i in range(4)},
    **{f"mask_head.gn{i + 2}.": f"mask_head.layers.{i}.norm." for i in range(4)},
    **{f"mask_head.adapter{i + 1}.": f"mask_head.adapters.{i}." for i in range(3)},
}
_BACKBONE = "backbone.0.body."
_BACKBONE_PARTS = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer(\d)\."), lambda match: f"res{int(match[1]) + 1}."),
    (re.compile(r"\bbn(\d)\."), r"conv\1.norm."),
    (re.compile(r"\bdownsample\.0\."), "shortcut."),
    (re.compile(r"\bdownsample\.1\."), "shortcut.norm."),
)


def is_original(state_dict: Mapping[str, Tensor]) -> bool:
    """Tell whether the keys are those of the original release, detection or panoptic."""
    return any(key.removeprefix("detr.").startswith(_BACKBONE) for key in state_dict)


def from_original(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an original checkpoint to those of :class:`d2detr.modeling.DETR`.

    The keys of a panoptic checkpoint start with ``detr.``, which is dropped.
    """
    return {_rename(key.removeprefix("detr.")): value for key, value in state_dict.items()}


def _rename(key: str) -> str:
    if key.startswith(_BACKBONE):
        key = key.removeprefix(_BACKBONE)
        for pattern, replacement in _BACKBONE_PARTS:
            key = pattern.sub(replacement, key)
        return "backbone." + key
    for old, new in _PREFIXES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
