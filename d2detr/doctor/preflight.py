"""Checks of the datasets before the first iteration.

What training would leave out is counted and reported; what it cannot use is an error that names
the file and the annotation.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from d2detr.datasets.catalog import load_dataset
from d2detr.datasets.categories import check_num_classes, resolve_num_classes
from d2detr.datasets.image_files import ImageState, check_image_files
from d2detr.datasets.panoptic import compare_segments, describe_segments
from d2detr.doctor.annotation_table import AnnotationTable, table_from_records
from d2detr.doctor.findings import (
    Finding,
    box_findings,
    crowded_findings,
    image_findings,
    mask_findings,
    split_findings,
)
from d2detr.errors import UserError

IMAGE_KEYS = ("file_name", "sem_seg_file_name", "pan_seg_file_name")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationCounts:
    """What the annotations of a dataset hold.

    Attributes:
        images: number of images.
        empty_images: images without an object to train on.
        annotations: annotations, of which there are
        crowds: crowd regions,
        degenerate: other boxes without any area within their image, and
        outside: other boxes that reach out of their image by more than rounding explains.
        objects_per_image: N for each image, without crowds and degenerate boxes.
    """

    images: int
    empty_images: int
    annotations: int
    crowds: int
    degenerate: int
    outside: int
    objects_per_image: np.ndarray

    def __str__(self) -> str:
        return (
            f"{self.images} images ({self.empty_images} without objects), "
            f"{self.annotations} annotations; left out in training: {self.crowds} crowd regions, "
            f"{self.degenerate} boxes without area; {self.outside} boxes reach beyond their image "
            "and are clipped"
        )


def check_annotations(
    name: str, dataset: list[dict[str, Any]], num_classes: int, needs_masks: bool = False
) -> AnnotationCounts:
    """Check and count the annotations of a dataset.

    Args:
        name: the dataset's name, for the messages.
        dataset: one dict per image, in Detectron2's dataset format.
        num_classes: category ids must be in [0, num_classes).
        needs_masks: whether every object must have a "segmentation".

    Returns:
        The counts.

    Raises:
        UserError: an annotation has a category id out of range, a box that is not finite, or
            lacks a key; names the first such annotation.
    """
    class_names = [str(label) for label in range(num_classes)]
    return _count(_check_annotations(name, dataset, class_names, needs_masks))


def _check_annotations(
    name: str, dataset: list[dict[str, Any]], class_names: list[str], needs_masks: bool
) -> AnnotationTable:
    num_classes = len(class_names)
    owners = np.repeat(
        np.arange(len(dataset)), [len(record.get("annotations", ())) for record in dataset]
    )
    annotations = [item for record in dataset for item in record.get("annotations", ())]

    def reject(bad: np.ndarray, problem: str) -> None:
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            where = _describe_annotation(name, dataset[owners[index]], annotations[index])
            more = f" ({int(bad.sum())} annotations are like this.)" if bad.sum() > 1 else ""
            raise UserError(f"Dataset {name!r}: {where} {problem}.{more}")

    crowd = np.array([item.get("iscrowd", 0) != 0 for item in annotations], dtype=bool)
    for key in ("category_id", "bbox", "bbox_mode"):
        reject(np.array([key not in item for item in annotations], dtype=bool), f"has no {key!r}")
    if needs_masks:
        lacking = np.array([_lacks_mask(item) for item in annotations], dtype=bool)
        reject(lacking & ~crowd, "has no 'segmentation', which MODEL.MASK_ON trains on")
    category_ids = np.array([item["category_id"] for item in annotations], dtype=np.int64)
    reject(
        (category_ids < 0) | (category_ids >= num_classes),
        f"has a category id outside of the {num_classes} classes [0, {num_classes - 1}]",
    )
    table = table_from_records(dataset, class_names)
    reject(~np.isfinite(table.boxes).all(axis=1), "has a box that is not finite")
    return table


def _lacks_mask(annotation: dict[str, Any]) -> bool:
    segmentation = annotation.get("segmentation")
    return segmentation is None or isinstance(segmentation, list) and not segmentation


def _count(table: AnnotationTable) -> AnnotationCounts:
    objects = table.objects_per_image
    return AnnotationCounts(
        images=len(table.file_names),
        empty_images=int((objects == 0).sum()),
        annotations=len(table.boxes),
        crowds=int(table.crowd.sum()),
        degenerate=int(table.degenerate.sum()),
        outside=int(table.outside.sum()),
        objects_per_image=objects,
    )


def check_datasets(cfg: CfgNode, is_train: bool = True) -> None:
    """Check everything that training or evaluation will read, and log what is in it.

    Args:
        cfg: a config with DETR's keys.
        is_train: whether to check the training datasets too, or those for testing alone.

    Raises:
        UserError: a dataset is not registered, lacks files, has unreadable ones, has another
            number of classes than the model, or annotations that cannot be used.
    """
    split = "TRAIN" if is_train else "TEST"
    if not cfg.DATASETS[split]:
        raise UserError(f"DATASETS.{split} is empty: name at least one dataset.")
    check_num_classes(cfg, is_train)
    train_names = cfg.DATASETS.TRAIN if is_train else ()
    num_classes = resolve_num_classes(cfg)
    tables: dict[str, AnnotationTable] = {}
    for name in dict.fromkeys([*train_names, *cfg.DATASETS.TEST]):
        start = time.perf_counter()
        dataset = [describe_segments(record) for record in load_dataset(name)]
        trained_on = name in train_names
        if trained_on and not any("annotations" in record for record in dataset):
            raise UserError(f"Dataset {name!r} has no boxes to train on.")
        has_segments = any("segments_info" in record for record in dataset)
        needs_masks = trained_on and cfg.MODEL.MASK_ON and not has_segments
        class_names = MetadataCatalog.get(name).get("thing_classes")
        class_names = class_names or [str(label) for label in range(num_classes)]
        table = tables[name] = _check_annotations(name, dataset, class_names, needs_masks)
        states = check_image_files(
            name, (record[key] for record in dataset for key in IMAGE_KEYS if key in record)
        )
        compare_segments(dataset)
        _reject(
            name, image_findings(table, [states.get(x, ImageState()) for x in table.file_names])
        )
        annotations = [f"annotation of {table.file_names[owner]}" for owner in table.owners]
        masks = list(mask_findings(table, annotations)) if needs_masks else []
        _reject(name, (x for x in masks if x.code == "unusable_mask"))
        # The other findings are part of the counts, because crowds and clipped boxes are common.
        _warn_of(name, (x for x in box_findings(table, annotations) if x.code == "duplicate_box"))
        _warn_of(name, masks)
        if trained_on:
            _warn_of(name, crowded_findings(table, cfg.MODEL.DETR.NUM_OBJECT_QUERIES))
        logger.info(f"{name}: {_count(table)}. Checked in {time.perf_counter() - start:.1f} s.")
    for name in cfg.DATASETS.TEST if len(train_names) == 1 else ():
        if name not in train_names:
            _warn_of(name, split_findings(tables[train_names[0]], tables[name]))


def _reject(name: str, findings: Iterable[Finding]) -> None:
    for finding in findings:
        raise UserError(f"Dataset {name!r}: {_say(finding)}.")


def _warn_of(name: str, findings: Iterable[Finding]) -> None:
    for finding in findings:
        logger.warning(f"{name}: {_say(finding)}.")


def _say(finding: Finding) -> str:
    return f"{finding.count} {finding.message}; first {finding.examples[0]}"


def _describe_annotation(name: str, record: dict[str, Any], annotation: dict[str, Any]) -> str:
    """Say which annotation this is, by its id if that can be found out."""
    where = f"of image {record['file_name']}"
    json_file = MetadataCatalog.get(name).get("json_file")
    if "id" in annotation:
        return f"annotation {annotation['id']} {where}"
    # Detectron2 drops the id; the box finds it again.
    if json_file and PathManager.isfile(json_file):
        with PathManager.open(json_file) as file:
            for original in json.load(file)["annotations"]:
                if original["image_id"] == record.get("image_id") and original.get(
                    "bbox"
                ) == annotation.get("bbox"):
                    return f"annotation {original['id']} of {json_file} ({where})"
    position = next(i for i, item in enumerate(record["annotations"]) if item is annotation)
    return f"annotation number {position + 1} {where}"
