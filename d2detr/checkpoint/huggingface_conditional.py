"""The key names of Conditional DETR and DAB-DETR in Hugging Face transformers."""

from torch import Tensor

from d2detr.checkpoint.conditional import from_conditional, to_conditional
from d2detr.checkpoint.huggingface import (
    BACKBONE,
    ENCODER_LAYER,
    LAYERS,
    LIBRARY_TO_HUB,
    OUTER_PARTS,
    RESNET_TO_TIMM,
    complete_prefix,
    join_projections,
    split_projections,
)
from d2detr.checkpoint.renaming import Renaming, StateDict, rename

_DECODER = "model.decoder.layers.*"
_ORIGINAL_DECODER = "transformer.decoder.layers.*"
_ENCODER_ROWS = tuple(
    (f"model.encoder.layers.*.{theirs}", f"transformer.encoder.layers.*.{ours}")
    for theirs, ours in ENCODER_LAYER
)
# What the library's models call the projections in memory; in files they have the original names.
_PROJECTIONS = {
    "q_content": "qcontent",
    "q_pos": "qpos",
    "q_pos_sine": "qpos_sine",
    "k_content": "kcontent",
    "k_pos": "kpos",
    "v": "v",
}
_CONDITIONAL_TO_HUB = Renaming(
    (f"{_DECODER}.{attention}_attn.{theirs}_proj", f"{_DECODER}.{prefix}_{ours}_proj")
    for attention, prefix in (("self", "sa"), ("encoder", "ca"))
    for theirs, ours in _PROJECTIONS.items()
)
_CONDITIONAL_TO_ORIGINAL = Renaming(
    [
        *OUTER_PARTS,
        *_ENCODER_ROWS,
        *(
            (f"{_DECODER}.{theirs}", f"{_ORIGINAL_DECODER}.{ours}")
            for theirs, ours in (
                ("self_attn_layer_norm", "norm1"),
                ("encoder_attn", "cross_attn"),
                ("encoder_attn_layer_norm", "norm2"),
                ("final_layer_norm", "norm3"),
                ("fc1", "linear1"),
                ("fc2", "linear2"),
            )
        ),
    ]
)
_DAB_PROJECTIONS = {
    "query_content": "qcontent",
    "query_pos": "qpos",
    "query_pos_sine": "qpos_sine",
    "key_content": "kcontent",
    "key_pos": "kpos",
    "value": "v",
}
_DAB_TO_ORIGINAL = Renaming(
    [
        (f"{BACKBONE}._backbone", "backbone.0.body"),  # of timm; before the library's own
        *(row for row in OUTER_PARTS if row[1] not in ("query_embed", "class_embed")),
        ("model.query_refpoint_embeddings", "refpoint_embed"),
        ("model.patterns", "transformer.patterns"),
        *_ENCODER_ROWS,
        ("model.encoder.layers.*.activation_fn", "transformer.encoder.layers.*.activation"),
        *(
            (f"{_DECODER}.{theirs}", f"{_ORIGINAL_DECODER}.{ours}")
            for theirs, ours in (
                ("self_attn.self_attn.output_proj", "self_attn.out_proj"),
                ("self_attn.self_attn_layer_norm", "norm1"),
                ("cross_attn.cross_attn.output_proj", "cross_attn.out_proj"),
                ("cross_attn.cross_attn_layer_norm", "norm2"),
                ("mlp.final_layer_norm", "norm3"),
                ("mlp.fc1", "linear1"),
                ("mlp.fc2", "linear2"),
                ("mlp.activation_fn", "activation"),
                *(
                    (f"{attention}_attn.{attention}_attn_{theirs}_proj", f"{prefix}_{ours}_proj")
                    for attention, prefix in (("self", "sa"), ("cross", "ca"))
                    for theirs, ours in _DAB_PROJECTIONS.items()
                ),
            )
        ),
    ]
)
_LIBRARY_ENCODER = Renaming(
    [
        (f"{LAYERS[0]}.mlp.fc1", f"{LAYERS[0]}.fc1"),
        (f"{LAYERS[0]}.mlp.fc2", f"{LAYERS[0]}.fc2"),
        (f"{LAYERS[0]}.self_attn.o_proj", f"{LAYERS[0]}.self_attn.out_proj"),
    ]
)
_BOXES = "refpoint_embed.weight"


def from_huggingface_conditional(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a transformers Conditional DETR, of a file or of a model in memory."""
    state_dict = rename(state_dict, complete_prefix)
    for names in (
        _CONDITIONAL_TO_HUB,
        LIBRARY_TO_HUB,
        RESNET_TO_TIMM,
        _CONDITIONAL_TO_ORIGINAL,
    ):
        state_dict = names.to_ours(state_dict)
    return from_conditional(join_projections(state_dict))


def from_huggingface_dab(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a transformers DAB-DETR, of a file or of a model in memory."""
    state_dict = rename(state_dict, complete_prefix)
    for names in (_LIBRARY_ENCODER, RESNET_TO_TIMM, _DAB_TO_ORIGINAL):
        state_dict = names.to_ours(state_dict)
    return from_conditional(join_projections(state_dict))


def to_huggingface_conditional(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a Conditional or DAB :class:`d2detr.modeling.DETR` to the hub's."""
    original = split_projections(to_conditional(state_dict))
    names = _DAB_TO_ORIGINAL if _BOXES in original else _CONDITIONAL_TO_ORIGINAL
    return names.to_theirs(original)
