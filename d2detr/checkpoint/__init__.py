"""Reading DETR's weights in every format that they come in.

``load_weights`` is the way into a model. ``fetch_weights`` finds a file, ``read_checkpoint`` reads
it, ``recognise_format`` tells its format by its keys, one module per format renames them, and
``adapt_weights`` fits them to a model.
"""

from d2detr.checkpoint.adapting import adapt_weights
from d2detr.checkpoint.checkpointer import extend_detection_checkpointer
from d2detr.checkpoint.fetching import fetch_weights
from d2detr.checkpoint.files import read_checkpoint
from d2detr.checkpoint.formats import recognise_format
from d2detr.checkpoint.frozen import (
    check_box_model_is_trained,
    check_frozen_weights,
    load_frozen_weights,
)
from d2detr.checkpoint.hub import register_hub
from d2detr.checkpoint.load_report import LoadReport
from d2detr.checkpoint.loading import load_weights
from d2detr.checkpoint.original import from_original, to_original
from d2detr.checkpoint.releases import RELEASES, register_releases

__all__ = [
    "RELEASES",
    "LoadReport",
    "adapt_weights",
    "check_box_model_is_trained",
    "check_frozen_weights",
    "extend_detection_checkpointer",
    "fetch_weights",
    "from_original",
    "load_frozen_weights",
    "load_weights",
    "read_checkpoint",
    "recognise_format",
    "register_hub",
    "register_releases",
    "to_original",
]
