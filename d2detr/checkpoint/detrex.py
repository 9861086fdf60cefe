"""The key names of detrex's DETR, whose backbone is Detectron2's, or with DC5 torchvision's."""

import re

import torch.nn.functional as F
from torch import Tensor

from d2detr.checkpoint.conditional import CONDITIONAL_HEADS, DAB_HEADS, SCALES
from d2detr.checkpoint.deformable import DEFORMABLE, DINO, PROPOSALS, place_heads
from d2detr.checkpoint.original import HEADS, RESNET
from d2detr.checkpoint.renaming import Renaming, StateDict

_UNUSED = "criterion."
_ENCODER_LAYER = (
    ("attentions.0.attn", "self_attn"),
    ("ffns.0.layers.0.0", "linear1"),
    ("ffns.0.layers.1", "linear2"),
    ("norms.0", "norm1"),
    ("norms.1", "norm2"),
)
_PROJECTIONS = (
    ("query_content_proj", "q_content"),
    ("query_pos_proj", "q_position"),
    ("query_pos_sine_proj", "q_sine"),
    ("key_content_proj", "k_content"),
    ("key_pos_proj", "k_position"),
    ("value_proj", "value"),
    ("out_proj", "out_proj"),
)
_DECODER_LAYER = (*_ENCODER_LAYER, ("attentions.1.attn", "multihead_attn"), ("norms.2", "norm3"))
_NAMES = Renaming(
    [
        *HEADS,
        ("position_embedding", "position_encoding"),
        *((f"backbone.body.{theirs}", f"backbone.{ours}") for theirs, ours in RESNET),
        *(
            (f"transformer.{part}.layers.*.{theirs}", f"transformer.{part}.layers.*.{ours}")
            for part, layer in (("encoder", _ENCODER_LAYER), ("decoder", _DECODER_LAYER))
            for theirs, ours in layer
        ),
        ("transformer.encoder.post_norm_layer", "transformer.encoder.norm"),
        ("transformer.decoder.post_norm_layer", "transformer.decoder.norm"),
    ]
)


_SHARED = (
    *HEADS,
    *((f"backbone.body.{theirs}", f"backbone.{ours}") for theirs, ours in RESNET),
    *(
        (f"transformer.encoder.layers.*.{theirs}", f"transformer.encoder.layers.*.{ours}")
        for theirs, ours in _ENCODER_LAYER
    ),
    *(
        (f"transformer.decoder.layers.*.{theirs}", f"transformer.decoder.layers.*.{ours}")
        for theirs, ours in (
            *((f"attentions.0.{old}", f"self_attn.{new}") for old, new in _PROJECTIONS),
            *((f"attentions.1.{old}", f"cross_attn.{new}") for old, new in _PROJECTIONS),
            *(row for row in _ENCODER_LAYER if row[0].startswith(("ffns", "norms"))),
            ("norms.2", "norm3"),
        )
    ),
    *(
        (
            f"transformer.{part}.layers.*.ffns.0.layers.0.1",
            f"transformer.{part}.layers.*.activation.0",
        )
        for part in ("encoder", "decoder")
    ),
    *SCALES,
    ("transformer.encoder.post_norm_layer", "transformer.encoder.norm"),
    ("transformer.decoder.post_norm_layer", "transformer.decoder.norm"),
)
_CONDITIONAL = Renaming([*_SHARED, *CONDITIONAL_HEADS])
_DAB = Renaming(
    [
        *_SHARED,
        ("anchor_box_embed", "transformer.decoder.query_embed"),
        ("denoising_generator.label_encoder", "denoising.label_embed"),
        *DAB_HEADS,
    ]
)


_DEFORMABLE_LAYERS = tuple(
    (f"transformer.{part}.layers.*.{theirs}", f"transformer.{part}.layers.*.{ours}")
    for part, layer in (
        ("encoder", (("attentions.0", "self_attn"), *_ENCODER_LAYER[1:])),
        (
            "decoder",
            (
                ("attentions.0.attn", "self_attn"),
                ("attentions.1", "cross_attn"),
                *_ENCODER_LAYER[1:],
                ("norms.2", "norm3"),
            ),
        ),
    )
    for theirs, ours in layer
)
_DEFORMABLE = Renaming(
    [
        *((f"backbone.body.{theirs}", f"backbone.{ours}") for theirs, ours in RESNET),
        *_DEFORMABLE_LAYERS,
        *(
            (f"neck.convs.*.{theirs}", f"input_proj.*.{ours}")
            for theirs, ours in (("conv", 0), ("norm", 1))
        ),
        ("transformer.level_embeds", "transformer.encoder.level_embed.weight"),
        ("query_embedding", "transformer.decoder.query_embed"),
        *PROPOSALS,
        *DEFORMABLE,
        *DINO,
    ]
)


def from_detrex(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of detrex's DETR to those of :class:`d2detr.modeling.DETR`."""
    return _NAMES.to_ours(
        {key: value for key, value in state_dict.items() if not key.startswith(_UNUSED)}
    )


def from_detrex_conditional(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of detrex's Conditional DETR, DAB-DETR and DN-DETR."""
    names = _DAB if "anchor_box_embed.weight" in state_dict else _CONDITIONAL
    unused = (_UNUSED, "transformer.decoder.bbox_embed.")  # the latter a second name
    return names.to_ours(
        {key: value for key, value in state_dict.items() if not key.startswith(unused)}
    )


def from_detrex_deformable(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of detrex's Deformable DETR and DINO."""
    levels = (re.match(r"neck\.convs\.(\d+)", key) for key in state_dict)
    num_features = 1 + max((int(level[1]) for level in levels if level), default=-1)

    def join_necks(key: str) -> str:
        extra = re.match(r"neck\.extra_convs\.(\d+)(.*)", key)
        return f"neck.convs.{num_features + int(extra[1])}{extra[2]}" if extra else key

    used = {join_necks(k): v for k, v in state_dict.items() if not k.startswith(_UNUSED)}
    if "label_enc.weight" in used:  # detrex has no row for no label
        used["label_enc.weight"] = F.pad(used["label_enc.weight"], (0, 0, 0, 1))
    return _DEFORMABLE.to_ours(place_heads(used))
