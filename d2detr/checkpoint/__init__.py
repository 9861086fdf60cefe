from d2detr.checkpoint.loading import adapt_state_dict, fetch_weights
from d2detr.checkpoint.original import from_original, is_original

__all__ = ["adapt_state_dict", "fetch_weights", "from_original", "is_original"]
