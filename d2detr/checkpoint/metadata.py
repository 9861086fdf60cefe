"""Facts about weights that travel in the metadata of a state dict, as torch's versions do.

:class:`d2detr.modeling.DETR` tells them in its state dict.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

CLASS_NAMES = "class_names"  # of the class head, in order, without no-object
CLASSIFICATION = "classification"  # what the logits of the class head mean
NUM_HEADS = "num_heads"  # of the transformer
NUM_QUERIES = "num_queries"  # of the decoder
RES5_DILATION = "res5_dilation"  # 2 in a DC5 backbone, else 1
DILATES_FIRST_BLOCK = "dilates_first_block"  # of a DC5 backbone: whether res5's first block does
FACTS = (
    CLASS_NAMES,
    CLASSIFICATION,
    NUM_HEADS,
    NUM_QUERIES,
    RES5_DILATION,
    DILATES_FIRST_BLOCK,
)


def describe(state_dict: OrderedDict, **facts: Any) -> None:
    """Add facts about the model whose weights these are."""
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is None:
        metadata = state_dict._metadata = OrderedDict()
    metadata.setdefault("", {}).update(facts)


def description(state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what is known about the module at ``prefix``."""
    metadata = getattr(state_dict, "_metadata", None) or {}
    return metadata.get(prefix.removesuffix("."), {})
