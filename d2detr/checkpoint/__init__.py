from d2detr.checkpoint.frozen import check_frozen_weights, load_frozen_weights
from d2detr.checkpoint.loading import adapt_state_dict, fetch_weights
from d2detr.checkpoint.original import from_original, is_original

__all__ = [
    "adapt_state_dict",
    "check_frozen_weights",
    "fetch_weights",
    "from_original",
    "is_original",
    "load_frozen_weights",
]
