"""Masks that cannot be used, or that are elsewhere than their box."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.doctor.findings import Finding, find

# How far, in pixels and as a share of the side, an edge of a mask may be from that of its box.
MASK_TOLERANCE = 3.0, 0.1


def mask_findings(table: AnnotationTable, *, trains_masks: bool) -> Iterable[Finding]:
    """Find objects without a mask, where masks are trained, and masks that are wrong."""
    given = np.array([_is_given(mask) for mask in table.segmentations], dtype=bool)
    if trains_masks:
        lacking = np.flatnonzero(~given & ~table.crowd)
        yield from find("missing_mask", lacking, table.describe)
    rows = np.flatnonzero(given & ~table.crowd)
    sizes = table.image_sizes[rows]
    found = [
        _mask_box(table.segmentations[row], size) for row, size in zip(rows, sizes, strict=True)
    ]
    mask_boxes = np.array(found).reshape(-1, 4)
    boxes = table.boxes[rows]
    pixels, share = MASK_TOLERANCE
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], (1, 2))
    unusable = np.isnan(mask_boxes).any(axis=1)
    elsewhere = (np.abs(mask_boxes - boxes) > pixels + share * sides).any(axis=1) & ~unusable
    yield from find("unusable_mask", rows[unusable], table.describe, trains_masks=trains_masks)
    yield from find("mask_mismatch", rows[elsewhere], table.describe)


def stops_loading(segmentation: Any) -> bool:
    """Whether Detectron2 fails at this "segmentation" of a COCO file, masks wanted or not."""
    if not segmentation or isinstance(segmentation, str):
        return False
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        return "counts" not in segmentation or (
            isinstance(counts, list) and not _is_run_lengths(segmentation)
        )
    return not isinstance(segmentation, list) or not all(
        isinstance(polygon, (list, dict, str)) for polygon in segmentation
    )


def _is_given(segmentation: Any) -> bool:
    return segmentation is not None and not (
        isinstance(segmentation, (list, dict, str)) and len(segmentation) == 0
    )


def _is_run_lengths(rle: dict[str, Any]) -> bool:
    """Whether an RLE with a list of counts covers an image of its size."""
    size, counts = rle.get("size"), rle["counts"]
    if not (isinstance(size, (list, tuple)) and len(size) == 2):
        return False
    are_numbers = all(
        isinstance(number, Integral) and not isinstance(number, bool) and 0 <= int(number) < 2**31
        for number in (*size, *counts)
    )
    return are_numbers and sum(counts) == size[0] * size[1]


def _mask_box(segmentation: Any, image_size: np.ndarray) -> list[float]:
    """Return the box (XYXY) around polygons, an RLE or a bitmap; NaN if it cannot be used.

    Args:
        segmentation: in Detectron2's dataset format.
        image_size: width and height; infinite where they are not known.
    """
    try:
        if isinstance(segmentation, list):
            return _polygon_box(segmentation)
        if not isinstance(segmentation, dict):
            segmentation = mask_util.encode(np.asfortranarray(segmentation, dtype=np.uint8))
        height, width = segmentation["size"]
        expected = np.where(np.isfinite(image_size), image_size, (width, height))
        if (width, height) != tuple(expected) or min(width, height) < 1:
            return [np.nan] * 4
        if isinstance(segmentation["counts"], list):
            if not _is_run_lengths(segmentation):
                return [np.nan] * 4
            segmentation = mask_util.frPyObjects(segmentation, height, width)
        x, y, width, height = mask_util.toBbox(segmentation).tolist()
        return [x, y, x + width, y + height]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return [np.nan] * 4


def _polygon_box(polygons: list[list[float]]) -> list[float]:
    if any(
        len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all()
        for polygon in polygons
    ):
        return [np.nan] * 4
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs), max(ys)]
