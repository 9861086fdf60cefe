"""From a config to DETR's constructor arguments."""

from collections.abc import Collection
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import Backbone

from d2detr.classes import resolve_classes
from d2detr.config import check_score_threshold, demo_threshold
from d2detr.errors import UserError
from d2detr.layers import build_position_encoding
from d2detr.modeling.backbone import build_detr_backbone
from d2detr.modeling.criterion import build_criterion
from d2detr.modeling.mask_head import MaskHead
from d2detr.modeling.postprocess_masks import Segmenter
from d2detr.modeling.transformer import Transformer


def detr_from_config(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of :class:`d2detr.modeling.DETR` for a config with DETR's keys.

    Raises:
        UserError: settings do not fit together, or metadata is missing.
    """
    detr = cfg.MODEL.DETR
    if not 0 <= detr.DROPOUT < 1:
        raise UserError(f"MODEL.DETR.DROPOUT is {detr.DROPOUT}; it must be at least 0 and below 1.")
    check_score_threshold(detr.TEST.SCORE_THRESHOLD, "MODEL.DETR.TEST.SCORE_THRESHOLD")
    classes = resolve_classes(cfg)
    num_classes = classes.count
    backbone = build_detr_backbone(cfg)
    return {
        "backbone": backbone,
        "in_feature": detr.IN_FEATURE,
        "position_encoding": build_position_encoding(detr.POSITION_EMBEDDING, detr.HIDDEN_DIM),
        "transformer": Transformer(
            embed_dim=detr.HIDDEN_DIM,
            num_heads=detr.NHEADS,
            num_encoder_layers=detr.ENC_LAYERS,
            num_decoder_layers=detr.DEC_LAYERS,
            num_queries=detr.NUM_OBJECT_QUERIES,
            feedforward_dim=detr.DIM_FEEDFORWARD,
            dropout=detr.DROPOUT,
            pre_norm=detr.PRE_NORM,
        ),
        "num_classes": num_classes,
        "criterion": build_criterion(cfg, num_classes),
        **_segmentation(cfg, backbone, num_classes),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "deep_supervision": detr.DEEP_SUPERVISION,
        "score_threshold": max(detr.TEST.SCORE_THRESHOLD, demo_threshold(cfg)),
        "detections_per_image": detr.TEST.DETECTIONS_PER_IMAGE,
        "class_names": classes.names,
        "dc5_first_block": detr.DC5_FIRST_BLOCK,
        "activation_checkpointing": detr.ACTIVATION_CHECKPOINTING,
        "compile": cfg.MODEL.COMPILE,
    }


def _segmentation(cfg: CfgNode, backbone: Backbone, num_classes: int) -> dict[str, Any]:
    """Arguments about masks.

    Args:
        cfg: a config with DETR's keys.
        backbone: whose features the mask head shall use.
        num_classes: K, without no-object.

    Raises:
        UserError: settings do not fit together, or panoptic segmentation lacks metadata.
    """
    detr = cfg.MODEL.DETR
    freeze = detr.FREEZE_BOX_MODEL or detr.FROZEN_WEIGHTS != ""
    if not cfg.MODEL.MASK_ON:
        if detr.TEST.PANOPTIC_ON:
            raise UserError(
                "MODEL.DETR.TEST.PANOPTIC_ON needs masks, but MODEL.MASK_ON is False: set it to "
                "True, or PANOPTIC_ON to False for boxes alone."
            )
        return {"freeze_box_model": freeze}
    test = detr.TEST
    for key, is_possible, limits in (
        ("MASK_THRESHOLD", 0 < test.MASK_THRESHOLD < 1, "between 0 and 1"),
        ("PANOPTIC_THRESHOLD", 0 <= test.PANOPTIC_THRESHOLD <= 1, "in [0, 1]"),
        ("STUFF_AREA", test.STUFF_AREA >= 0, "at least 0"),
    ):
        if not is_possible:
            raise UserError(f"MODEL.DETR.TEST.{key} is {test[key]}; it must be {limits}.")
    return {
        "mask_head": MaskHead.for_backbone(
            backbone, detr.IN_FEATURE, embed_dim=detr.HIDDEN_DIM, num_heads=detr.NHEADS
        ),
        "segmenter": Segmenter(
            mask_threshold=detr.TEST.MASK_THRESHOLD,
            thing_classes=_thing_classes(cfg, num_classes) if detr.TEST.PANOPTIC_ON else None,
            panoptic_threshold=max(detr.TEST.PANOPTIC_THRESHOLD, demo_threshold(cfg)),
            segment_area=detr.TEST.STUFF_AREA,
        ),
        "freeze_box_model": freeze,
    }


def _thing_classes(cfg: CfgNode, num_classes: int) -> Collection[int]:
    """The classes of the first dataset that are things."""
    name = next(iter([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]), None)
    metadata = MetadataCatalog.get(name) if name else None
    things = metadata and metadata.get("thing_dataset_id_to_contiguous_id")
    stuff = metadata and metadata.get("stuff_dataset_id_to_contiguous_id")
    if not things or not stuff or set(things.values()) & set(stuff.values()):
        raise UserError(
            "MODEL.DETR.TEST.PANOPTIC_ON needs a dataset whose things and stuff share one range "
            f"of classes, and the metadata of {name!r} does not describe that. Name a panoptic "
            "dataset in DATASETS.TRAIN or TEST, such as coco_2017_val_panoptic, or set "
            "'thing_dataset_id_to_contiguous_id' and 'stuff_dataset_id_to_contiguous_id' of its "
            "metadata. (The '_separated' variants of Detectron2 number stuff for itself.)"
        )
    if num_classes > len(things) + len(stuff):
        # Classes are category ids, as in the heads of the original release (250).
        return set(things)
    return set(things.values())
