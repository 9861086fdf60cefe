"""The key names of Deformable DETR and DINO as their authors released them.

Both hold their heads in a list with a place for every decoder layer, also where all layers share
one, and once more as a part of the decoder where that uses them.
"""

import re

import torch
from torch import Tensor

from d2detr.checkpoint.original import RESNET
from d2detr.checkpoint.renaming import Renaming, StateDict

_PROPOSALS = "transformer.proposals"
_HEADS = ("class_embed", "bbox_embed")
_COMMON = (
    ("backbone.0.body", "backbone"),
    *((f"backbone.0.body.{theirs}", f"backbone.{ours}") for theirs, ours in RESNET),
    ("transformer.level_embed", "transformer.encoder.level_embed.weight"),
    # Their norm1 follows the attention to the memory, which is the second part of a layer.
    ("transformer.decoder.layers.*.norm1", "transformer.decoder.layers.*.norm2"),
    ("transformer.decoder.layers.*.norm2", "transformer.decoder.layers.*.norm1"),
)
# What detrex calls as the originals do.
PROPOSALS = (
    ("transformer.enc_output", f"{_PROPOSALS}.project"),
    ("transformer.enc_output_norm", f"{_PROPOSALS}.norm"),
)
DEFORMABLE = (
    ("transformer.reference_points", "transformer.decoder.reference_head"),
    ("transformer.pos_trans", "transformer.decoder.query_head"),
    ("transformer.pos_trans_norm", "transformer.decoder.query_norm"),
)
DINO = (
    ("transformer.tgt_embed", "transformer.decoder.query_embed"),
    ("transformer.decoder.ref_point_head", "transformer.decoder.position_head"),
    ("label_enc", "denoising.label_embed"),
)
_DEFORMABLE = Renaming(
    [
        *_COMMON,
        *PROPOSALS,
        *DEFORMABLE,
        ("query_embed", "transformer.decoder.query_embed"),
    ]
)
_DINO = Renaming(
    [
        *_COMMON,
        *PROPOSALS,
        *DINO,
        *((f"transformer.enc_out_{head}", f"{_PROPOSALS}.heads.{head}") for head in _HEADS),
    ]
)
_CONTENTS = "transformer.tgt_embed.weight"
_OUR_BOXES = "transformer.decoder.position_head.layers.0.weight"


def from_deformable(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of an original checkpoint to those of :class:`d2detr.modeling.DETR`."""
    names = _DINO if _CONTENTS in state_dict else _DEFORMABLE
    return names.to_ours(place_heads(state_dict))


def to_deformable(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a :class:`d2detr.modeling.DETR` to those of the original releases."""
    is_dino = _OUR_BOXES in state_dict
    listed = list_heads(state_dict, proposals=not is_dino)
    in_decoder = ["class_embed", "bbox_embed"] if is_dino else []
    if not is_dino and "heads.0.bbox_embed.layers.0.bias" in state_dict:
        in_decoder = ["bbox_embed"]
    if not is_dino and f"{_PROPOSALS}.norm.bias" in state_dict:
        in_decoder = ["class_embed", "bbox_embed"]
    renamed = (_DINO if is_dino else _DEFORMABLE).to_theirs(listed)
    again = {
        f"transformer.decoder.{key}": value
        for key, value in listed.items()
        if key.startswith(tuple(f"{head}." for head in in_decoder))
    }
    return renamed | again


def place_heads(state_dict: StateDict) -> dict[str, Tensor]:
    """Move heads from their list to where this package has them.

    Those of all decoder layers become one where they are equal. One beyond the layers is that of
    the proposals.
    """
    listed, others = {}, {}
    for key, value in state_dict.items():
        found = re.match(r"(transformer\.decoder\.)?((?:class|bbox)_embed)\.(\d+)\.(.*)", key)
        if found is None:
            others[key] = value
            continue
        second, head, index, leaf = found.groups()
        place = (int(index), head, leaf)
        if second is None or place not in listed:
            listed[place] = value
    num_layers = _count_layers(state_dict)
    parts = {(head, leaf) for _, head, leaf in listed}
    share = all(
        torch.equal(listed[0, head, leaf], listed.get((i, head, leaf), listed[0, head, leaf]))
        for head, leaf in parts
        for i in range(1, num_layers)
    )
    for (index, head, leaf), value in listed.items():
        if index >= num_layers:
            others[f"{_PROPOSALS}.heads.{head}.{leaf}"] = value
        elif not share:
            others[f"heads.{index}.{head}.{leaf}"] = value
        elif index == 0:
            others[f"heads.{head}.{leaf}"] = value
    if not share:  # transformers leaves out what it takes for equal to the first layer's
        for head, leaf in parts:
            for index in range(1, num_layers):
                others.setdefault(f"heads.{index}.{head}.{leaf}", listed[0, head, leaf])
    return others


def list_heads(state_dict: StateDict, *, proposals: bool) -> dict[str, Tensor]:
    """Do the opposite of :func:`place_heads`.

    Args:
        state_dict: with the keys of :class:`d2detr.modeling.DETR`.
        proposals: whether the proposals' heads are in the list, too.
    """
    num_layers = _count_layers(state_dict)
    renamed = {}
    for key, value in state_dict.items():
        own = re.match(r"heads\.(?:(\d+)\.)?((?:class|bbox)_embed\.)(.*)", key)
        if own is not None:
            index, head, leaf = own.groups()
            indices = range(num_layers) if index is None else [index]
            renamed.update({f"{head}{i}.{leaf}": value for i in indices})
            continue
        of_cells = re.match(r"transformer\.proposals\.heads\.((?:class|bbox)_embed\.)(.*)", key)
        if of_cells is not None and proposals:
            key = f"{of_cells[1]}{num_layers}.{of_cells[2]}"
        renamed[key] = value
    return renamed


def _count_layers(state_dict: StateDict) -> int:
    found = (re.match(r"transformer\.decoder\.layers\.(\d+)\.", key) for key in state_dict)
    return 1 + max((int(layer[1]) for layer in found if layer), default=-1)
