"""The classes of datasets: their number, and their categories as files name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from d2detr.classes import resolve_classes
from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError
from d2detr.files import read_json, write_json

CATEGORIES_FILE = "classes.json"


def resolve_num_classes(cfg: CfgNode) -> int:
    """Return the number of classes that a model for ``cfg`` needs, without no-object.

    Raises:
        UserError: ``MODEL.DETR.NUM_CLASSES`` is 0 and the first dataset does not tell it.
    """
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if names and not cfg.MODEL.DETR.NUM_CLASSES:
        dataset_num_classes(names[0])  # which says in detail why it cannot be loaded
    return resolve_classes(cfg).count


def check_num_classes(cfg: CfgNode, is_train: bool = True) -> None:
    """Check that the model has as many classes as each of its datasets.

    Args:
        cfg: a config with DETR's keys.
        is_train: whether to check the training datasets too, or those for testing alone.

    Raises:
        UserError: the numbers differ; the message tells both.
    """
    num_classes = resolve_num_classes(cfg)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    source = "MODEL.DETR.NUM_CLASSES" if cfg.MODEL.DETR.NUM_CLASSES else f"dataset {names[0]!r}"
    for name in names if is_train else cfg.DATASETS.TEST:
        found = dataset_num_classes(name)
        if found not in (None, num_classes):
            raise UserError(
                f"{source} has {num_classes} classes, but dataset {name!r} has {found}. Set "
                "MODEL.DETR.NUM_CLASSES to the number of the datasets, or to 0 to take it from "
                "the first; all datasets must have the same."
            )


def dataset_num_classes(name: str) -> int | None:
    """Return the number of classes of a registered dataset, or None if it does not tell.

    Raises:
        UserError: the dataset must be loaded to know, and cannot be.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        # Datasets registered from a COCO file learn their classes when they are loaded.
        load_dataset(name)
    class_names = metadata.get("thing_classes")
    return None if class_names is None else len(class_names)


def categories_of(name: str) -> list[dict[str, Any]] | None:
    """Return the classes of a dataset as COCO's categories, in the order of the model's classes.

    Args:
        name: a registered dataset that has been loaded.

    Returns:
        Dicts with "id" and "name", and "isthing" (1 or 0) of a dataset with stuff among them; None
        if the dataset does not name its classes.
    """
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes")
    if names is None:
        return None
    things, stuff = (
        {index: category_id for category_id, index in ids.items()}
        for ids in (
            metadata.get(f"{kind}_dataset_id_to_contiguous_id", {}) for kind in ("thing", "stuff")
        )
    )
    ids = {**stuff, **things}
    categories = [{"id": ids.get(index, index), "name": name} for index, name in enumerate(names)]
    if things.keys() | stuff.keys() == set(range(len(names))) and not things.keys() & stuff.keys():
        for index, category in enumerate(categories):
            category["isthing"] = int(index in things)
    return categories


def write_categories(cfg: CfgNode) -> None:
    """Write the classes of the training dataset to ``OUTPUT_DIR/classes.json``.

    A model can then be used where its dataset is not.
    """
    categories = categories_of(cfg.DATASETS.TRAIN[0])
    if categories is not None:
        write_json(Path(cfg.OUTPUT_DIR, CATEGORIES_FILE), categories)


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Read the classes that :func:`write_categories` wrote.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    categories = read_json(path)
    if not isinstance(categories, list) or not all(
        isinstance(category, dict) and isinstance(category.get("name"), str) and "id" in category
        for category in categories
    ):
        raise UserError(
            f"{path} does not hold the classes of a run: it must be a list with the 'id' and "
            "'name' of each. Copy it from the run again, or remove it."
        )
    return categories
