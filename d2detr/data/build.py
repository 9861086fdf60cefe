"""The mapper that a config names."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

from d2detr.data.dataset_mapper import DetrDatasetMapper
from d2detr.errors import UserError

MAPPERS = {"detr": DetrDatasetMapper, "default": DatasetMapper}


def build_dataset_mapper(cfg: CfgNode, is_train: bool) -> Callable[[dict], dict]:
    """Build the mapper named by ``INPUT.DATASET_MAPPER_NAME``.

    Args:
        cfg: a config with DETR's keys.
        is_train: whether the mapper is for training.

    Returns:
        A callable from a dataset dict to the model's input.

    Raises:
        UserError: the name is unknown.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPERS:
        raise UserError(
            f"INPUT.DATASET_MAPPER_NAME is {name!r}; it must be one of {sorted(MAPPERS)}."
        )
    return MAPPERS[name](cfg, is_train)
