from typing import Any

from detectron2.config import CfgNode


def layer_options(cfg: CfgNode) -> dict[str, Any]:
    """Return how the layers of encoder and decoder are made for a config with DETR's keys."""
    detr = cfg.MODEL.DETR
    return {
        "num_heads": detr.NHEADS,
        "feedforward_dim": detr.DIM_FEEDFORWARD,
        "dropout": detr.DROPOUT,
        "pre_norm": detr.PRE_NORM,
        "activation": detr.ACTIVATION,
    }


def sampling_options(cfg: CfgNode) -> dict[str, Any]:
    """Return how deformable attention samples for a config with DETR's keys."""
    detr = cfg.MODEL.DETR
    return {
        "num_levels": detr.NUM_LEVELS,
        "num_points": detr.SAMPLING_POINTS,
    }
