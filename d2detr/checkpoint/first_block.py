"""The first block of a DC5 backbone, of which weights look alike whether it is dilated or not."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from d2detr.checkpoint.formats import FORMATS, WeightFormat
from d2detr.checkpoint.metadata import DILATES_FIRST_BLOCK
from d2detr.modeling import DETR, backbone

logger = logging.getLogger(__name__)

_CONV = "the first block's 3x3 convolution of the DC5 backbone"


def dilates_first_block(
    keys: Iterable[str], form: WeightFormat | None, facts: Mapping[str, Any]
) -> bool | None:
    """Tell how DC5 weights were trained, if they are such.

    Detectron2's ResNet, which the wrapper uses, dilates the first block; torchvision's and timm's,
    which all others use, do not.

    Args:
        keys: of the weights, as they are in the file.
        form: their format.
        facts: their metadata.

    Returns:
        None where nothing tells: in weights of a backbone alone, which were trained without any
        dilation, and in old files of this project.
    """
    if DILATES_FIRST_BLOCK in facts:
        return facts[DILATES_FIRST_BLOCK]
    if form is None or form is FORMATS[0] or form.backbone_only:
        return None
    return any(re.search(r"(^|\.)res5\.0\.", key) for key in keys)


def choose_first_block(detr: DETR, told: bool | None) -> None:
    """Dilate the first block as the weights were trained, unless the config decides.

    Args:
        detr: the model, changed in place.
        told: of :func:`dilates_first_block`.
    """
    if backbone.res5_dilation(detr.backbone) == 1:
        return
    wanted = detr.dc5_first_block
    if wanted == "auto" and told is not None:
        backbone.dilate_first_block(detr.backbone, told)
        logger.info("The weights were trained with %s %s.", _CONV, _in_words(told))
        return
    present = backbone.dilates_first_block(detr.backbone)
    if wanted == "auto":
        logger.warning(
            "Nothing in the weights tells whether they were trained with %s dilated; it is taken "
            "for %s. MODEL.DETR.DC5_FIRST_BLOCK decides otherwise.",
            _CONV,
            _in_words(present),
        )
    elif told not in (None, present):
        logger.warning(
            "The weights were trained with %s %s, but MODEL.DETR.DC5_FIRST_BLOCK is %s.",
            _CONV,
            _in_words(told),
            wanted,
        )


def _in_words(dilated: bool) -> str:
    return "dilated" if dilated else "undilated"
