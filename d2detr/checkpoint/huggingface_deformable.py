"""The key names of Deformable DETR in Hugging Face transformers."""

from torch import Tensor

from d2detr.checkpoint.deformable import from_deformable, to_deformable
from d2detr.checkpoint.huggingface import (
    BACKBONE,
    ENCODER_LAYER,
    LIBRARY_TO_HUB,
    RESNET_TO_TIMM,
    complete_prefix,
    join_projections,
    split_projections,
)
from d2detr.checkpoint.renaming import Renaming, StateDict, rename

_TO_ORIGINAL = Renaming(
    [
        ("model", "transformer"),
        ("model.input_proj", "input_proj"),
        ("model.query_position_embeddings", "query_embed"),
        (BACKBONE, "backbone.0.body"),
        *(
            (f"model.{part}.layers.*.{theirs}", f"transformer.{part}.layers.*.{ours}")
            for part, layer in (
                ("encoder", ENCODER_LAYER),
                (
                    "decoder",
                    (
                        ("self_attn_layer_norm", "norm2"),
                        ("encoder_attn", "cross_attn"),
                        ("encoder_attn_layer_norm", "norm1"),
                        ("final_layer_norm", "norm3"),
                        ("fc1", "linear1"),
                        ("fc2", "linear2"),
                    ),
                ),
            )
            for theirs, ours in layer
        ),
    ]
)


def from_huggingface_deformable(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a transformers Deformable DETR, of a file or of a model in memory."""
    state_dict = rename(state_dict, complete_prefix)
    for names in (LIBRARY_TO_HUB, RESNET_TO_TIMM, _TO_ORIGINAL):
        state_dict = names.to_ours(state_dict)
    return from_deformable(join_projections(state_dict))


def to_huggingface_deformable(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a Deformable :class:`d2detr.modeling.DETR` to the hub's."""
    return _TO_ORIGINAL.to_theirs(split_projections(to_deformable(state_dict)))
