"""The trained box model on which a mask head learns."""

from detectron2.config import CfgNode
from torch import nn

from d2detr.checkpoint.load_report import LoadReport
from d2detr.checkpoint.loading import load_weights
from d2detr.errors import UserError


def check_frozen_weights(cfg: CfgNode) -> None:
    """Check that training would load one box model and not two, of which one is overwritten.

    Raises:
        UserError: ``MODEL.WEIGHTS`` and ``MODEL.DETR.FROZEN_WEIGHTS`` are both set, or neither
            although the box model is frozen.
    """
    weights, frozen = cfg.MODEL.WEIGHTS, cfg.MODEL.DETR.FROZEN_WEIGHTS
    if cfg.MODEL.DETR.FREEZE_BOX_MODEL and not (weights or frozen):
        raise UserError(
            "MODEL.DETR.FREEZE_BOX_MODEL is True, but there are no weights to freeze: set "
            "MODEL.WEIGHTS or MODEL.DETR.FROZEN_WEIGHTS to a trained box model."
        )
    if weights and frozen:
        raise UserError(
            f"MODEL.WEIGHTS {weights} and MODEL.DETR.FROZEN_WEIGHTS {frozen} are both set, but "
            "each would overwrite the other. To train a new mask head on a frozen box model, set "
            'MODEL.WEIGHTS to ""; to train on from MODEL.WEIGHTS, set FROZEN_WEIGHTS to "", and '
            "FREEZE_BOX_MODEL to True if the box model shall not change."
        )


def load_frozen_weights(model: nn.Module, path: str, *, trusted: bool = False) -> None:
    """Load the box model of a file and leave the mask head as it is.

    Args:
        model: a DETR with a mask head.
        path: ``MODEL.DETR.FROZEN_WEIGHTS``: whatever ``MODEL.WEIGHTS`` takes.
        trusted: see :func:`load_weights`.

    Raises:
        UserError: the file cannot be had, or is not of the whole box model.
    """
    # A panoptic file has a mask head of its own, which is not to be mistaken for the new one.
    mask_head = {key: value.clone() for key, value in model.mask_head.state_dict().items()}
    key = "MODEL.DETR.FROZEN_WEIGHTS"
    report = load_weights(model, path, trusted=trusted, key=key)
    model.mask_head.load_state_dict(mask_head)
    check_box_model_is_trained(report, f"{key} {path}")


def check_box_model_is_trained(report: LoadReport, source: str) -> None:
    """Check that weights leave nothing random that is frozen.

    Args:
        report: of loading them into a DETR whose box model is frozen.
        source: of the weights, for the message.

    Raises:
        UserError: parts of the box model were not in the weights.
    """
    lacking = [key for key in report.random if not key.startswith("mask_head.")]
    if lacking or report.new_classes:
        what = f"the classes {', '.join(report.new_classes)}"
        if lacking:
            what = f"{len(lacking)} tensors, such as {lacking[0]}"
        raise UserError(
            f"{source} lacks {what}, which could never be learned, as the box model is frozen. "
            "Train boxes of these classes first, or train boxes and masks together: MODEL.WEIGHTS "
            "in place of MODEL.DETR.FROZEN_WEIGHTS, and MODEL.DETR.FREEZE_BOX_MODEL False."
        )
