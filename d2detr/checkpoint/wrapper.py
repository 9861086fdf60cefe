"""The key names of the Detectron2 wrapper that ships with the original DETR."""

from torch import Tensor

from d2detr.checkpoint.original import HEADS
from d2detr.checkpoint.renaming import Renaming, StateDict

# Its criterion holds a class weight, which is no weight of the network.
_UNUSED = "criterion."
_NAMES = Renaming([*HEADS, ("backbone.0.backbone", "backbone")])


def from_wrapper(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of the wrapper to those of :class:`d2detr.modeling.DETR`.

    The network is at ``detr.``, with masks at ``detr.detr.``; its backbone is Detectron2's.
    """
    return _NAMES.to_ours(
        {
            key.removeprefix("detr.").removeprefix("detr."): value
            for key, value in state_dict.items()
            if not key.startswith(_UNUSED)
        }
    )
