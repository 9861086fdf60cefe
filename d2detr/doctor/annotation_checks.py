"""Ids, classes and boxes that are wrong, or that training would make something else of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from d2detr.doctor.annotation_table import OUTSIDE_TOLERANCE, AnnotationTable
from d2detr.doctor.findings import Finding, find

# Boxes of a whole dataset are taken for shares of the sides if more than this share of them may be.
_MOST = 0.5
# Boxes are taken for [x0, y0, x1, y1] if all but a few make sense so, but many do not as they are.
_NEARLY_ALL, _MANY, _AT_LEAST = 0.99, 0.2, 3


def id_findings(content: dict[str, Any]) -> Iterable[Finding]:
    """Find wrong ids in the content of a COCO file whose entries have all their keys."""
    images, annotations = content["images"], content["annotations"]
    ids, image_ids = ([entry["id"] for entry in entries] for entries in (annotations, images))

    def image(row: int) -> str:
        return f"image {image_ids[row]!r} ({images[row]['file_name']})"

    def annotation(row: int) -> str:
        return f"annotation {ids[row]}"

    is_number = [isinstance(x, Integral) and not isinstance(x, bool) for x in image_ids]
    yield from find("text_image_id", np.flatnonzero(~np.array(is_number, dtype=bool)), image)
    yield from find("duplicate_image_id", _repeated(image_ids), image)
    first_ids: dict[str, Any] = {}
    again = [
        row
        for row, x in enumerate(images)
        if first_ids.setdefault(x["file_name"], x["id"]) != x["id"]
    ]
    yield from find("duplicate_file_name", again, image)
    yield from find("duplicate_annotation_id", _repeated(ids), annotation)
    known = set(image_ids)
    yield from find(
        "unknown_image",
        [i for i, x in enumerate(annotations) if x["image_id"] not in known],
        lambda row: f"{annotation(row)} of image {annotations[row]['image_id']}",
    )
    category_ids = [category["id"] for category in content["categories"]]
    yield from find(
        "duplicate_category_id",
        _repeated(category_ids),
        lambda row: f"{category_ids[row]} ({content['categories'][row]['name']})",
    )
    known = set(category_ids)
    yield from find(
        "unknown_class",
        [i for i, x in enumerate(annotations) if x["category_id"] not in known],
        lambda row: f"{annotation(row)} has category_id {annotations[row]['category_id']}",
        known=f"categories ({min(category_ids)} to {max(category_ids)})"
        f"{_shift_hint(annotations, category_ids)}",
    )
    yield from find(
        "first_category_id",
        [0] if min(category_ids) != 1 else [],
        lambda row: f"the first is {min(category_ids)}",
    )


def class_findings(table: AnnotationTable) -> Iterable[Finding]:
    """Find names of classes, and labels of annotations, that cannot be meant."""
    names = table.class_names
    yield from find(
        "bad_class_name",
        [i for i, name in enumerate(names) if not isinstance(name, str) or not name],
        lambda row: f"class {row + 1} of {len(names)} has the name {names[row]!r}",
    )
    yield from find(
        "duplicate_class_name", _repeated(names), lambda row: f"{names[row]!r}, number {row + 1}"
    )


def record_findings(table: AnnotationTable) -> Iterable[Finding]:
    """Find category ids and file names of Detectron2 records that are none, or repeat others."""
    files = table.file_names
    yield from find("duplicate_file_name", _repeated(files), lambda row: files[row])
    yield from find(
        "unknown_class",
        np.flatnonzero(table.labels < 0),
        table.describe,
        known=f"{len(table.class_names)} classes, which are [0, {len(table.class_names) - 1}]",
    )


def size_findings(table: AnnotationTable) -> Iterable[Finding]:
    """Find images whose size is no size."""
    yield from find("bad_size", np.flatnonzero(table.bad_sizes), table.file_names.__getitem__)


def box_findings(table: AnnotationTable) -> Iterable[Finding]:
    """Find boxes that cannot be trained on, or should not be."""

    def describe(row: int) -> str:
        box = ", ".join(f"{x:g}" for x in table.boxes[row])
        return f"{table.describe(row)}, corners ({box})"

    broken = ~np.isfinite(table.boxes).all(axis=1)
    yield from find("broken_box", np.flatnonzero(broken), table.describe)
    yield from find("text_box", np.flatnonzero(table.text_boxes), table.describe)
    yield from find("bad_iscrowd", np.flatnonzero(table.bad_crowd), table.describe)
    whole = ~broken & (table.owners >= 0)
    normalised = _normalised(table) & whole
    if normalised.sum() > _MOST * whole.sum():
        rows = np.flatnonzero(normalised)
        yield from find("normalised_boxes", rows, describe, total=int(whole.sum()))
    outside, fitting = table.outside & whole, _fits_as_corners(table) & whole
    many = outside.sum() >= max(_AT_LEAST, _MANY * whole.sum())
    if many and fitting.sum() >= _NEARLY_ALL * whole.sum():
        yield from find(
            "xyxy_boxes",
            np.flatnonzero(whole),
            describe,
            outside=int(outside.sum()),
            fitting=int(fitting.sum()),
        )
        return  # what else is wrong with boxes read in another way than meant tells nothing
    yield from find("degenerate_box", np.flatnonzero(table.degenerate & whole), describe)
    yield from find("outside_box", np.flatnonzero(outside), describe)
    yield from find("duplicate_box", np.flatnonzero(table.duplicated & whole), describe)


def object_findings(
    table: AnnotationTable, num_queries: int, purpose: str | None
) -> Iterable[Finding]:
    """Find images with more objects than the model can find, and datasets without any.

    Args:
        table: the annotations.
        num_queries: how many objects the model can find in an image.
        purpose: what objects are needed for, in words; None if they are not.
    """
    counts = table.objects_per_image
    files = table.file_names
    yield from find(
        "more_objects_than_queries",
        np.flatnonzero(counts > num_queries),
        lambda row: f"{files[row]} has {counts[row]}",
        num_queries=num_queries,
        most=counts.max(initial=0),
    )
    if purpose and not counts.any():
        yield from find("no_objects", range(len(files)), lambda row: files[row], purpose=purpose)


def _normalised(table: AnnotationTable) -> np.ndarray:
    """Whether (N,) a box is small enough for shares of the sides, and not in whole pixels."""
    raw = _as_xywh(table.boxes)
    inside = ((raw >= 0) & (raw <= 1)).all(axis=1) & (table.image_sizes > 2).all(axis=1)
    return inside & (np.floor(raw) != raw).any(axis=1)


def _fits_as_corners(table: AnnotationTable) -> np.ndarray:
    """Whether (N,) x, y, width and height are corners of a box within the image, too."""
    raw = _as_xywh(table.boxes)
    fits = raw[:, 2:] <= table.image_sizes + OUTSIDE_TOLERANCE
    return np.all(fits & (raw[:, 2:] > raw[:, :2]), axis=1)


def _as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)


def _repeated(values: list[Any]) -> list[int]:
    seen: set[Any] = set()
    repeated = []
    for index, value in enumerate(values):
        if value in seen:
            repeated.append(index)
        seen.add(value)
    return repeated


def _shift_hint(annotations: list[dict[str, Any]], category_ids: list[Any]) -> str:
    used = Counter(annotation["category_id"] for annotation in annotations)
    lowest, highest = min(category_ids), max(category_ids)
    for shift in (1, -1):
        shifted = {x + shift for x in category_ids if isinstance(x, int)}
        free = lowest if shift == 1 else highest
        if set(used) <= shifted and free not in used:
            return f"; all of them are off by {shift:+d}"
    return ""
