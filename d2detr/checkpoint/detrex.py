"""The key names of detrex's DETR, whose backbone is Detectron2's, or with DC5 torchvision's."""

from torch import Tensor

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


def from_detrex(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of detrex's DETR to those of :class:`d2detr.modeling.DETR`."""
    return _NAMES.to_ours(
        {key: value for key, value in state_dict.items() if not key.startswith(_UNUSED)}
    )
