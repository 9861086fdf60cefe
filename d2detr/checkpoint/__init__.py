"""Reading DETR's weights in every format that they come in.

``read_checkpoint`` reads a file, ``recognise_format`` tells its format by its keys, one module per
format renames them, and ``LoadsDetrWeights`` fits them to a model.
"""

from d2detr.checkpoint.adapting import LoadsDetrWeights
from d2detr.checkpoint.checkpointer import extend_detection_checkpointer
from d2detr.checkpoint.files import fetch_weights, read_checkpoint
from d2detr.checkpoint.formats import recognise_format
from d2detr.checkpoint.frozen import (
    check_box_model_is_trained,
    check_frozen_weights,
    load_frozen_weights,
)
from d2detr.checkpoint.original import from_original, to_original
from d2detr.checkpoint.releases import RELEASES, register_releases

__all__ = [
    "RELEASES",
    "LoadsDetrWeights",
    "check_box_model_is_trained",
    "check_frozen_weights",
    "extend_detection_checkpointer",
    "fetch_weights",
    "from_original",
    "load_frozen_weights",
    "read_checkpoint",
    "recognise_format",
    "register_releases",
    "to_original",
]
