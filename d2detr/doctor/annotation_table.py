"""The annotations of a dataset as arrays, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        owners: (N,) the index of each annotation's image, -1 if there is none.
        labels: (N,) index into class_names, -1 if there is none.
        boxes: (N, 4) XYXY in pixels, NaN where a box cannot be read.
        crowd: (N,) whether it is a crowd region.
        segmentations: N polygons, RLEs or Nones.
        class_names: K names.
    """

    file_names: list[str]
    sizes: np.ndarray
    owners: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    segmentations: list[Any]
    class_names: list[str]

    @property
    def clipped(self) -> np.ndarray:
        """Boxes (N, 4) without what reaches beyond their images."""
        limits = np.concatenate((self.sizes, [[np.inf, np.inf]]))[self.owners]
        return self.boxes.clip(0, np.tile(limits, (1, 2)).reshape(-1, 4))

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
    """Make a table of the content of a COCO file that has all its lists and keys."""
    categories = sorted(content["categories"], key=lambda x: x["id"])
    labels = {category["id"]: index for index, category in enumerate(categories)}
    owners = {image["id"]: index for index, image in enumerate(content["images"])}
    annotations = content["annotations"]
    return AnnotationTable(
        file_names=[image["file_name"] for image in content["images"]],
        sizes=_sizes(content["images"]),
        owners=np.array([owners.get(x["image_id"], -1) for x in annotations], dtype=np.int64),
        labels=np.array([labels.get(x["category_id"], -1) for x in annotations], dtype=np.int64),
        boxes=BoxMode.convert(
            _numbers([x["bbox"] for x in annotations]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
        ),
        crowd=_crowd(annotations),
        segmentations=[x.get("segmentation") for x in annotations],
        class_names=[category["name"] for category in categories],
    )


def table_from_records(
    records: Sequence[dict[str, Any]], class_names: list[str]
) -> AnnotationTable:
    """Make a table of a dataset in Detectron2's format."""
    counts = [len(record.get("annotations", ())) for record in records]
    annotations = [x for record in records for x in record.get("annotations", ())]
    labels = np.array([x["category_id"] for x in annotations], dtype=np.int64)
    boxes = _numbers([x["bbox"] for x in annotations])
    modes = np.array([int(x["bbox_mode"]) for x in annotations])
    for mode in set(modes.tolist()):
        boxes[modes == mode] = BoxMode.convert(
            boxes[modes == mode], BoxMode(mode), BoxMode.XYXY_ABS
        )
    return AnnotationTable(
        file_names=[record["file_name"] for record in records],
        sizes=_sizes(records),
        owners=np.repeat(np.arange(len(records)), counts),
        labels=np.where((labels >= 0) & (labels < len(class_names)), labels, -1),
        boxes=boxes,
        crowd=_crowd(annotations),
        segmentations=[x.get("segmentation") for x in annotations],
        class_names=class_names,
    )


def _sizes(images: Sequence[dict[str, Any]]) -> np.ndarray:
    sizes = [(image.get("width", np.inf), image.get("height", np.inf)) for image in images]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _crowd(annotations: list[dict[str, Any]]) -> np.ndarray:
    return np.array([x.get("iscrowd", 0) != 0 for x in annotations], dtype=bool)


def _numbers(boxes: list[Any]) -> np.ndarray:
    """Return boxes (N, 4) in float64, NaN where there are not four numbers."""
    try:
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        rows = np.full((len(boxes), 4), np.nan)
        for row, box in zip(rows, boxes, strict=True):
            if isinstance(box, (list, tuple)) and len(box) == 4:
                row[:] = [x if isinstance(x, (int, float)) else np.nan for x in box]
        return rows
