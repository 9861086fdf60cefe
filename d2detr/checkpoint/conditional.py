"""The key names of Conditional DETR, DAB-DETR and DN-DETR as their authors released them."""

from torch import Tensor

from d2detr.checkpoint.original import HEADS, RESNET
from d2detr.checkpoint.renaming import Renaming, StateDict

_DECODER_LAYER = (
    *(
        (f"sa_{theirs}_proj", f"self_attn.{ours}")
        for theirs, ours in (
            ("qcontent", "q_content"),
            ("qpos", "q_position"),
            ("kcontent", "k_content"),
            ("kpos", "k_position"),
            ("v", "value"),
        )
    ),
    *(
        (f"ca_{theirs}_proj", f"cross_attn.{ours}")
        for theirs, ours in (
            ("qcontent", "q_content"),
            ("qpos", "q_position"),
            ("qpos_sine", "q_sine"),
            ("kcontent", "k_content"),
            ("kpos", "k_position"),
            ("v", "value"),
        )
    ),
)
# What detrex calls as the originals do.
SCALES = (
    ("transformer.encoder.query_scale", "transformer.encoder.position_scale"),
    ("transformer.decoder.query_scale", "transformer.decoder.content_scale"),
)
CONDITIONAL_HEADS = (("transformer.decoder.ref_point_head", "transformer.decoder.reference_head"),)
DAB_HEADS = (
    ("transformer.patterns.weight", "transformer.decoder.patterns"),
    ("transformer.decoder.ref_point_head", "transformer.decoder.position_head"),
    ("transformer.decoder.ref_anchor_head", "transformer.decoder.size_head"),
)
_SHARED = (
    *HEADS,
    ("backbone.0.body", "backbone"),
    *((f"backbone.0.body.{theirs}", f"backbone.{ours}") for theirs, ours in RESNET),
    *(
        (f"transformer.decoder.layers.*.{theirs}", f"transformer.decoder.layers.*.{ours}")
        for theirs, ours in _DECODER_LAYER
    ),
    *SCALES,
)
_CONDITIONAL = Renaming([*_SHARED, *CONDITIONAL_HEADS])
_DAB = Renaming(
    [
        *(row for row in _SHARED if row[0] != "query_embed"),
        ("refpoint_embed", "transformer.decoder.query_embed"),
        ("label_enc", "denoising.label_embed"),
        *DAB_HEADS,
        *(
            (f"transformer.{part}.layers.*.activation", f"transformer.{part}.layers.*.activation.0")
            for part in ("encoder", "decoder")
        ),
    ]
)
_BOXES = "refpoint_embed.weight"
_OUR_BOXES = "transformer.decoder.size_head.layers.0.weight"
_SECOND_NAMES = "transformer.decoder.bbox_embed."  # of the box head


def from_conditional(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of an original checkpoint to those of :class:`d2detr.modeling.DETR`."""
    names = _DAB if _BOXES in state_dict else _CONDITIONAL
    return names.to_ours({k: v for k, v in state_dict.items() if not k.startswith(_SECOND_NAMES)})


def to_conditional(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a :class:`d2detr.modeling.DETR` to those of the original releases."""
    if _OUR_BOXES not in state_dict:
        return _CONDITIONAL.to_theirs(state_dict)
    renamed = _DAB.to_theirs(state_dict)
    heads = {k: v for k, v in renamed.items() if k.startswith("bbox_embed.")}
    return renamed | {f"transformer.decoder.{key}": value for key, value in heads.items()}
