"""What keeps a COCO instance annotation file from being used, or from being read by Detectron2.

Content that can be read but is doubtful is judged elsewhere, by ``d2detr.doctor``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from d2detr.datasets.text_files import has_byte_order_mark, read_json
from d2detr.errors import UserError

REQUIRED_KEYS = {
    "categories": ("id", "name"),
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
SECTIONS = tuple(REQUIRED_KEYS)
_LISTED = 10  # faults in one message
# Their values find entries of other lists, or are joined to paths.
_PLAIN_KEYS = ("id", "name", "image_id", "category_id")


def find_coco_fault(json_file: str, origin: str | None = None) -> str | None:
    """Find what keeps Detectron2 from reading a COCO instance annotation file.

    Args:
        json_file: a local path or another path known to Detectron2's PathManager.
        origin: the file or folder from which it was converted, if it was.

    Returns:
        A sentence that names the file or its origin, and its faults; None if there is none.
    """
    try:
        content = read_json(json_file)
        if has_byte_order_mark(json_file):
            return (
                f"{json_file} begins with a byte order mark, which Detectron2 and pycocotools do "
                "not read. Save it as UTF-8 without one, for example by: sed -i "
                rf"'1s/^\xEF\xBB\xBF//' {json_file}"
            )
    except UserError as error:
        return str(error)
    faults = _list(_coco_faults(content))
    return None if faults is None else f"{origin or json_file}: {faults}."


def find_section_fault(content: Any) -> str | None:
    """Find which of its lists the content of a COCO file lacks, whatever is in the others.

    Returns:
        The fault, in words that follow the name of the file, or None.
    """
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else f"a {type(content).__name__}"
        return f"it is not in COCO format, because it is {kind} with no list {SECTIONS[0]!r}"
    for section in SECTIONS:
        if not isinstance(content.get(section), list):
            return f"it is not in COCO format, because it has no list {section!r}"
    return None


def find_structure_fault(content: Any) -> str | None:
    """Find what keeps the content of a COCO file from being used at all: lists and keys it lacks.

    Returns:
        The faults, in words that follow the name of the file, or None.
    """
    return _list(_structure_faults(content))


def _list(faults: Iterable[str]) -> str | None:
    listed = list(faults)
    more = [f"and {len(listed) - _LISTED} more faults"] if len(listed) > _LISTED else []
    return "; ".join(listed[:_LISTED] + more) or None


def _coco_faults(content: Any) -> Iterable[str]:
    """Yield faults, up to those that keep the rest from being looked at."""
    faults = list(_structure_faults(content))
    yield from faults
    if faults:
        return
    fault = _mixed_ids(content["images"])
    if fault:
        yield f"ids of its images {fault}"
    yield from _annotation_faults(content)


def _structure_faults(content: Any) -> Iterable[str]:
    """Yield faults, up to those that keep the rest from being looked at."""
    fault = find_section_fault(content)
    faults = [fault] if fault else list(_entry_faults(content))
    yield from faults
    if faults:
        return
    for image in content["images"]:
        if not isinstance(image["file_name"], str) or not image["file_name"]:
            yield f"image {image['id']} has {_short(image['file_name'])} as its 'file_name'"
    if not content["categories"]:
        yield "its list 'categories' is empty"
    fault = _mixed_ids(content["categories"])
    if fault:
        yield f"ids of its categories {fault}"


def _entry_faults(content: dict[str, list]) -> Iterable[str]:
    for section, keys in REQUIRED_KEYS.items():
        for number, entry in enumerate(content[section], start=1):
            where = f"entry {number} of {section!r}"
            if not isinstance(entry, dict):
                yield f"{where} is {_short(entry)}, where an object with its keys should be"
                continue
            for key in keys:
                if key not in entry:
                    yield f"{where} has no {key!r}: {_short(entry)}"
                elif key in _PLAIN_KEYS and isinstance(entry[key], (list, dict)):
                    yield f"{where} has {_short(entry[key])} as its {key!r}"


def _mixed_ids(entries: list[dict[str, Any]]) -> str | None:
    """Say what is wrong with ids that cannot be put in order."""
    ids = [entry["id"] for entry in entries]
    for kind in ((int, float), str):
        if all(isinstance(x, kind) for x in ids):
            return None
    examples = {type(x): repr(x) for x in ids}.values()
    return f"must be all numbers or all text; there are {' and '.join(examples)}"


def _annotation_faults(content: dict[str, Any]) -> Iterable[str]:
    category_ids = {category["id"] for category in content["categories"]}
    annotation_ids = set()
    for annotation in content["annotations"]:
        label = f"annotation {annotation['id']}"
        category_id, box = annotation["category_id"], annotation["bbox"]
        if category_id not in category_ids:
            yield (
                f"{label} has category_id {_short(category_id)}, which is not among the ids of its "
                f"categories ({_abbreviate(sorted(category_ids))})"
            )
        if not (isinstance(box, list) and len(box) == 4):
            yield f"{label} has the bbox {_short(box)}, which is not [x, y, width, height]"
        for key, is_usable in (("segmentation", _is_mask), ("keypoints", _is_numbers)):
            if annotation.get(key) and not is_usable(annotation[key]):
                yield f"{label} has the {key} {_short(annotation[key])}, which cannot be read"
        if annotation["id"] in annotation_ids:
            yield f"{label} occurs twice; ids must be unique"
        annotation_ids.add(annotation["id"])


def _is_mask(value: Any) -> bool:
    """Whether it has the form of polygons or of an RLE."""
    if isinstance(value, dict):
        return "counts" in value and "size" in value
    return isinstance(value, list) and all(_is_numbers(polygon) for polygon in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, (int, float)) for x in value)


def _short(value: Any) -> str:
    return json.dumps(value)[:200]


def _abbreviate(values: list) -> str:
    if len(values) > 10:
        return f"{len(values)} ids from {values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
