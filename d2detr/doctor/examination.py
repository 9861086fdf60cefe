"""The one way in which datasets are looked at, before a training and on request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from d2detr.datasets.image_files import ImageState, inspect_images
from d2detr.doctor.annotation_checks import (
    box_findings,
    class_findings,
    id_findings,
    object_findings,
    record_findings,
    size_findings,
)
from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.doctor.dataset_content import Split
from d2detr.doctor.dataset_report import Report
from d2detr.doctor.findings import Finding
from d2detr.doctor.image_checks import image_findings
from d2detr.doctor.mask_checks import mask_findings
from d2detr.doctor.segment_checks import NUM_COMPARED, segment_findings, segment_id_findings
from d2detr.doctor.split_checks import (
    absent_class_findings,
    class_order_findings,
    shared_image_findings,
)
from d2detr.progress import progress

# Images per dataset that are decoded unless all or none are to be.
NUM_DECODED = 200
_PURPOSES = {"train": "train on", "val": "evaluate on"}


def examine(
    splits: dict[str, Split],
    *,
    num_queries: int,
    images: str = "sample",
    masks: str = "look",
) -> Report:
    """Look for every fault that is known.

    Args:
        splits: datasets by the names that the findings call them.
        num_queries: how many objects the model can find in an image.
        images: of image files "all" are decoded; of most the header and the end are read and a
            "sample" is decoded; or "none" is touched.
        masks: "train" if they are trained on, so that they must be there and be usable; "look" to
            look at those that are there; "skip" not to.
    """
    findings, skipped = [], []
    for name, split in splits.items():
        found = list(_annotation_findings(split, num_queries, masks))
        if images != "none":
            files = [*split.table.file_names, *(file for _, file in split.extra_files)]
            states = _inspect(files, images == "all", name)
            found += image_findings(split, states)
            skipped += [f"{name}: {words}" for words in _skipped(split, files, images == "all")]
            if split.panoptic and not any(finding.severity == "error" for finding in found):
                found += segment_findings(split.panoptic)
        findings += [replace(finding, split=name) for finding in found]
    trains = {name: split.table for name, split in splits.items() if split.role == "train"}
    for name, split in splits.items():
        if trains and name not in trains:
            found = list(_shared_findings(trains, split.table, images != "none"))
            findings += [replace(finding, split=name) for finding in found]
    if images == "none":
        skipped.append("image files")
    return Report(splits, sorted(findings, key=lambda x: x.severity != "error"), skipped)


def _annotation_findings(split: Split, num_queries: int, masks: str) -> Iterable[Finding]:
    table = split.table
    yield from split.malformed
    if split.content is None:
        yield from record_findings(table)
    else:
        yield from id_findings(split.content)
    yield from class_findings(table)
    yield from size_findings(table)
    yield from box_findings(table)
    if split.panoptic:  # whose masks are the pixels of its PNGs
        yield from segment_id_findings(split.panoptic)
    elif masks != "skip":
        trains_masks = masks == "train" and split.role == "train"
        yield from mask_findings(table, trains_masks=trains_masks)
    is_needed = split.is_annotated or split.role == "train"
    purpose = _PURPOSES.get(split.role) if is_needed else None
    yield from object_findings(table, num_queries, purpose)


def _shared_findings(
    trains: dict[str, AnnotationTable], val: AnnotationTable, reads_images: bool
) -> Iterable[Finding]:
    train_name, train = next(iter(trains.items()))
    yield from class_order_findings(train, val, train_name)
    yield from absent_class_findings(list(trains.values()), val)
    if reads_images:
        yield from shared_image_findings(list(trains.values()), val)


def _inspect(files: list[str], decodes_all: bool, name: str) -> list[ImageState]:
    states: list[ImageState] = []
    with progress(len(files), f"Checking {name}", "image files") as bar:
        for state in inspect_images(files, len(files) if decodes_all else NUM_DECODED):
            states.append(state)
            bar.update()
    return states


def _skipped(split: Split, files: list[str], decodes_all: bool) -> Iterable[str]:
    remote = [file for file in files if "://" in file]
    if remote:
        yield f"{len(remote)} files that are not local, first {remote[0]}"
    if len(files) > NUM_DECODED and not decodes_all:
        yield (
            f"the inside of {len(files) - NUM_DECODED} of {len(files)} image files, of which the "
            "header and the end were read (tools/check_dataset.py --decode decodes all)"
        )
    if len(split.panoptic) > NUM_COMPARED:
        rest = len(split.panoptic) - NUM_COMPARED
        yield f"whether {rest} of {len(split.panoptic)} panoptic PNGs hold their segments"
