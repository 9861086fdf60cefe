"""Panoptic quality by category, and pictures of panoptic segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata
from PIL import Image

from d2detr.evaluation.panoptic_evaluation import evaluate_panoptic_files
from d2detr.report.gallery import to_data_url
from d2detr.visualization.results import draw_panoptic_result

Row = tuple[str, list[float]]

_PICTURES = 6
_SIZE = (900, 450)  # pixels, of truth and prediction together
_MEASURES = ("PQ", "SQ", "RQ")


def quality_tables(
    found: dict[Any, list[dict[str, Any]]], directory: Path, metadata: Metadata
) -> tuple[list[Row], list[Row]]:
    """Compute panoptic quality, segmentation quality and recognition quality in percent.

    Args:
        found: the annotations of ``panoptic.json`` by the id of the image.
        directory: holds its PNGs.
        metadata: of the dataset.

    Returns:
        Rows of means, and of the categories that are there.

    Raises:
        UserError: files of the truth or the predictions are not there or do not fit together.
    """
    predictions = [annotation for annotations in found.values() for annotation in annotations]
    quality = evaluate_panoptic_files(
        metadata.panoptic_json, metadata.panoptic_root, predictions, directory
    )
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    means = {"all": quality.mean(), "things": quality.mean(things), "stuff": quality.mean(stuff)}
    names = {
        **{key: metadata.stuff_classes[label] for key, label in stuff.items()},
        **{key: metadata.thing_classes[label] for key, label in things.items()},
    }
    of_categories = [
        (names[category_id], _percent(values))
        for category_id, values in quality.per_category().items()
        if values
    ]
    return [(name, _percent(mean)) for name, mean in means.items()], of_categories


def _percent(values: dict[str, float]) -> list[float]:
    return [100 * values[measure] for measure in _MEASURES]


def draw_segmentations(
    records: Sequence[dict[str, Any]],
    found: dict[Any, list[dict[str, Any]]],
    directory: Path,
    metadata: Metadata,
) -> list[dict[str, str]]:
    """Draw the first images of a panoptic dataset, the truth (left) beside the prediction (right).

    Returns:
        "source", the picture as a URL, and "name" of each.
    """
    pictures = []
    for record in records[:_PICTURES]:
        annotations = found.get(record["image_id"], [])
        picture = Image.fromarray(draw_panoptic_result(record, annotations, directory, metadata))
        picture.thumbnail(_SIZE)
        pictures.append({"source": to_data_url(picture), "name": Path(record["file_name"]).name})
    return pictures
