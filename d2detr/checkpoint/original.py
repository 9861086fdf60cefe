"""The key names of the original DETR release."""

from torch import Tensor

from d2detr.checkpoint.renaming import Renaming, StateDict

PANOPTIC_PREFIX = "detr."  # of the box model within the original's panoptic model
_MASK_PARTS = ("bbox_attention.", "mask_head.")

HEADS = (
    ("query_embed", "transformer.decoder.query_embed"),
    ("class_embed", "heads.class_embed"),
    ("bbox_embed", "heads.bbox_embed"),
    ("backbone.1", "position_encoding"),
    ("bbox_attention", "mask_head.attention"),
    ("mask_head.lay1", "mask_head.first.conv"),
    ("mask_head.gn1", "mask_head.first.norm"),
    *((f"mask_head.lay{i + 2}", f"mask_head.layers.{i}.conv") for i in range(4)),
    *((f"mask_head.gn{i + 2}", f"mask_head.layers.{i}.norm") for i in range(4)),
    *((f"mask_head.adapter{i + 1}", f"mask_head.adapters.{i}") for i in range(3)),
    ("mask_head.out_lay", "mask_head.predictor"),
)
_STEM = (("conv1", "stem.conv1"), ("bn1", "stem.conv1.norm"))
_BLOCK = (
    ("conv*", "conv*"),
    ("bn*", "conv*.norm"),
    ("downsample.0", "shortcut"),
    ("downsample.1", "shortcut.norm"),
)
RESNET = (
    *_STEM,
    *(
        (f"layer{stage}.*.{theirs}", f"res{stage + 1}.*.{ours}")
        for stage in (1, 2, 3, 4)
        for theirs, ours in _BLOCK
    ),
)
_NAMES = Renaming(
    [
        *HEADS,
        ("backbone.0.body", "backbone"),  # what is no part of a ResNet
        *((f"backbone.0.body.{theirs}", f"backbone.{ours}") for theirs, ours in RESNET),
    ]
)


def from_original(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of an original checkpoint to those of :class:`d2detr.modeling.DETR`.

    The keys of a panoptic checkpoint's box model start with ``detr.``, which is dropped.
    """
    return _NAMES.to_ours({k.removeprefix(PANOPTIC_PREFIX): v for k, v in state_dict.items()})


def to_original(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a :class:`d2detr.modeling.DETR` to those of the original release."""
    renamed = _NAMES.to_theirs(state_dict)
    if not any(key.startswith(_MASK_PARTS) for key in renamed):
        return renamed
    return {
        key if key.startswith(_MASK_PARTS) else PANOPTIC_PREFIX + key: value
        for key, value in renamed.items()
    }
