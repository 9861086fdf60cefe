"""The key names of DETR in Hugging Face transformers.

Files have the names of the hub, which the library still writes; a model in memory has others. Both
are mapped to the names of the original release, whose mask head the library keeps.
"""

import re

import torch
from torch import Tensor

from d2detr.checkpoint.original import PANOPTIC_PREFIX, from_original, to_original
from d2detr.checkpoint.renaming import Renaming, StateDict, rename

BACKBONE = "model.backbone.conv_encoder.model"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

ENCODER_LAYER = (
    ("self_attn_layer_norm", "norm1"),
    ("final_layer_norm", "norm2"),
    ("fc1", "linear1"),
    ("fc2", "linear2"),
)
_DECODER_LAYER = (
    ("self_attn_layer_norm", "norm1"),
    ("encoder_attn", "multihead_attn"),
    ("encoder_attn_layer_norm", "norm2"),
    ("final_layer_norm", "norm3"),
    ("fc1", "linear1"),
    ("fc2", "linear2"),
)
OUTER_PARTS = (
    ("class_labels_classifier", "class_embed"),
    ("bbox_predictor", "bbox_embed"),
    ("model.query_position_embeddings", "query_embed"),
    ("model.input_projection", "input_proj"),
    ("model.backbone.position_embedding.row_embeddings", "backbone.1.row_embed"),
    ("model.backbone.position_embedding.column_embeddings", "backbone.1.col_embed"),
    (BACKBONE, "backbone.0.body"),
    ("model.encoder", "transformer.encoder"),
    ("model.decoder", "transformer.decoder"),
    ("model.encoder.layernorm", "transformer.encoder.norm"),
    ("model.decoder.layernorm", "transformer.decoder.norm"),
)
_HUB_TO_ORIGINAL = Renaming(
    [
        *OUTER_PARTS,
        *(
            (f"model.{part}.layers.*.{theirs}", f"transformer.{part}.layers.*.{ours}")
            for part, layer in (("encoder", ENCODER_LAYER), ("decoder", _DECODER_LAYER))
            for theirs, ours in layer
        ),
    ]
)
LAYERS = ("model.encoder.layers.*", "model.decoder.layers.*")
LIBRARY_TO_HUB = Renaming(
    [
        ("model.backbone.model", BACKBONE),
        ("model.position_embedding", "model.backbone.position_embedding"),
        *((f"{layer}.mlp.{fc}", f"{layer}.{fc}") for layer in LAYERS for fc in ("fc1", "fc2")),
        *(
            (f"{layer}.{attention}.o_proj", f"{layer}.{attention}.out_proj")
            for layer in LAYERS
            for attention in ("self_attn", "encoder_attn")
        ),
        ("bbox_attention.q_proj", "bbox_attention.q_linear"),
        ("bbox_attention.k_proj", "bbox_attention.k_linear"),
        ("mask_head.output_conv", "mask_head.out_lay"),
        *(
            row
            for i, stage in enumerate(
                ("conv1", "conv2", *(f"fpn_stages.{x}.refine" for x in range(3)))
            )
            for row in (
                (f"mask_head.{stage}.conv", f"mask_head.lay{i + 1}"),
                (f"mask_head.{stage}.norm", f"mask_head.gn{i + 1}"),
            )
        ),
        *((f"mask_head.fpn_stages.{i}.fpn_adapter", f"mask_head.adapter{i + 1}") for i in range(3)),
    ]
)
# The library's own ResNet, used where timm is not.
_RESNET_PARTS = (("convolution", "conv", "downsample.0"), ("normalization", "bn", "downsample.1"))
RESNET_TO_TIMM = Renaming(
    row
    for theirs, ours, shortcut in _RESNET_PARTS
    for row in (
        (f"{BACKBONE}.embedder.embedder.{theirs}", f"{BACKBONE}.{ours}1"),
        *(
            (
                f"{BACKBONE}.encoder.stages.{stage}.layers.*.{old}",
                f"{BACKBONE}.layer{stage + 1}.*.{new}",
            )
            for stage in range(4)
            for old, new in (
                (f"shortcut.{theirs}", shortcut),
                *((f"layer.{i}.{theirs}", f"{ours}{i + 1}") for i in range(3)),
            )
        ),
    )
)


def from_huggingface(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a transformers DETR to those of :class:`d2detr.modeling.DETR`.

    Takes ``DetrForObjectDetection``, ``DetrForSegmentation`` and the bare ``DetrModel``, in the
    names of files and of models in memory, with a timm backbone or the library's own ResNet.
    """
    state_dict = rename(state_dict, complete_prefix)
    for names in (LIBRARY_TO_HUB, RESNET_TO_TIMM, _HUB_TO_ORIGINAL):
        state_dict = names.to_ours(state_dict)
    return from_original(join_projections(state_dict))


def to_huggingface(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a :class:`d2detr.modeling.DETR` to those of files on the hub."""
    original = to_original(state_dict)
    prefix = PANOPTIC_PREFIX if any(key.startswith(PANOPTIC_PREFIX) for key in original) else ""
    boxes = {k.removeprefix(prefix): v for k, v in original.items() if k.startswith(prefix)}
    masks = {k: v for k, v in original.items() if not k.startswith(prefix)}
    hub = _HUB_TO_ORIGINAL.to_theirs(split_projections(boxes))
    return {**{prefix + key: value for key, value in hub.items()}, **masks}


def complete_prefix(key: str) -> str:
    """Give the keys of parts of a model, such as the bare one, the prefix that the whole has."""
    key = key.removeprefix(PANOPTIC_PREFIX)
    of_bare_model = re.match(
        r"(backbone|encoder|decoder|(query_)?(position|refpoint)_emb|input_proj|level_embed"
        r"|reference_points|enc_output|pos_trans)",
        key,
    )
    return f"model.{key}" if of_bare_model else key


def join_projections(state_dict: StateDict) -> dict[str, Tensor]:
    """Join the projections of queries, keys and values, which the original keeps in one tensor."""
    joined = {}
    for key, value in state_dict.items():
        attention, _, rest = key.partition(".q_proj.")
        parts = [f"{attention}.{name}.{rest}" for name in _PROJECTIONS]
        if rest and all(part in state_dict for part in parts):
            joined[f"{attention}.in_proj_{rest}"] = torch.cat([state_dict[x] for x in parts])
        elif not re.search(r"\.[qkv]_proj\.", key):
            joined[key] = value
    return joined


def split_projections(state_dict: StateDict) -> dict[str, Tensor]:
    """Split what :func:`join_projections` joins."""
    split = {}
    for key, value in state_dict.items():
        attention, _, rest = key.partition(".in_proj_")
        if rest:
            for name, part in zip(_PROJECTIONS, value.chunk(3), strict=True):
                split[f"{attention}.{name}.{rest}"] = part.contiguous()
        else:
            split[key] = value
    return split
