"""The trained box model on which a mask head learns."""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

from d2detr.checkpoint.files import fetch_weights
from d2detr.errors import UserError


def check_frozen_weights(cfg: CfgNode) -> None:
    """Check that training would load one box model and not two, of which one is overwritten.

    Raises:
        UserError: ``MODEL.WEIGHTS`` and ``MODEL.DETR.FROZEN_WEIGHTS`` are both set.
    """
    weights, frozen = cfg.MODEL.WEIGHTS, cfg.MODEL.DETR.FROZEN_WEIGHTS
    if weights and frozen:
        raise UserError(
            f"MODEL.WEIGHTS {weights} and MODEL.DETR.FROZEN_WEIGHTS {frozen} are both set, but "
            "each would overwrite the other. To train a new mask head on a frozen box model, set "
            'MODEL.WEIGHTS to ""; to train on from MODEL.WEIGHTS, set FROZEN_WEIGHTS to "", and '
            "FREEZE_BOX_MODEL to True if the box model shall not change."
        )


def load_frozen_weights(path: str, model: nn.Module) -> None:
    """Load the box model of a file and leave the mask head as it is.

    Args:
        path: ``MODEL.DETR.FROZEN_WEIGHTS``: a file of any format that ``MODEL.WEIGHTS`` may have,
            or a URL; "" does nothing.
        model: a DETR with a mask head.

    Raises:
        UserError: the file cannot be had or fits nothing.
    """
    if not path:
        return
    fetch_weights(path, key="MODEL.DETR.FROZEN_WEIGHTS")
    # A panoptic file has a mask head of its own, which is not to be mistaken for the new one.
    mask_head = {key: value.clone() for key, value in model.mask_head.state_dict().items()}
    DetectionCheckpointer(model).load(path, checkpointables=[])
    model.mask_head.load_state_dict(mask_head)
