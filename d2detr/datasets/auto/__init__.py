"""Datasets that need no registration code: ``auto:PATH:train`` and ``auto:PATH:val``.

PATH is a folder with COCO JSON, Pascal VOC or YOLO annotations, recognised by what is in it, or a
COCO JSON file or data.yaml. ``auto:A+B:train`` trains on A and ``auto:A+B:val`` validates on B.
"""

from __future__ import annotations

import logging
import os
from collections import UserDict
from collections.abc import Callable

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json

from d2detr.datasets.auto.cache import convert
from d2detr.datasets.auto.recognise import recognise
from d2detr.errors import UserError

__all__ = [
    "PREFIX",
    "auto_name",
    "convert",
    "recognise",
    "register_auto",
    "register_auto_dataset",
    "resolve_auto_names",
]

PREFIX = "auto:"
_SPLITS = ("train", "val", "test", "all")

logger = logging.getLogger(__name__)


def register_auto_dataset(
    path: str | os.PathLike, val_path: str | os.PathLike | None = None
) -> dict[str, str]:
    """Register the dataset of a folder, whatever its format.

    Args:
        path: a folder, or a COCO JSON file or data.yaml.
        val_path: where the images for validation are; None for those of ``path``, or if it has
            none for a share of its images that is always the same.

    Returns:
        The names of the splits: of "train" and "val", "all" for both together, and "test" if there
        is one.

    Raises:
        UserError: there is no dataset, or more than one, or it cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(path))
    val = os.path.abspath(os.path.expanduser(val_path)) if val_path else None
    description = convert(path, val)
    class_names = _class_names(description["categories"], path)
    names = {split: auto_name(path, split, val) for split in description["files"]}
    for split, json_file in description["files"].items():
        origin, division = description["origins"][split], description["said"]
        _register(names[split], json_file, class_names, origin, division)
    logger.info(
        f"{path} is a {description['format']} dataset with {len(class_names)} classes; "
        f"{description['said']}."
    )
    return names


def register_auto(name: str) -> None:
    """Register a dataset called ``auto:PATH:SPLIT``.

    Raises:
        UserError: the name has another form, or its dataset cannot be used.
    """
    path, _, split = name.removeprefix(PREFIX).rpartition(":")
    if not name.startswith(PREFIX) or not path or split not in _SPLITS:
        raise UserError(
            f"Dataset name {name!r} must be auto:PATH:SPLIT, where SPLIT is one of "
            f"{', '.join(_SPLITS)}; for example 'auto:my/data:train'."
        )
    val_path = None
    if "+" in path and not os.path.exists(os.path.expanduser(path)):
        path, val_path = path.split("+", 1)
    names = register_auto_dataset(path, val_path)
    if split not in names:
        raise UserError(f"Dataset {path} has no {split} split; it has {', '.join(names)}.")
    if name != names[split]:  # a relative path
        metadata = MetadataCatalog.get(names[split])
        told = (metadata.thing_classes, metadata.origin, metadata.division)
        _register(name, metadata.json_file, *told)


def resolve_auto_names() -> None:
    """Make Detectron2 register ``auto:`` names when it is asked for them, in every process."""

    def register(catalog: UserDict, name: str) -> Callable[[], list[dict]]:
        if not name.startswith(PREFIX):
            raise KeyError(name)
        register_auto(name)
        return catalog.data[name]

    type(DatasetCatalog).__missing__ = register


def auto_name(path: str, split: str, val_path: str | None = None) -> str:
    """Return the name of a dataset, for ``DATASETS.TRAIN`` and ``DATASETS.TEST``."""
    return f"{PREFIX}{path}{'+' + val_path if val_path else ''}:{split}"


def _class_names(categories: list[dict], path: str) -> list[str]:
    if not categories or any("id" not in x or "name" not in x for x in categories):
        raise UserError(f"{path}: its list 'categories' is empty, or lacks an 'id' or 'name'.")
    return [x["name"] for x in sorted(categories, key=lambda x: x["id"])]


def _register(
    name: str, json_file: str, class_names: list[str], origin: str, division: str
) -> None:
    if name in DatasetCatalog:
        if MetadataCatalog.get(name).get("json_file") == json_file:
            return
        # The files have changed since.
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, "", name))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root="",
        evaluator_type="coco",
        thing_classes=class_names,
        origin=origin,
        division=division,
    )
