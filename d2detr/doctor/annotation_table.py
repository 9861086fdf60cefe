"""The annotations of a dataset as arrays, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

# Boxes that reach less far out of their image, in pixels, are due to rounding.
OUTSIDE_TOLERANCE = 1.0


@dataclass(frozen=True)
class AnnotationTable:
    """M images and N annotations.

    Attributes:
        file_names: of the M images.
        sizes: (M, 2) width and height, infinite where they are unknown.
        bad_sizes: (M,) whether one of them is something else than a positive number.
        owners: (N,) the index of each annotation's image, -1 if there is none.
        labels: (N,) index into class_names, -1 if there is none.
        boxes: (N, 4) XYXY in pixels, NaN where a box cannot be read.
        text_boxes: (N,) whether a box holds texts, which are read as the numbers that they spell.
        crowd: (N,) whether it is a crowd region.
        bad_crowd: (N,) whether 'iscrowd' is something else than 0 or 1, and "1" read as 1.
        segmentations: N polygons, RLEs, bitmaps or Nones.
        ids: N ids, None where an annotation has none.
        class_names: K names, as they are given.
    """

    file_names: list[str]
    sizes: np.ndarray
    bad_sizes: np.ndarray
    owners: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    text_boxes: np.ndarray
    crowd: np.ndarray
    bad_crowd: np.ndarray
    segmentations: list[Any]
    ids: list[Any]
    class_names: list[Any]

    def describe(self, row: int) -> str:
        """Say which annotation this is: by its id, or else by its place among its image's."""
        owner = self.owners[row]
        image = f" of image {self.file_names[owner]}" if owner >= 0 else ""
        if self.ids[row] is not None:
            return f"annotation {self.ids[row]}{image}"
        return f"annotation number {row - np.flatnonzero(self.owners == owner)[0] + 1}{image}"

    def summary(self) -> str:
        """Say how much there is, and what training makes of it."""
        return (
            f"{len(self.file_names)} images ({(self.objects_per_image == 0).sum()} without "
            f"objects), {len(self.boxes)} annotations; left out in training: {self.crowd.sum()} "
            f"crowd regions, {self.degenerate.sum()} boxes without area; {self.outside.sum()} "
            "boxes reach beyond their image and are clipped"
        )

    @property
    def image_sizes(self) -> np.ndarray:
        """Width and height (N, 2) of each annotation's image, infinite where they are unknown."""
        return np.concatenate((self.sizes, [[np.inf, np.inf]]))[self.owners]

    @property
    def clipped(self) -> np.ndarray:
        """Boxes (N, 4) without what reaches beyond their images."""
        return self.boxes.clip(0, np.tile(self.image_sizes, (1, 2)).reshape(-1, 4))

    @property
    def degenerate(self) -> np.ndarray:
        """Whether (N,) a box, not of a crowd, has no area within its image."""
        clipped = self.clipped
        return (clipped[:, 2:] <= clipped[:, :2]).any(axis=1) & ~self.crowd

    @property
    def outside(self) -> np.ndarray:
        """Whether (N,) another box reaches out of its image, by more than rounding explains."""
        beyond = np.abs(self.boxes - self.clipped) > OUTSIDE_TOLERANCE
        return beyond.any(axis=1) & ~self.crowd & ~self.degenerate

    @property
    def duplicated(self) -> np.ndarray:
        """Whether (N,) an earlier annotation of the image has the same class and box."""
        rows = np.column_stack((self.owners, self.labels, self.crowd, self.boxes))
        _, first = np.unique(rows, axis=0, return_index=True)
        duplicated = np.ones(len(rows), dtype=bool)
        duplicated[first] = False
        return duplicated

    @property
    def objects_per_image(self) -> np.ndarray:
        """Annotations (M,) of each image that can be trained on."""
        usable = ~self.crowd & ~self.degenerate & (self.owners >= 0)
        return np.bincount(self.owners[usable], minlength=len(self.file_names))

    @property
    def objects_per_class(self) -> np.ndarray:
        """Annotations (K,) of each class, crowds not counted."""
        usable = ~self.crowd & (self.labels >= 0)
        return np.bincount(self.labels[usable], minlength=len(self.class_names))


def table_from_coco(content: dict[str, Any]) -> AnnotationTable:
    """Make a table of the content of a COCO file whose entries have all their keys."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: index for index, category in enumerate(categories)}
    owners = {image["id"]: index for index, image in enumerate(content["images"])}
    annotations = content["annotations"]
    return _table(
        content["images"],
        annotations,
        owners=[owners.get(annotation["image_id"], -1) for annotation in annotations],
        labels=[labels.get(annotation["category_id"], -1) for annotation in annotations],
        modes=np.full(len(annotations), BoxMode.XYWH_ABS),
        class_names=[category["name"] for category in categories],
    )


def table_from_records(
    records: Sequence[dict[str, Any]], class_names: list[str]
) -> AnnotationTable:
    """Make a table of a dataset in Detectron2's format whose entries have all their keys."""
    counts = [len(record.get("annotations", ())) for record in records]
    annotations = [annotation for record in records for annotation in record.get("annotations", ())]
    return _table(
        records,
        annotations,
        owners=np.repeat(np.arange(len(records)), counts),
        labels=[_label(annotation["category_id"], len(class_names)) for annotation in annotations],
        modes=np.array([int(annotation["bbox_mode"]) for annotation in annotations], dtype=int),
        class_names=class_names,
    )


def _table(
    images: Sequence[dict[str, Any]],
    annotations: list[dict[str, Any]],
    owners: Sequence[int] | np.ndarray,
    labels: list[int],
    modes: np.ndarray,
    class_names: list[Any],
) -> AnnotationTable:
    sizes, bad_sizes = _read_sizes(images)
    boxes, text_boxes = _read_boxes([annotation["bbox"] for annotation in annotations])
    for mode in np.unique(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(mode), BoxMode.XYXY_ABS)
    flags = [annotation.get("iscrowd", 0) for annotation in annotations]
    return AnnotationTable(
        file_names=[image["file_name"] for image in images],
        sizes=sizes,
        bad_sizes=bad_sizes,
        owners=np.array(owners, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        boxes=boxes,
        text_boxes=text_boxes,
        crowd=np.array([flag in (1, "1") for flag in flags], dtype=bool),
        bad_crowd=np.array([not _is_flag(flag) for flag in flags], dtype=bool),
        segmentations=[annotation.get("segmentation") for annotation in annotations],
        ids=[annotation.get("id") for annotation in annotations],
        class_names=class_names,
    )


def _label(value: Any, num_classes: int) -> int:
    return int(value) if isinstance(value, Integral) and 0 <= int(value) < num_classes else -1


def _is_flag(value: Any) -> bool:
    return isinstance(value, (Real, np.bool_)) and value in (0, 1)


def _read_sizes(images: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.full((len(images), 2), np.inf)
    bad = np.zeros(len(images), dtype=bool)
    for row, image in enumerate(images):
        for column, key in enumerate(("width", "height")):
            if key in image:
                sizes[row, column] = number = _number(image[key])
                bad[row] |= isinstance(image[key], str) or not 0 < number < np.inf
    sizes[bad] = np.inf
    return sizes, bad


def _read_boxes(boxes: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (N, 4) in float64, NaN where they are not four numbers; and which are texts."""
    try:
        array = np.array(boxes)
        if array.dtype.kind in "iuf" and array.shape == (len(boxes), 4):
            return array.astype(np.float64), np.zeros(len(boxes), dtype=bool)
    except (TypeError, ValueError, OverflowError):
        pass  # at least one is something else
    rows = np.full((len(boxes), 4), np.nan)
    texts = np.zeros(len(boxes), dtype=bool)
    for index, box in enumerate(boxes):
        if isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4:
            rows[index] = [_number(value) for value in box]
            texts[index] = any(isinstance(value, str) for value in box)
    return rows, texts & np.isfinite(rows).all(axis=1)


def _number(value: Any) -> float:
    """Return a number as a float; NaN for what is none, or is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        return np.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return np.nan
