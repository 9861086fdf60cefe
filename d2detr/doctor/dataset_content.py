"""What is in a registered dataset, read for the checks: from its COCO file or its records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from d2detr.datasets.catalog import load_dataset, require_registered
from d2detr.datasets.coco_faults import find_structure_fault
from d2detr.datasets.panoptic import describe_segments
from d2detr.doctor.annotation_table import AnnotationTable, table_from_coco, table_from_records
from d2detr.doctor.findings import Finding, find
from d2detr.doctor.mask_checks import stops_loading
from d2detr.errors import UserError

# The functions of these modules that are registered make records of a COCO file, all in one way.
_READERS_OF_COCO = ("detectron2.data.datasets.coco", "d2detr.datasets.auto")
_EXTRA_FILE_KEYS = ("sem_seg_file_name", "pan_seg_file_name")
_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


@dataclass(frozen=True)
class Split:
    """One dataset, without the entries that cannot be read.

    Attributes:
        role: "train", "val" or "test".
        table: its annotations, those of segments included.
        content: that of its COCO file; None if other code makes the dataset.
        panoptic: its records, if it is a panoptic dataset.
        extra_files: paths of images beside those of the table, such as panoptic PNGs, each with
            the index of its image.
        is_annotated: whether it has annotations at all, be they empty.
        malformed: what is wrong with the entries that cannot be read.
    """

    role: str
    table: AnnotationTable = field(repr=False)
    content: dict[str, Any] | None = field(repr=False)
    panoptic: list[dict[str, Any]] = field(repr=False)
    extra_files: list[tuple[int, str]] = field(repr=False)
    is_annotated: bool
    malformed: list[Finding]


def read_split(name: str, role: str = "train", num_classes: int | None = None) -> Split:
    """Read a dataset once. Its classes become known to Detectron2, as they do by loading it.

    Args:
        name: of a registered dataset, or ``auto:PATH:SPLIT``.
        role: "train", "val" or "test".
        num_classes: of the model, for datasets that do not name their classes; None if unknown.

    Raises:
        UserError: it is not registered or cannot be read at all.
    """
    reader = getattr(require_registered(name), "__module__", "")
    if reader in _READERS_OF_COCO and MetadataCatalog.get(name).get("json_file"):
        return _split_of_file(name, role)
    return _split_of_records(name, role, num_classes)


def _split_of_file(name: str, role: str) -> Split:
    metadata = MetadataCatalog.get(name)
    try:
        with PathManager.open(metadata.json_file) as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        load_dataset(name)  # says what is wrong
        raise
    is_annotated = not isinstance(content, dict) or "annotations" in content
    if not is_annotated:  # as in COCO's lists of test images
        content["annotations"] = []
    malformed: list[Finding] = []
    if isinstance(content, dict):
        for section, problem in (("images", _image_problem), ("annotations", _annotation_problem)):
            if isinstance(content.get(section), list):
                found = {i: problem(entry) for i, entry in enumerate(content[section])}
                malformed += _malformed(section, content[section], found)
                content[section] = [x for i, x in enumerate(content[section]) if not found[i]]
    fault = find_structure_fault(content)
    if fault:
        raise UserError(f"Dataset {name!r}: {metadata.json_file}: {fault}.")
    if not (content["images"] or malformed):
        raise UserError(f"Dataset {name!r}: it holds no image.")
    for image in content["images"]:
        image["file_name"] = os.path.join(metadata.get("image_root", ""), image["file_name"])
    table = table_from_coco(content)
    if metadata.get("thing_dataset_id_to_contiguous_id") is None:
        ids = sorted(category["id"] for category in content["categories"])
        metadata.thing_classes = table.class_names
        metadata.thing_dataset_id_to_contiguous_id = {x: i for i, x in enumerate(ids)}
    return Split(role, table, content, [], [], is_annotated, malformed)


def _split_of_records(name: str, role: str, num_classes: int | None) -> Split:
    records = load_dataset(name)
    class_names = MetadataCatalog.get(name).get("thing_classes")
    if not class_names:
        if num_classes is None:
            raise UserError(
                f"Dataset {name!r} does not say how many classes it has: set the 'thing_classes' "
                "of its metadata, or MODEL.DETR.NUM_CLASSES."
            )
        class_names = [str(label) for label in range(num_classes)]
    problems = {i: _record_problem(record) for i, record in enumerate(records)}
    malformed = list(_malformed("images", records, problems))
    sound = [describe_segments(record) for i, record in enumerate(records) if not problems[i]]
    annotations = [(record, entry) for record in sound for entry in record.get("annotations", ())]
    faults = {i: _item_problem(entry) for i, (_, entry) in enumerate(annotations)}
    if any(faults.values()):
        malformed += _malformed("annotations", annotations, faults)
        sound = [
            {**x, "annotations": [y for y in x.get("annotations", ()) if not _item_problem(y)]}
            for x in sound
        ]
    return Split(
        role,
        table_from_records(sound, list(class_names)),
        None,
        [record for record in sound if "segments_info" in record],
        [(i, x[key]) for i, x in enumerate(sound) for key in _EXTRA_FILE_KEYS if key in x],
        any("annotations" in record for record in sound),
        malformed,
    )


def _malformed(
    section: str, entries: Sequence[Any], problems: dict[int, str | None]
) -> Iterable[Finding]:
    word = section.removesuffix("s")

    def describe(index: int) -> str:
        entry = entries[index]
        where = ""
        if isinstance(entry, tuple):  # of a record
            where, entry = f" of image {entry[0]['file_name']}", entry[1]
        known = isinstance(entry, dict) and entry.get("id") is not None
        number = str(entry["id"])[:40] if known else f"number {index + 1}"
        return f"{word} {number}{where} {problems[index]}"

    return find(f"malformed_{word}", [i for i, problem in problems.items() if problem], describe)


def _image_problem(image: Any) -> str | None:
    """Say what keeps Detectron2 from reading an image of a COCO file."""
    problem = _problem(image, ("id", "file_name", "width", "height"))
    if problem:
        return problem
    if isinstance(image["id"], (list, dict)):
        return f"has the id {_short(image['id'])}"
    return _file_name_problem(image)


def _record_problem(record: Any) -> str | None:
    problem = _problem(record, ("file_name",))
    if problem:
        return problem
    for key in ("annotations", "segments_info"):
        entries = record.get(key, [])
        if not isinstance(entries, (list, tuple)):
            return f"has {_short(entries)} as its {key!r}"
    if not all(isinstance(segment, dict) for segment in record.get("segments_info", ())):
        return "has 'segments_info' that are no dicts"
    return _file_name_problem(record)


def _file_name_problem(image: dict[str, Any]) -> str | None:
    if isinstance(image["file_name"], str) and image["file_name"]:
        return None
    return f"has {_short(image['file_name'])} as its 'file_name'"


def _annotation_problem(annotation: Any) -> str | None:
    """Say what keeps Detectron2 from reading an annotation of a COCO file."""
    problem = _problem(annotation, ("id", "image_id", "category_id", "bbox"))
    if problem:
        return problem
    for key in ("id", "image_id", "category_id"):
        if isinstance(annotation[key], (list, dict)):
            return f"has {_short(annotation[key])} as its {key!r}"
    if annotation.get("ignore", 0) != 0:
        return "has 'ignore', which Detectron2 does not read"
    keypoints = annotation.get("keypoints")
    if keypoints and not (
        isinstance(keypoints, list) and all(isinstance(x, (int, float)) for x in keypoints)
    ):
        return "has 'keypoints' that are no list of numbers"
    if stops_loading(annotation.get("segmentation")):
        return "has a 'segmentation' that is neither a list of polygons nor an RLE"
    return None


def _item_problem(annotation: Any) -> str | None:
    """Say what is wrong with the form of an annotation of a Detectron2 record."""
    problem = _problem(annotation, ("category_id", "bbox", "bbox_mode"))
    if not problem and annotation["bbox_mode"] not in _BOX_MODES:
        return f"has the bbox_mode {annotation['bbox_mode']}, not XYXY_ABS or XYWH_ABS"
    return problem


def _problem(entry: Any, keys: tuple[str, ...]) -> str | None:
    if not isinstance(entry, dict):
        return f"is {_short(entry)} and no object with keys"
    for key in keys:
        if key not in entry:
            return f"has no {key!r}"
    return None


def _short(value: Any) -> str:
    return "null" if value is None else repr(value)[:60]
