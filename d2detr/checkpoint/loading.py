import logging
import os
from collections.abc import Mapping

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.utils.file_io import PathManager
from torch import Tensor

from d2detr.checkpoint.original import from_original, is_original
from d2detr.errors import UserError

logger = logging.getLogger(__name__)

_MASK_HEAD = "mask_head."
# The category ids of COCO's contiguous classes: 80 things, or 133 things and stuff.
_COCO_IDS = {
    80: [x["id"] for x in COCO_CATEGORIES if x["isthing"]],
    133: [x["id"] for x in COCO_CATEGORIES],
}
# Classes of the original heads, unused category ids included: detection and panoptic.
_NUM_ORIGINAL_CLASSES = (91, 250)


def adapt_state_dict(
    state_dict: dict[str, Tensor], prefix: str, model_state: Mapping[str, Tensor]
) -> None:
    """Make a state dict of any known format loadable, in place.

    DETR calls it from its load hook, so that ``load_state_dict``, DetectionCheckpointer and
    DefaultPredictor all take the same files. Tensors of another shape than the model's are left
    out, with a warning, except for the class head of an original checkpoint in a COCO model of 80
    (or, from a panoptic checkpoint, 133) contiguous classes, whose rows are picked by category id.

    Args:
        state_dict: all weights to load; those below ``prefix`` are replaced.
        prefix: where the model stands in ``state_dict``, "" for the model itself.
        model_state: the model's own state dict.

    Raises:
        UserError: there are weights, but none for this model.
    """
    keys = [key for key in state_dict if key.startswith(prefix)]
    weights = {key.removeprefix(prefix): state_dict[key] for key in keys}
    if is_original(weights):
        weights = from_original(weights)
    for key, value in list(weights.items()):
        if key in model_state and value.shape != model_state[key].shape:
            weights[key] = _fit(key, value, model_state[key])
            if weights[key] is None:
                del weights[key]
    if keys and not weights.keys() & model_state.keys():
        raise UserError(
            f"The weights fit no parameter of this model. The file has, for example, "
            f"{keys[:3]}; the model needs, for example, {list(model_state)[:3]}."
        )
    missing = model_state.keys() - weights.keys()
    is_detr = any(key.startswith("transformer.") for key in weights)  # and not a backbone alone
    if is_detr and any(key.startswith(_MASK_HEAD) for key in missing):
        logger.warning("The weights have no mask head for this model: it starts from scratch.")
    for key in keys:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in weights.items()})


def _fit(key: str, value: Tensor, own: Tensor) -> Tensor | None:
    if key.startswith("heads.class_embed.") and value.shape[1:] == own.shape[1:]:
        num_classes = len(value) - 1  # no-object is the last row
        ids = _COCO_IDS.get(len(own) - 1, ())
        if num_classes in _NUM_ORIGINAL_CLASSES and ids and max(ids) < num_classes:
            return value[torch.tensor([*ids, num_classes])]
    logger.warning(
        "%s keeps its initial value: it is %s in the weights and %s in the model.",
        key,
        tuple(value.shape),
        tuple(own.shape),
    )
    return None


def fetch_weights(path: str, key: str = "MODEL.WEIGHTS") -> None:
    """Make sure that a weights file is on this machine, downloading it if ``path`` is a URL.

    Args:
        path: ``MODEL.WEIGHTS``: a file, a URL, ``detectron2://...``, or "" for none.
        key: the config key that ``path`` is the value of, for the messages.

    Raises:
        UserError: the file does not exist or cannot be downloaded.
    """
    if not path:
        return
    try:
        found = os.path.isfile(PathManager.get_local_path(path))
    except Exception as error:  # a handler may raise whatever its library does
        raise UserError(
            f"{key} {path} cannot be downloaded: {error}. {key} also takes the path of a file, or "
            '"" for none.'
        ) from None
    if not found:
        raise UserError(f"{key} {path} does not exist.")
