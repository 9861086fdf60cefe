"""The report on a dataset: what is in each split, and every fault that can be found in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from tabulate import tabulate
from tqdm import tqdm

from d2detr.datasets.auto import PREFIX, register_auto, register_auto_dataset
from d2detr.datasets.catalog import load_dataset
from d2detr.datasets.coco_faults import find_structure_fault
from d2detr.datasets.image_files import ImageState, inspect_images
from d2detr.doctor.annotation_table import AnnotationTable, table_from_coco
from d2detr.doctor.findings import (
    Finding,
    box_findings,
    crowded_findings,
    image_findings,
    mask_findings,
    split_findings,
    structure_findings,
)
from d2detr.errors import UserError


@dataclass(frozen=True)
class Split:
    """One split: the content of a COCO file, and the same as a table."""

    content: dict[str, Any] = field(repr=False)
    table: AnnotationTable = field(repr=False)


@dataclass(frozen=True)
class Report:
    """What is in a dataset and what is wrong with it.

    Attributes:
        splits: by "train", "val" and "test", or by the name of a registered dataset.
        findings: errors first.
        division: where the splits of a folder come from, in words.
    """

    splits: dict[str, Split]
    findings: list[Finding]
    division: str | None = None

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "splits": {name: _counts(split.table) for name, split in self.splits.items()},
            "division": self.division,
            "findings": [
                {
                    "code": x.code,
                    "severity": x.severity,
                    "split": x.split,
                    "count": x.count,
                    "message": x.message,
                    "examples": x.examples,
                }
                for x in self.findings
            ],
        }

    def __str__(self) -> str:
        counts = {name: _counts(split.table) for name, split in self.splits.items()}
        classes = list(dict.fromkeys(k for x in counts.values() for k in x["classes"]))
        rows = [(key, *(x[key] for x in counts.values())) for key in ("images", "empty images")]
        rows += [(name, *(x["classes"].get(name, 0) for x in counts.values())) for name in classes]
        rows.append(("all objects", *(sum(x["classes"].values()) for x in counts.values())))
        parts = [tabulate(rows, headers=("", *counts))]
        if self.division:
            parts.append(f"The splits are those of a fine-tuning: {self.division}.")
        for finding in self.findings:
            more = ", ..." if finding.count > len(finding.examples) else ""
            parts.append(
                f"{finding.severity.upper()} {finding.split}: {finding.count} {finding.message}.\n"
                f"    {', '.join(finding.examples)}{more}"
            )
        warnings = len(self.findings) - len(self.errors)
        parts.append(f"{len(self.errors)} kinds of errors, {warnings} kinds of warnings.")
        return "\n\n".join(parts)


def check_dataset(target: str, decode: bool = False, num_queries: int = 100) -> Report:
    """Look for every fault that is known.

    Args:
        target: a folder, COCO JSON file or data.yaml; the name of a registered dataset; or
            ``auto:PATH:SPLIT``.
        decode: decode every image, instead of reading the headers.
        num_queries: how many objects the model can find in an image.

    Raises:
        UserError: there is no such dataset, or it cannot be read at all.
    """
    datasets = _datasets(target)
    splits = {name: _load(dataset) for name, dataset in datasets.items()}
    findings: list[Finding] = []
    for name, split in splits.items():
        states = _inspect(split.table.file_names, decode, name)
        found = inspect_split(split, states, num_queries)
        findings.extend(replace(finding, split=name) for finding in found)
    if "train" in splits:
        for name in [name for name in splits if name != "train"]:
            found = split_findings(splits["train"].table, splits[name].table)
            findings.extend(replace(finding, split=name) for finding in found)
    division = MetadataCatalog.get(next(iter(datasets.values()))).get("division")
    return Report(splits, sorted(findings, key=lambda x: x.severity != "error"), division)


def inspect_split(
    split: Split, states: Sequence[ImageState], num_queries: int
) -> Iterable[Finding]:
    """Find the faults of one split, apart from others."""
    table = split.table
    names = [f"annotation {x['id']} of image {x['image_id']}" for x in split.content["annotations"]]
    yield from structure_findings(split.content)
    yield from image_findings(table, states)
    yield from box_findings(table, names)
    yield from mask_findings(table, names)
    yield from crowded_findings(table, num_queries)


def _datasets(target: str) -> dict[str, str]:
    """Return the registered name of each split."""
    if target.startswith(PREFIX):
        if target not in DatasetCatalog:
            register_auto(target)
        return {target: target}
    if target in DatasetCatalog:
        return {target: target}
    if os.sep not in target and not os.path.exists(target):
        load_dataset(target)  # which says what names there are
    names = register_auto_dataset(target)
    return {split: names[split] for split in ("train", "val", "test") if split in names}


def _load(name: str) -> Split:
    """Read the COCO file of a dataset; one without such a file is converted."""
    json_file = MetadataCatalog.get(name).get("json_file")
    if not json_file or not os.path.isfile(json_file):
        content = _content_of_records(name)
        return Split(content, table_from_coco(content))
    try:
        with open(json_file) as file:
            content = json.load(file)
    except ValueError as error:
        raise UserError(f"{json_file} is not valid JSON, or truncated: {error}.") from None
    fault = find_structure_fault(content)
    if fault:
        raise UserError(f"{json_file}: {fault}.")
    root = MetadataCatalog.get(name).get("image_root", "")
    for image in content["images"]:
        image["file_name"] = os.path.join(root, image["file_name"])
    return Split(content, table_from_coco(content))


def _content_of_records(name: str) -> dict[str, Any]:
    records = load_dataset(name)
    class_names = MetadataCatalog.get(name).get("thing_classes")
    if class_names is None:
        raise UserError(f"Dataset {name!r} does not name its classes (metadata 'thing_classes').")
    images, annotations = [], []
    for index, record in enumerate(records, start=1):
        keys = ("file_name", "width", "height")
        image_id = record.get("image_id", index)
        images.append({"id": image_id, **{key: record[key] for key in keys if key in record}})
        for item in record.get("annotations", ()):
            box = BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYWH_ABS)
            kept = {key: item[key] for key in ("iscrowd", "segmentation") if key in item}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": item["category_id"] + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    **kept,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _inspect(file_names: list[str], decode: bool, name: str) -> list[ImageState]:
    states = inspect_images(file_names, decode)
    if decode:
        states = tqdm(states, total=len(file_names), desc=f"Decoding {name}", unit="image")
    return list(states)


def _counts(table: AnnotationTable) -> dict[str, Any]:
    counts = table.objects_per_class.tolist()
    return {
        "images": len(table.file_names),
        "empty images": int((table.objects_per_image == 0).sum()),
        "annotations": len(table.boxes),
        "classes": dict(zip(table.class_names, counts, strict=True)),
    }
