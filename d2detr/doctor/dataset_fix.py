"""Correcting a dataset: what a report found is taken out, clipped or renumbered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d2detr.doctor.dataset_report import Report, Split

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


def fix_dataset(report: Report, output: str | Path) -> list[str]:
    """Write a corrected COCO file for each split.

    Args:
        report: of the dataset.
        output: a folder, which gets one file for each split; or a .json file if there is only one.

    Returns:
        What was changed and what was left, one sentence each.
    """
    output = Path(output)
    said = []
    for name, split in report.splits.items():
        rows = {x.code: x.rows for x in report.findings if x.split == name}
        messages = {x.code: x.message for x in report.findings if x.split == name}
        if "off by" in messages.get("unknown_class", ""):
            # Without their class the annotations are worth nothing, and a shift is a guess.
            rows.pop("unknown_class")
            said.append(f"{name}: the shifted category ids were left; correct them by hand")
        content, changes = _fix(split, rows)
        is_file = output.suffix == ".json" and len(report.splits) == 1
        file = output if is_file else output / f"{Path(name.replace(':', '_')).name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        said += [f"{name}: {change}" for change in changes or ["nothing was wrong"]]
        left = {"mask_mismatch", "unusable_mask", "more_objects_than_queries"} & set(rows)
        said += [f"{name}: {code} was left ({len(rows[code])})" for code in sorted(left)]
        said.append(f"{name}: written to {file}")
    return said


def _fix(split: Split, rows: dict[str, list[int]]) -> tuple[dict[str, Any], list[str]]:
    images, annotations = split.content["images"], split.content["annotations"]
    changes = []
    dropped_images: set[int] = set()
    for code, words in _DROPPED_IMAGES.items():
        if rows.get(code):
            dropped_images |= set(rows[code])
            changes.append(f"{len(rows[code])} images {words} were removed with their annotations")
    dropped: set[int] = set()
    for code, words in _DROPPED_ANNOTATIONS.items():
        if rows.get(code):
            dropped |= set(rows[code])
            changes.append(f"{len(rows[code])} annotations {words} were removed")
    clipped = split.table.clipped
    annotations = list(annotations)
    for row in rows.get("outside_box", ()):
        x0, y0, x1, y1 = clipped[row].tolist()
        box = [x0, y0, x1 - x0, y1 - y0]
        annotations[row] = {**annotations[row], "bbox": box, "area": box[2] * box[3]}
    if rows.get("outside_box"):
        changes.append(f"{len(rows['outside_box'])} boxes were clipped to their image")

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
    fixed = {**split.content, "images": kept_images, "annotations": kept}
    return fixed, changes
