"""What can be wrong with a dataset: each function looks for some faults and lists what it finds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from d2detr.datasets.image_files import ImageState, same_files
from d2detr.doctor.annotation_table import AnnotationTable

# How far, in pixels and as a share of the side, an edge of a mask may be from that of its box.
MASK_TOLERANCE = 3.0, 0.1
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one split.

    Attributes:
        code: a name that stays the same between versions.
        severity: "error" if training cannot or must not start, otherwise "warning".
        message: what it is and what follows from it.
        rows: the indices of the images or annotations that have it.
        examples: the first of them, in words.
        split: where it was found.
    """

    code: str
    severity: str
    message: str
    rows: list[int] = field(repr=False)
    examples: list[str]
    split: str = ""

    @property
    def count(self) -> int:
        return len(self.rows)


def structure_findings(content: dict[str, Any]) -> Iterable[Finding]:
    """Find wrong ids in the content of a COCO file that has all its lists and keys."""
    images, annotations = content["images"], content["annotations"]
    image_ids = [x["id"] for x in images]
    yield from _finding(
        "duplicate_image_id",
        "error",
        "ids of images occur twice",
        _repeated(image_ids),
        lambda i: f"image {image_ids[i]} ({images[i]['file_name']})",
    )
    ids = [x["id"] for x in annotations]
    yield from _finding(
        "duplicate_annotation_id",
        "error",
        "ids of annotations occur twice, which spoils the evaluation",
        _repeated(ids),
        lambda i: f"annotation {ids[i]}",
    )
    known = set(image_ids)
    yield from _finding(
        "unknown_image",
        "warning",
        "annotations belong to no image and are left out",
        [i for i, x in enumerate(annotations) if x["image_id"] not in known],
        lambda i: f"annotation {ids[i]} of image {annotations[i]['image_id']}",
    )
    category_ids = {x["id"] for x in content["categories"]}
    unknown = [i for i, x in enumerate(annotations) if x["category_id"] not in category_ids]
    yield from _finding(
        "unknown_class",
        "error",
        f"annotations have a category id that is not among the categories "
        f"({min(category_ids)} to {max(category_ids)}){_shift_hint(annotations, category_ids)}",
        unknown,
        lambda i: f"annotation {ids[i]} has {annotations[i]['category_id']}",
    )
    yield from _finding(
        "first_category_id",
        "warning",
        "the category ids start elsewhere than at 1, where COCO's do; training maps them, other "
        "tools may shift the classes",
        [0] if min(category_ids) != 1 else [],
        lambda i: f"the first is {min(category_ids)}",
    )


def box_findings(table: AnnotationTable, names: Sequence[str]) -> Iterable[Finding]:
    """Find boxes that cannot be trained on, or should not be.

    Args:
        table: the annotations.
        names: what to call each of them.
    """

    def name(row: int) -> str:
        box = ", ".join(f"{x:g}" for x in table.boxes[row])
        return f"{names[row]}, corners ({box})"

    broken = ~np.isfinite(table.boxes).all(axis=1)
    whole = ~broken & (table.owners >= 0)
    for code, severity, message, rows in (
        ("broken_box", "error", "boxes are not four finite numbers", broken),
        (
            "degenerate_box",
            "warning",
            "boxes have no area within their image and are left out",
            table.degenerate & whole,
        ),
        (
            "outside_box",
            "warning",
            "boxes reach out of their image and are clipped",
            table.outside & whole,
        ),
        (
            "duplicate_box",
            "warning",
            "annotations repeat the class and the box of another one of their image; DETR is "
            "taught to find the object twice",
            table.duplicated & whole,
        ),
    ):
        yield from _finding(code, severity, message, np.flatnonzero(rows), name)


def mask_findings(table: AnnotationTable, names: Sequence[str]) -> Iterable[Finding]:
    """Find masks that cannot be read, and masks that are elsewhere than their box."""
    rows = [
        i
        for i, x in enumerate(table.segmentations)
        if x is not None and len(x) > 0 and not table.crowd[i]
    ]
    sizes = np.concatenate((table.sizes, [[np.inf, np.inf]]))[table.owners]
    mask_boxes = np.array([_mask_box(table.segmentations[i], sizes[i]) for i in rows])
    mask_boxes = mask_boxes.reshape(-1, 4)
    boxes = table.boxes[rows]
    pixels, share = MASK_TOLERANCE
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], (1, 2))
    unreadable = np.isnan(mask_boxes).any(axis=1)
    elsewhere = (np.abs(mask_boxes - boxes) > pixels + share * sides).any(axis=1)
    for code, message, chosen in (
        (
            "unusable_mask",
            "masks are neither polygons of three points nor RLE or bitmaps of the image's size",
            unreadable,
        ),
        ("mask_mismatch", "masks do not fit their box", elsewhere & ~unreadable),
    ):
        found = [rows[i] for i in np.flatnonzero(chosen)]
        yield from _finding(code, "warning", message, found, lambda i: names[i])


def crowded_findings(table: AnnotationTable, num_queries: int) -> Iterable[Finding]:
    """Find images with more objects than the model can find."""
    counts = table.objects_per_image
    yield from _finding(
        "more_objects_than_queries",
        "warning",
        f"images have more than {num_queries} objects (at most {counts.max(initial=0)}); each "
        "query finds one, so that some are not learned unless MODEL.DETR.NUM_OBJECT_QUERIES is "
        "raised",
        np.flatnonzero(counts > num_queries),
        lambda i: f"{table.file_names[i]} has {counts[i]}",
    )


def image_findings(table: AnnotationTable, states: Sequence[ImageState]) -> Iterable[Finding]:
    """Find image files that are missing, unreadable or not what the annotations say."""
    sizes = [tuple(size) for size in table.sizes.tolist()]
    missing = [i for i, x in enumerate(states) if x.missing]
    unreadable = [i for i, x in enumerate(states) if x.problem]
    wrong = [
        i
        for i, x in enumerate(states)
        if x.size is not None and np.isfinite(sizes[i]).all() and x.size != sizes[i]
    ]
    turned = [i for i in wrong if states[i].turned and states[i].size == sizes[i][::-1]]

    def compare(i: int) -> str:
        width, height = sizes[i]
        return f"{table.file_names[i]} is {states[i].size}, annotated as ({width:g}, {height:g})"

    yield from _finding(
        "missing_image", "error", "images do not exist", missing, lambda i: table.file_names[i]
    )
    yield from _finding(
        "unreadable_image",
        "error",
        "images cannot be read",
        unreadable,
        lambda i: f"{table.file_names[i]} ({states[i].problem})",
    )
    yield from _finding(
        "exif_rotated",
        "error",
        "images are turned by their EXIF orientation, which the annotations ignore",
        turned,
        compare,
    )
    rest = sorted(set(wrong) - set(turned))
    yield from _finding(
        "wrong_size", "error", "images have another size than annotated", rest, compare
    )


def split_findings(train: AnnotationTable, val: AnnotationTable) -> Iterable[Finding]:
    """Find what training and validation should share, or should not. Rows are those of ``val``."""
    in_train = dict(zip(train.class_names, train.objects_per_class.tolist(), strict=True))
    in_val = val.objects_per_class.tolist()
    absent = [
        i for i, name in enumerate(val.class_names) if in_val[i] and not in_train.get(name, 0)
    ]
    yield from _finding(
        "class_absent_in_training",
        "warning",
        "classes of validation have no object in training, so that their AP will be 0",
        absent,
        lambda i: f"{val.class_names[i]} ({in_val[i]} objects)",
    )
    same = same_files(train.file_names, val.file_names)
    yield from _finding(
        "image_in_both_splits",
        "warning",
        "images of validation are in training too, which makes the AP too good",
        sorted(same),
        lambda i: f"{val.file_names[i]} is {train.file_names[same[i]]}",
    )


def _finding(
    code: str, severity: str, message: str, rows: Iterable[int], describe: Any
) -> Iterable[Finding]:
    rows = [int(row) for row in rows]
    if rows:
        examples = [describe(row) for row in rows[:MAX_EXAMPLES]]
        yield Finding(code, severity, message, rows, examples)


def _repeated(values: list) -> list[int]:
    seen: dict[Any, int] = defaultdict(int)
    repeated = []
    for index, value in enumerate(values):
        if seen[value]:
            repeated.append(index)
        seen[value] += 1
    return repeated


def _shift_hint(annotations: list[dict[str, Any]], category_ids: set) -> str:
    used = Counter(x["category_id"] for x in annotations)
    lowest, highest = min(category_ids), max(category_ids)
    for shift in (1, -1):
        shifted = {x + shift for x in category_ids if isinstance(x, int)}
        free = lowest if shift == 1 else highest
        if set(used) <= shifted and free not in used:
            return f"; all of them are off by {shift:+d}"
    return ""


def _mask_box(segmentation: Any, image_size: np.ndarray) -> list[float]:
    """Return the box (XYXY) around polygons, an RLE or a bitmap; NaN if it cannot be used.

    Args:
        segmentation: in Detectron2's dataset format.
        image_size: width and height; infinite where they are not known.
    """
    is_known = np.isfinite(image_size).all()
    try:
        if not isinstance(segmentation, (dict, list)):
            segmentation = mask_util.encode(np.asfortranarray(segmentation, dtype=np.uint8))
        if isinstance(segmentation, dict):
            if is_known and list(segmentation["size"]) != image_size[::-1].tolist():
                return [np.nan] * 4
            if isinstance(segmentation["counts"], list):
                segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
            x, y, width, height = mask_util.toBbox(segmentation).tolist()
            return [x, y, x + width, y + height]
        if any(
            len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all()
            for polygon in segmentation
        ):
            return [np.nan] * 4
        xs = [x for polygon in segmentation for x in polygon[::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs), max(ys)]
    except (KeyError, TypeError, ValueError):
        return [np.nan] * 4
