"""Loading of registered datasets, with every usual fault of their files put into one sentence."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from d2detr.datasets.panoptic import find_panoptic_fault
from d2detr.errors import UserError

REQUIRED_KEYS = {
    "categories": ("id", "name"),
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}


def load_dataset(name: str) -> list[dict[str, Any]]:
    """Load a registered dataset, or one called ``auto:PATH:SPLIT``, which is registered first.

    Args:
        name: its name in DatasetCatalog.

    Returns:
        One dict per image, at least one, in Detectron2's dataset format.

    Raises:
        UserError: the name is not registered, a file is missing or cannot be parsed, or the
            dataset is empty.
    """
    if name not in DatasetCatalog and not name.startswith("auto:"):
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        advice = f"Did you mean {' or '.join(near)}?" if near else "Register it before training."
        raise UserError(f"Dataset {name!r} is not registered. {advice}")
    try:
        dataset = DatasetCatalog.get(name)
    except UserError:
        raise
    except OSError as error:
        path = os.path.abspath(error.filename) if error.filename else str(error)
        raise UserError(
            f"Dataset {name!r} needs {path}: {error.strerror or error}. {datasets_root_hint()}"
        ) from error
    except Exception as error:
        fault = _find_fault(name)
        if fault is None and isinstance(error, AssertionError):
            # Detectron2 asserts that files exist, with the path as the message.
            fault = f"missing or unusable: {error}. {datasets_root_hint()}"
        if fault is None:
            raise
        raise UserError(f"Dataset {name!r}: {fault}") from error
    if len(dataset) == 0:
        raise UserError(f"Dataset {name!r}: {_find_fault(name) or 'it holds no image.'}")
    return dataset


def datasets_root_hint() -> str:
    """Say where Detectron2 looks for its datasets, as a sentence for error messages."""
    root = os.getenv("DETECTRON2_DATASETS")
    if root is None:
        return (
            "The environment variable DETECTRON2_DATASETS, which says where the datasets of "
            "Detectron2 are, is not set, so that they are expected in ./datasets."
        )
    return f"The datasets of Detectron2 are expected in DETECTRON2_DATASETS={root}."


def find_coco_fault(json_file: str) -> str | None:
    """Find what is wrong with a COCO instance annotation file.

    Args:
        json_file: a local path or another path known to Detectron2's PathManager.

    Returns:
        A sentence that names the file and the first fault, or None if there is none.
    """
    try:
        with PathManager.open(json_file) as file:
            content = json.load(file)
    except ValueError as error:
        return f"{json_file} is not valid JSON, or truncated: {error}."
    faults = _coco_faults(content)
    fault = next(iter(faults), None)
    return None if fault is None else f"{json_file}: {fault}."


def _find_fault(dataset_name: str) -> str | None:
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("panoptic_json"):
        return find_panoptic_fault(metadata)
    json_file = metadata.get("json_file")
    return find_coco_fault(json_file) if json_file and PathManager.isfile(json_file) else None


def find_structure_fault(content: Any) -> str | None:
    """Find what keeps the content of a COCO file from being used at all: lists and keys it lacks.

    Returns:
        The first fault, in words that follow the name of the file, or None.
    """
    return next(iter(_structure_faults(content)), None)


def _coco_faults(content: Any) -> Iterable[str]:
    """Yield faults; each one assumes that those before it are not there."""
    yield from _structure_faults(content)
    yield from _annotation_faults(content)


def _structure_faults(content: Any) -> Iterable[str]:
    for section, keys in REQUIRED_KEYS.items():
        entries = content.get(section) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            yield f"it is not in COCO format, because it has no list {section!r}"
        for entry in entries:
            lacking = [key for key in keys if key not in entry]
            if lacking:
                yield f"an entry of {section!r} has no {lacking[0]!r}: {str(entry)[:200]}"
    if not content["categories"]:
        yield "its list 'categories' is empty"


def _annotation_faults(content: dict[str, Any]) -> Iterable[str]:
    category_ids = {category["id"] for category in content["categories"]}
    annotation_ids = set()
    for annotation in content["annotations"]:
        label = f"annotation {annotation['id']}"
        if annotation["category_id"] not in category_ids:
            yield (
                f"{label} has category_id {annotation['category_id']}, which is not among the "
                f"ids of its categories ({_abbreviate(sorted(category_ids))})"
            )
        if not (isinstance(annotation["bbox"], list) and len(annotation["bbox"]) == 4):
            yield f"{label} has the bbox {annotation['bbox']}, which is not [x, y, width, height]"
        if annotation["id"] in annotation_ids:
            yield f"{label} occurs twice; ids must be unique"
        annotation_ids.add(annotation["id"])


def _abbreviate(values: list) -> str:
    if len(values) > 10:
        return f"{len(values)} ids from {values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
