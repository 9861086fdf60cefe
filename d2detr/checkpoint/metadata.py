"""Facts about weights that travel in the metadata of a state dict, as torch's versions do."""

from collections import OrderedDict
from typing import Any

CLASS_NAMES = "class_names"  # of the class head, in order, without no-object
ADAPTED = "adapted"  # the keys and shapes are those of the model already


def describe(state_dict: OrderedDict, prefix: str = "", **facts: Any) -> None:
    """Add facts about the module at ``prefix``, which its ``_load_from_state_dict`` is given."""
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is None:
        metadata = state_dict._metadata = OrderedDict()
    metadata.setdefault(prefix.removesuffix("."), {}).update(facts)


def description(state_dict: OrderedDict, prefix: str = "") -> dict[str, Any]:
    """Return what is known about the module at ``prefix``."""
    metadata = getattr(state_dict, "_metadata", None) or {}
    return metadata.get(prefix.removesuffix("."), {})
