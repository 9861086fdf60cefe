"""Loading of registered datasets, with every usual fault of their files put into one sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from d2detr.datasets.coco_faults import find_coco_fault
from d2detr.datasets.panoptic import find_panoptic_fault
from d2detr.datasets.places import explain_missing
from d2detr.errors import UserError


def require_registered(name: str) -> Callable[[], list[dict[str, Any]]]:
    """Return what loads a dataset; one called ``auto:PATH:SPLIT`` is registered first.

    Raises:
        UserError: there is no dataset of that name.
    """
    if name not in DatasetCatalog and not name.startswith("auto:"):
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        advice = f"Did you mean {' or '.join(near)}?" if near else "Register it before training."
        raise UserError(f"Dataset {name!r} is not registered. {advice}")
    return DatasetCatalog[name]


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
    require_registered(name)
    try:
        dataset = DatasetCatalog.get(name)
    except UserError:
        raise
    except OSError as error:
        path = os.path.abspath(error.filename) if error.filename else str(error)
        raise UserError(
            f"Dataset {name!r} needs {path}: {error.strerror or error}. {_why_missing(error)}"
        ) from error
    except Exception as error:
        fault = _find_fault(name)
        if fault is None and isinstance(error, AssertionError):
            # Detectron2 asserts that files exist, with the path as the message.
            fault = f"missing or unusable: {error}. {_why_missing(error)}".strip()
        if fault is None:
            raise
        raise UserError(f"Dataset {name!r}: {fault}") from error
    if len(dataset) == 0:
        raise UserError(f"Dataset {name!r}: {_find_fault(name) or 'it holds no image.'}")
    return dataset


def _find_fault(dataset_name: str) -> str | None:
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("panoptic_json"):
        return find_panoptic_fault(metadata)
    json_file = metadata.get("json_file")
    if not json_file or not PathManager.isfile(json_file):
        return None
    return find_coco_fault(json_file, metadata.get("origin"))


def _why_missing(error: OSError | AssertionError) -> str:
    path = getattr(error, "filename", None) or str(error)
    return explain_missing(path) if os.sep in path and not os.path.exists(path) else ""
