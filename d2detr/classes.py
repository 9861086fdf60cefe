"""The classes of a model, as its config and Detectron2's catalogs tell them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2detr.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classes:
    """The classes of a model, without no-object.

    Attributes:
        count: how many there are.
        names: their names in order, where they are known.
    """

    count: int
    names: tuple[str, ...] | None = None


def resolve_classes(cfg: CfgNode) -> Classes:
    """Find out which classes a model for ``cfg`` has.

    The answer follows from ``cfg`` and the files of its datasets alone, not from what was loaded
    before, so that every process of a training gets the same.

    Args:
        cfg: ``MODEL.DETR.NUM_CLASSES`` is the number, or if that is 0 the first dataset tells it;
            the names are those of the first dataset of so many classes.

    Raises:
        UserError: the number is 0 and no dataset tells it.
    """
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    count = cfg.MODEL.DETR.NUM_CLASSES or _count_classes(datasets)
    for name in datasets:
        class_names = _known_class_names(name)
        if class_names is not None and len(class_names) == count:
            return Classes(count, tuple(class_names))
    return Classes(count)


def _count_classes(datasets: Sequence[str]) -> int:
    if not datasets:
        raise UserError(
            "MODEL.DETR.NUM_CLASSES is 0, which takes the number of classes from the first "
            "dataset, but DATASETS.TRAIN and DATASETS.TEST are empty. Set MODEL.DETR.NUM_CLASSES."
        )
    name = datasets[0]
    try:
        class_names = _class_names(name)
    except UserError:
        raise
    except Exception as error:  # a loader may raise anything
        raise UserError(
            f"MODEL.DETR.NUM_CLASSES is 0, which takes the number of classes from the first "
            f"dataset, but {name!r} cannot be loaded: {error}"
        ) from error
    if class_names is None:
        raise UserError(
            f"Dataset {name!r} does not say how many classes it has: set the 'thing_classes' of "
            "its metadata, or MODEL.DETR.NUM_CLASSES."
        )
    return len(class_names)


def _known_class_names(name: str) -> Sequence[str] | None:
    try:
        return _class_names(name)
    except Exception as error:  # the model can be built without names, and where the data is not
        logger.info(f"The names of the classes of {name!r} are unknown: {error}")
        return None


def _class_names(name: str) -> Sequence[str] | None:
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        # Datasets registered from a COCO file learn their classes when they are loaded.
        DatasetCatalog.get(name)
    return metadata.get("thing_classes")
