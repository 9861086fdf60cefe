"""The parts of a report that are about one run's last evaluation, and about its datasets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data import MetadataCatalog

from d2detr.datasets.catalog import load_dataset
from d2detr.doctor.dataset_content import read_split
from d2detr.errors import UserError
from d2detr.report import charts
from d2detr.report.average_precision import AveragePrecision, evaluate_detections
from d2detr.report.confusion import confusion_matrix
from d2detr.report.detections import (
    ImageResult,
    calibrate,
    compare,
)
from d2detr.report.gallery import Gallery, build_gallery
from d2detr.report.run_folder import PANOPTIC_FILE, RESULTS_FILE, RunFolder
from d2detr.report.segments import Row, draw_segmentations, quality_tables
from d2detr.visualization.mistakes import KINDS

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """What the page shows of an evaluation; empty where there is nothing to show.

    Attributes:
        dataset_name: that was evaluated, "" if none was.
        class_names: of the dataset.
        num_images: of the dataset.
        num_objects: of the dataset.
        precisions: AP of boxes and of masks.
        charts: of the detections.
        gallery: sampled images.
        quality: panoptic quality: means, and of each category.
        segmentations: pictures of panoptic segmentations.
    """

    dataset_name: str = ""
    class_names: list[str] = field(default_factory=list)
    num_images: int = 0
    num_objects: int = 0
    precisions: list[AveragePrecision] = field(default_factory=list)
    charts: list[charts.Chart] = field(default_factory=list)
    gallery: Gallery = field(default_factory=Gallery)
    quality: tuple[list[Row], list[Row]] = ([], [])
    segmentations: list[dict[str, str]] = field(default_factory=list)


def read_evaluation(run: RunFolder, dataset_name: str | None, picture_bytes: int) -> Evaluation:
    """Compare what a run has found last with the truth.

    What cannot be shown is noted in ``run.notes``.

    Args:
        run: a run.
        dataset_name: that it was evaluated on; None takes it from its config.
        picture_bytes: what pictures may take in the page.
    """
    evaluation = Evaluation()
    if run.detections is None and run.panoptic is None:
        if not any((run.path / file).is_file() for file in (RESULTS_FILE, PANOPTIC_FILE)):
            run.notes.append("There is no evaluation yet: no detections are in inference/.")
        return evaluation
    try:
        name, records = _find_dataset(run, dataset_name)
        _read_detections(run, name, records, evaluation, picture_bytes)
        _read_segmentations(run, name, records, evaluation)
    except UserError as error:
        run.notes.append(str(error))
    return evaluation


def _find_dataset(run: RunFolder, dataset_name: str | None) -> tuple[str, list[dict[str, Any]]]:
    """Return the dataset with all the images of the detections, and its records."""
    # One evaluation overwrites the files of the one before.
    names = (
        [dataset_name] if dataset_name else [*reversed(run.cfg.DATASETS.TEST if run.cfg else ())]
    )
    if not names:
        raise UserError(
            f"{run.path} does not say which dataset was evaluated: its config.yaml has no "
            "DATASETS.TEST. Name it by --dataset."
        )
    found = {*(run.detections or {}), *(run.panoptic or {})}
    for name in names:
        records = load_dataset(name)
        if found <= {record["image_id"] for record in records}:
            return name, records
    raise UserError(
        f"The detections in {run.path} are of other images than those of {', '.join(names)}. Name "
        "the dataset that was evaluated by --dataset."
    )


def _read_detections(
    run: RunFolder,
    name: str,
    records: Sequence[dict[str, Any]],
    evaluation: Evaluation,
    picture_bytes: int,
) -> None:
    metadata = MetadataCatalog.get(name)
    evaluation.dataset_name, evaluation.num_images = name, len(records)
    evaluation.class_names = [str(x) for x in metadata.get("thing_classes") or ()]
    if run.detections is None:
        return
    if not run.detections:
        run.notes.append(f"Nothing at all was detected in the {len(records)} images of {name}.")
    if not any("annotations" in record or "segments_info" in record for record in records):
        raise UserError(f"{name} has no annotations to compare the detections with.")
    _check_categories(run, name)
    images = compare(records, run.detections, metadata)
    num_classes = _count_classes(images, evaluation.class_names)
    evaluation.class_names += map(str, range(len(evaluation.class_names), num_classes))
    evaluation.num_objects = sum(len(image.truth) for image in images)
    if not evaluation.num_objects:
        run.notes.append(f"{name} has no objects, so that there is no AP.")
    evaluation.gallery = build_gallery(images, picture_bytes)
    if unreadable := evaluation.gallery.unreadable:
        run.notes.append(f"{len(unreadable)} images cannot be read, such as {unreadable[0]}.")
    mistakes = {kind: sum(image.mistakes[kind] for image in images) for kind in KINDS}
    evaluation.charts = [
        charts.counts_of_kinds(mistakes),
        charts.confusion(confusion_matrix(images, num_classes), evaluation.class_names),
    ]
    if run.detections and evaluation.num_objects:
        evaluation.precisions = evaluate_detections(name, run.detections, records)
        evaluation.charts += map(charts.precision_recall, evaluation.precisions)
    if run.detections:
        evaluation.charts.append(charts.calibration(calibrate(images)))


def _check_categories(run: RunFolder, name: str) -> None:
    known = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    found = {x["category_id"] for detections in (run.detections or {}).values() for x in detections}
    unknown = sorted(found.difference(known)) if known else []
    if unknown:
        raise UserError(
            f"The detections in {run.path} have category ids that {name} does not have, such as "
            f"{unknown[0]}. Name the dataset that was evaluated by --dataset."
        )


def _count_classes(images: Sequence[ImageResult], class_names: Sequence[str]) -> int:
    labels = [x for image in images for x in image.truth.gt_classes.tolist()]
    labels += [x for image in images for x in image.predictions.pred_classes.tolist()]
    return max([len(class_names) - 1, *labels]) + 1


def _read_segmentations(
    run: RunFolder, name: str, records: Sequence[dict[str, Any]], evaluation: Evaluation
) -> None:
    metadata = MetadataCatalog.get(name)
    if run.panoptic is None or not metadata.get("panoptic_json"):
        return
    directory = (run.path / PANOPTIC_FILE).parent / "panoptic"
    try:
        evaluation.quality = quality_tables(run.panoptic, directory, metadata)
        evaluation.segmentations = draw_segmentations(records, run.panoptic, directory, metadata)
    except OSError as error:
        raise UserError(
            f"The panoptic segmentations cannot be shown: {error.filename}: {error.strerror}."
        ) from error


def read_dataset_charts(
    run: RunFolder, evaluated: str
) -> list[tuple[str, str, list[charts.Chart]]]:
    """Return name, summary and charts of each dataset that a run trains on or is evaluated on."""
    names = [*run.cfg.DATASETS.TRAIN, *run.cfg.DATASETS.TEST] if run.cfg else []
    found = []
    for name in dict.fromkeys([*names, evaluated]):
        if not name:
            continue
        try:
            table = read_split(name).table
        except UserError as error:
            if str(error) not in run.notes:
                run.notes.append(str(error))
            continue
        found.append((name, table.summary(), charts.dataset_charts(table)))
    return found
