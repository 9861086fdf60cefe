"""From a config to DETR's constructor arguments: here, and nowhere below, keys have names."""

import re
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import Backbone

from d2detr.classes import resolve_classes
from d2detr.config import check_score_threshold, demo_threshold
from d2detr.errors import UserError
from d2detr.layers import build_position_encoding
from d2detr.modeling.backbone import build_detr_backbone
from d2detr.modeling.classification import Classification, SigmoidFocal, SoftmaxWithNoObject
from d2detr.modeling.contrastive_denoising import ContrastiveDenoising
from d2detr.modeling.criterion import SetCriterion
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY, Decoder, build_decoder
from d2detr.modeling.denoising import Denoising
from d2detr.modeling.encoders import build_encoder
from d2detr.modeling.levels import check_in_features
from d2detr.modeling.mask_head import MaskHead
from d2detr.modeling.matcher import HungarianMatcher
from d2detr.modeling.postprocess_masks import Segmenter
from d2detr.modeling.proposals import PROPOSALS, Proposals
from d2detr.modeling.transformer import Transformer

# The keys that arguments are read from.
_KEYS = {
    "activation": "MODEL.DETR.ACTIVATION",
    "activation_checkpointing": "MODEL.DETR.ACTIVATION_CHECKPOINTING",
    "box_noise": "MODEL.DETR.DENOISING.BOX_NOISE",
    "box_size of the proposals": "MODEL.DETR.PROPOSAL_SIZE",
    "dropout": "MODEL.DETR.DROPOUT",
    "embed_dim": "MODEL.DETR.HIDDEN_DIM",
    "freeze_box_model": "MODEL.DETR.FREEZE_BOX_MODEL (or FROZEN_WEIGHTS)",
    "groups of denoising": "MODEL.DETR.DENOISING.GROUPS",
    "in_features": "MODEL.DETR.IN_FEATURES",
    "label_noise": "MODEL.DETR.DENOISING.LABEL_NOISE",
    "mask_head": "mask head (MODEL.MASK_ON)",
    "num_noised": "MODEL.DETR.DENOISING.NUM_NOISED",
    "num_levels": "MODEL.DETR.NUM_LEVELS",
    "num_points": "MODEL.DETR.SAMPLING_POINTS",
    "refine_boxes": "MODEL.DETR.REFINE_BOXES",
    "two_stage": "MODEL.DETR.TWO_STAGE",
    "num_heads": "MODEL.DETR.NHEADS",
    "num_layers of the decoder": "MODEL.DETR.DEC_LAYERS",
    "num_layers of the encoder": "MODEL.DETR.ENC_LAYERS",
    "num_patterns": "MODEL.DETR.NUM_PATTERNS",
    "num_queries of the decoder": "MODEL.DETR.NUM_OBJECT_QUERIES",
    "position_embedding": "MODEL.DETR.POSITION_EMBEDDING",
}


def naming_keys(init: Callable[..., None]) -> Callable[..., None]:
    """Make the errors of a configurable constructor name config keys where it is given a config."""
    arguments = re.compile(rf"\b({'|'.join(sorted(_KEYS, reverse=True))})\b")

    @wraps(init)
    def named(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except UserError as error:
            if not any(isinstance(x, CfgNode) for x in (*args, kwargs.get("cfg"))):
                raise
            message = arguments.sub(lambda found: _KEYS[found[0]], str(error))
            raise UserError(message) from None

    return named


def detr_from_config(cfg: CfgNode, backbone: Backbone | None = None) -> dict[str, Any]:
    """Return the arguments of :class:`d2detr.modeling.DETR` for a config with DETR's keys.

    Args:
        cfg: the config.
        backbone: to use instead of that of the config.

    Raises:
        UserError: settings do not fit together, or metadata is missing.
    """
    detr = cfg.MODEL.DETR
    check_score_threshold(detr.TEST.SCORE_THRESHOLD, "MODEL.DETR.TEST.SCORE_THRESHOLD")
    classes = resolve_classes(cfg)
    classification = build_classification(cfg, classes.count)
    backbone = backbone or build_detr_backbone(cfg)
    transformer = build_transformer(cfg, classification)
    check_in_features(detr.IN_FEATURES, backbone)
    if transformer.proposals is not None:
        _check_cells(cfg, backbone, transformer.decoder.num_queries)
    return {
        "backbone": backbone,
        "in_features": detr.IN_FEATURES,
        "num_levels": detr.NUM_LEVELS,
        "position_encoding": build_position_encoding(
            detr.POSITION_EMBEDDING,
            detr.HIDDEN_DIM,
            detr.POSITION_TEMPERATURE,
            detr.POSITION_OFFSET,
        ),
        "transformer": transformer,
        "heads_per_layer": detr.HEADS_PER_LAYER,
        "denoising": _denoising(cfg, transformer.decoder, classification),
        "classification": classification,
        "criterion": build_criterion(cfg, classification),
        **_segmentation(cfg, backbone, classification),
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


def build_transformer(cfg: CfgNode, classification: Classification) -> Transformer:
    """Build the encoder, and the decoder that ``MODEL.DETR.DECODER`` names.

    Raises:
        UserError: settings make no sense.
    """
    return Transformer(
        build_encoder(cfg), decoder := build_decoder(cfg), _proposals(cfg, decoder, classification)
    )


def _proposals(cfg: CfgNode, decoder: Decoder, classification: Classification) -> Proposals | None:
    detr = cfg.MODEL.DETR
    if not detr.TWO_STAGE:
        return None
    _check_decoder(cfg, "takes_proposals", "MODEL.DETR.TWO_STAGE needs queries that can be boxes")
    if detr.PROPOSAL_LEARNING not in PROPOSALS:
        raise UserError(
            f"MODEL.DETR.PROPOSAL_LEARNING is {detr.PROPOSAL_LEARNING!r}; choose from "
            f"{sorted(PROPOSALS)}."
        )
    return PROPOSALS[detr.PROPOSAL_LEARNING](
        num_queries=decoder.num_queries,
        embed_dim=decoder.embed_dim,
        classification=classification,
        reference_eps=decoder.reference_eps,
        box_size=detr.PROPOSAL_SIZE,
        num_levels=detr.NUM_LEVELS,
    )


def _check_cells(cfg: CfgNode, backbone: Backbone, num_queries: int) -> None:
    """Check that the smallest square images have enough cells to choose queries from."""
    sides = [side for side in (*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) if side > 0]
    if not sides:
        return
    side, detr = min(sides), cfg.MODEL.DETR
    strides = [backbone.output_shape()[name].stride for name in detr.IN_FEATURES]
    while len(strides) < detr.NUM_LEVELS:
        strides.append(2 * strides[-1])
    num_cells = sum((-(-side // stride)) ** 2 for stride in strides)
    if num_cells < num_queries:
        raise UserError(
            f"Images of {side} x {side} (the smallest of INPUT.MIN_SIZE_TRAIN and MIN_SIZE_TEST) "
            f"have {num_cells} cells, of which MODEL.DETR.TWO_STAGE cannot choose {num_queries} "
            "queries: lower MODEL.DETR.NUM_OBJECT_QUERIES, take finer MODEL.DETR.IN_FEATURES or "
            "larger images."
        )


def _check_decoder(cfg: CfgNode, ability: str, need: str) -> None:
    name = cfg.MODEL.DETR.DECODER
    if not getattr(DECODER_REGISTRY.get(name), ability):
        names = sorted(name for name, kind in DECODER_REGISTRY if getattr(kind, ability))
        raise UserError(
            f"{need}, but those of MODEL.DETR.DECODER {name!r} are not; those of {names} are."
        )


def _denoising(cfg: CfgNode, decoder: Decoder, classification: Classification) -> Denoising | None:
    settings = cfg.MODEL.DETR.DENOISING
    if not settings.ENABLED:
        return None
    _check_decoder(cfg, "has_boxes", "MODEL.DETR.DENOISING needs queries that are boxes")
    options = {
        "embed_dim": decoder.embed_dim,
        "reference_eps": decoder.reference_eps,
        "label_noise": settings.LABEL_NOISE,
        "box_noise": settings.BOX_NOISE,
    }
    if settings.CONTRASTIVE:
        return ContrastiveDenoising(
            classification=classification, num_noised=settings.NUM_NOISED, **options
        )
    return Denoising(num_classes=classification.num_classes, groups=settings.GROUPS, **options)


def build_classification(cfg: CfgNode, num_classes: int) -> Classification:
    """Build what ``MODEL.DETR.CLASSIFICATION`` names, for K classes.

    Raises:
        UserError: there is none of that name.
    """
    detr = cfg.MODEL.DETR
    choices = {
        "softmax": SoftmaxWithNoObject(num_classes, detr.NO_OBJECT_WEIGHT),
        "focal": SigmoidFocal(num_classes),
    }
    if detr.CLASSIFICATION not in choices:
        raise UserError(
            f"MODEL.DETR.CLASSIFICATION is {detr.CLASSIFICATION!r}; choose from {sorted(choices)}."
        )
    return choices[detr.CLASSIFICATION]


def build_criterion(cfg: CfgNode, classification: Classification) -> SetCriterion:
    """Build the losses and the matching from ``MODEL.DETR``."""
    detr = cfg.MODEL.DETR
    boxes = {"l1_weight": detr.L1_WEIGHT, "giou_weight": detr.GIOU_WEIGHT}
    class_cost = detr.CLASS_COST or detr.CLASS_WEIGHT
    return SetCriterion(
        HungarianMatcher(classification, class_weight=class_cost, **boxes),
        class_weight=detr.CLASS_WEIGHT,
        mask_weight=detr.MASK_WEIGHT,
        dice_weight=detr.DICE_WEIGHT,
        **boxes,
    )


def _segmentation(
    cfg: CfgNode, backbone: Backbone, classification: Classification
) -> dict[str, Any]:
    """Arguments about masks.

    Args:
        cfg: a config with DETR's keys.
        backbone: whose features the mask head shall use.
        classification: of the queries.

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
            backbone, detr.IN_FEATURES[-1], embed_dim=detr.HIDDEN_DIM, num_heads=detr.NHEADS
        ),
        "segmenter": Segmenter(
            classification,
            mask_threshold=detr.TEST.MASK_THRESHOLD,
            thing_classes=_thing_classes(cfg, classification.num_classes)
            if detr.TEST.PANOPTIC_ON
            else None,
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
