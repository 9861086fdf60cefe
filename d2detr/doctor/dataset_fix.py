"""Correcting a dataset: what a report found is taken out, clipped, renumbered or rewritten."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from d2detr.datasets.image_files import inspect_images
from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.doctor.dataset_content import Split
from d2detr.doctor.dataset_report import Report
from d2detr.errors import UserError
from d2detr.files import make_folder, write_json

# An image whose size is wrong is taken out, because nobody knows to which size its boxes refer.
_DROPPED_IMAGES = {
    "missing_image": "missing",
    "unreadable_image": "unreadable",
    "wrong_size": "with another size than annotated",
    "exif_rotated": "turned by EXIF",
    "duplicate_image_id": "with the id of another one",
    "image_in_both_splits": "that are in training too",
}
_DROPPED_ANNOTATIONS = {
    "unknown_image": "of no image",
    "unknown_class": "of no class",
    "broken_box": "without a box",
    "degenerate_box": "whose box has no area",
    "duplicate_box": "that repeat another one",
}
# Entries that cannot be read are not in the content of a split any more.
_ALREADY_DROPPED = {"malformed_image": "images", "malformed_annotation": "annotations"}
_REWRITTEN = ("text_box", "bad_iscrowd", "bad_size", "xyxy_boxes", "outside_box")
_LEFT_WITH_REASON = {
    "normalised_boxes": "because the corner or the centre may come first",
    "duplicate_file_name": "because they may be meant; join their annotations by hand",
    "bad_class_name": "where it is no number; name those classes by hand",
}


def fix_dataset(report: Report, output: str | Path) -> list[str]:
    """Write a corrected COCO file for each split.

    Args:
        report: of the dataset.
        output: a folder, which gets one file for each split; or a .json file if there is only one.

    Returns:
        What was changed and what was left, one sentence each.

    Raises:
        UserError: a file would be written over, or among those that were read; or the dataset is a
            panoptic one. Nothing has been written then.
    """
    files = _output_files(report, Path(output))
    said = []
    for name, split in report.splits.items():
        rows = {x.code: x.rows for x in report.findings if x.split == name}
        messages = {x.code: x.message for x in report.findings if x.split == name}
        if "off by" in messages.get("unknown_class", ""):
            # Without their class the annotations are worth nothing, and a shift is a guess.
            rows.pop("unknown_class")
            said.append(f"{name}: the shifted category ids were left; correct them by hand")
        content, changes = _fix(split, rows)
        make_folder(files[name].parent)
        write_json(files[name], content)
        handled = {*_DROPPED_IMAGES, *_DROPPED_ANNOTATIONS, *_ALREADY_DROPPED, *_REWRITTEN}
        handled |= {"duplicate_annotation_id"}
        left = [
            f"{code} was left ({len(found)})"
            + (f", {_LEFT_WITH_REASON[code]}" if code in _LEFT_WITH_REASON else "")
            for code, found in sorted(rows.items())
            if code not in handled
        ]
        said += [f"{name}: {words}" for words in [*changes, *left] or ["nothing was wrong"]]
        said.append(f"{name}: written to {files[name]}")
    return said


def _output_files(report: Report, output: Path) -> dict[str, Path]:
    """Return the file of each split, none of which exists or lies among what was read."""
    is_file = output.suffix == ".json" and len(report.splits) == 1
    names = [f"{Path(name.replace(':', '_')).name}.json" for name in report.splits]
    paths = [output if is_file else output / name for name in names]
    if not is_file and output.is_file():
        raise UserError(f"--fix: {output} is a file; name a folder for {len(paths)} of them.")
    for path in paths:
        if os.path.lexists(path):
            raise UserError(f"--fix: {path} exists already. Choose a folder without it.")
    folder = (output.parent if is_file else output).resolve()
    for place in map(Path, report.inputs):
        read = (place if place.is_dir() else place.parent).resolve()
        # Below a dataset's folder, the files would be taken for a part of it.
        if folder == read or (place.is_dir() and read in folder.parents):
            raise UserError(
                f"--fix: {output} lies in {read}, which holds what was checked. Choose a folder "
                "outside of it; the images stay where they are."
            )
    if any(split.panoptic for split in report.splits.values()):
        raise UserError("--fix: a panoptic dataset cannot be corrected; its PNGs hold the masks.")
    return dict(zip(report.splits, paths, strict=True))


def _fix(split: Split, rows: dict[str, list[int]]) -> tuple[dict[str, Any], list[str]]:
    content = split.content or _content_of(split.table)
    changes = []
    for code, section in _ALREADY_DROPPED.items():
        if rows.get(code):
            changes.append(f"{len(rows[code])} {section} that cannot be read were removed")
    dropped_images = _dropped(_DROPPED_IMAGES, rows, "images", changes)
    dropped = _dropped(_DROPPED_ANNOTATIONS, rows, "annotations", changes)
    images, unsized = _with_sizes(content["images"], rows.get("bad_size", ()), changes)
    categories = _with_names(content["categories"], rows, changes)
    dropped_images |= unsized
    annotations = _rewritten(split.table, content["annotations"], rows, changes)

    kept_images = [x for i, x in enumerate(images) if i not in dropped_images]
    # An image whose id occurs twice keeps the annotations with the first of them.
    kept_ids = {x["id"] for x in kept_images}
    known = {x["id"] for x in images}
    kept = [
        x
        for i, x in enumerate(annotations)
        if i not in dropped and (x["image_id"] in kept_ids or x["image_id"] not in known)
    ]
    if rows.get("duplicate_annotation_id"):
        kept = [{**x, "id": index} for index, x in enumerate(kept, start=1)]
        changes.append("all annotations were numbered anew")
    fixed = {"images": kept_images, "annotations": kept, "categories": categories}
    return {**content, **fixed}, changes


def _dropped(
    codes: dict[str, str], rows: dict[str, list[int]], section: str, changes: list[str]
) -> set[int]:
    dropped: set[int] = set()
    for code, words in codes.items():
        if rows.get(code):
            dropped |= set(rows[code])
            more = " with their annotations" if section == "images" else ""
            changes.append(f"{len(rows[code])} {section} {words} were removed{more}")
    return dropped


def _with_sizes(
    images: list[dict[str, Any]], rows: Iterable[int], changes: list[str]
) -> tuple[list[dict[str, Any]], set[int]]:
    """Give images whose size is no size that of their file; return which ones have none."""
    rows = sorted({*rows, *(i for i, image in enumerate(images) if "width" not in image)})
    images, unsized = list(images), set()
    states = inspect_images([images[row]["file_name"] for row in rows])
    for row, state in zip(rows, states, strict=True):
        if state.size is None:
            unsized.add(row)
        else:
            width, height = state.size
            images[row] = {**images[row], "width": width, "height": height}
    if rows:
        changes.append(
            f"{len(rows) - len(unsized)} images got the width and height of their file, to which "
            f"their boxes are thus taken to refer; {len(unsized)} without a file were removed"
        )
    return images, unsized


def _with_names(
    categories: list[dict[str, Any]], rows: dict[str, list[int]], changes: list[str]
) -> list[dict[str, Any]]:
    """Give classes whose name is a number the text of it."""
    numbers = [x for x in categories if isinstance(x["name"], (int, float))]
    if numbers:
        changes.append(f"{len(numbers)} names of classes were written as texts")
    if len(numbers) == len(rows.get("bad_class_name", ())):
        rows.pop("bad_class_name", None)
    return [{**x, "name": str(x["name"])} if x in numbers else x for x in categories]


def _rewritten(
    table: AnnotationTable,
    annotations: list[dict[str, Any]],
    rows: dict[str, list[int]],
    changes: list[str],
) -> list[dict[str, Any]]:
    """Return annotations with other boxes and flags where that is safe."""
    annotations = list(annotations)
    boxes = table.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]  # as they are written: x, y, width, height
    for row in rows.get("xyxy_boxes", ()):
        boxes[row, 2:] -= boxes[row, :2]
    for row in rows.get("outside_box", ()):
        x0, y0, x1, y1 = table.clipped[row]
        boxes[row] = x0, y0, x1 - x0, y1 - y0
    for code, words in (
        ("text_box", "boxes of texts were written as numbers"),
        (
            "xyxy_boxes",
            "boxes were taken to be [x0, y0, x1, y1] and rewritten as [x, y, width, height]; look "
            "at some of them, with tools/visualize_data.py for example",
        ),
        ("outside_box", "boxes were clipped to their image"),
    ):
        for row in rows.get(code, ()):
            box = boxes[row].tolist()
            annotations[row] = {**annotations[row], "bbox": box, "area": box[2] * box[3]}
        if rows.get(code):
            changes.append(f"{len(rows[code])} {words}")
    for row in rows.get("bad_iscrowd", ()):
        annotations[row] = {**annotations[row], "iscrowd": int(table.crowd[row])}
    if rows.get("bad_iscrowd"):
        crowds = table.crowd[rows["bad_iscrowd"]].sum()
        changes.append(
            f"{len(rows['bad_iscrowd'])} values of 'iscrowd' were written as numbers: {crowds} as "
            "1, the others as 0"
        )
    return annotations


def _content_of(table: AnnotationTable) -> dict[str, Any]:
    """Make the content of a COCO file of a dataset that has none, in the order of its table."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(table.file_names, start=1)]
    for image, size in zip(images, table.sizes, strict=True):
        if np.isfinite(size).all():
            image["width"], image["height"] = map(int, size)
    annotations = []
    for row, box in enumerate(table.boxes.tolist()):
        x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
        annotation = {
            "id": row + 1,
            "image_id": int(table.owners[row]) + 1,
            "category_id": int(table.labels[row]) + 1,
            "bbox": [x, y, width, height],
            "area": width * height,
            "iscrowd": int(table.crowd[row]),
        }
        if table.segmentations[row] is not None:
            annotation["segmentation"] = _for_json(table.segmentations[row])
        annotations.append(annotation)
    categories = [{"id": i, "name": name} for i, name in enumerate(table.class_names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _for_json(segmentation: Any) -> Any:
    if isinstance(segmentation, list):
        return [np.asarray(polygon).tolist() for polygon in segmentation]
    if not isinstance(segmentation, dict):  # a bitmap
        segmentation = mask_util.encode(np.asfortranarray(segmentation, dtype=np.uint8))
    counts = segmentation["counts"]
    return {**segmentation, "counts": counts.decode() if isinstance(counts, bytes) else counts}
