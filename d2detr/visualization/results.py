import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

from d2detr.data.dataset_mapper import annotations_to_instances
from d2detr.datasets.catalog import load_dataset
from d2detr.datasets.panoptic import panoptic_annotations, read_segment_ids
from d2detr.errors import UserError
from d2detr.files import make_folder, read_json, replacing
from d2detr.visualization.drawing import (
    PanopticSeg,
    draw_panoptic,
    draw_truth_and_predictions,
)
from d2detr.visualization.mistakes import KINDS, count_mistakes

ORDERS = ("first", "worst", *KINDS)


def draw_results(
    dataset_name: str,
    results_file: str | Path,
    output: str | Path,
    *,
    num_images: int = 12,
    columns: int = 3,
    score_threshold: float = 0.5,
    order: str = "first",
) -> dict[str, int]:
    """Draw COCO results beside the ground truth, as a grid of images of a dataset.

    Args:
        dataset_name: the registered dataset that was evaluated.
        results_file: ``coco_instances_results.json`` of COCOEvaluator, with or without masks, or
            ``panoptic.json`` of PanopticEvaluator.
        output: the picture to write; its suffix decides the format.
        num_images: pictures in the grid.
        columns: pictures side by side.
        score_threshold: detections below it are not drawn, and do not count as mistakes.
        order: "first" draws the first images of the dataset, "worst" those with the most mistakes,
            and one of :data:`d2detr.visualization.mistakes.KINDS` those with most of that kind.
            Images of panoptic datasets are always drawn in their order.

    Returns:
        The mistakes in the whole dataset by kind; empty for panoptic datasets.

    Raises:
        UserError: there is no such results file, it is panoptic and the dataset is not, or the
            order is unknown, its entries lack keys, or the output's suffix names no
            format of pictures.
    """
    check_picture_format(output)
    if order not in ORDERS:
        raise UserError(f"Order {order!r} is unknown; choose from {', '.join(ORDERS)}.")
    if not Path(results_file).is_file():
        raise UserError(
            f"Results file {results_file} does not exist. Evaluate first (--eval-only)."
        )
    results = read_json(Path(results_file))
    is_panoptic = isinstance(results, dict)
    of_image = defaultdict(list)
    entries = results.get("annotations") if is_panoptic else results
    check_entries(entries, results_file, is_panoptic=is_panoptic)
    for result in entries:
        of_image[result["image_id"]].append(result)
    has_masks = not is_panoptic and any("segmentation" in entry for entry in entries)
    dataset = load_dataset(dataset_name)
    if is_panoptic and not all("pan_seg_file_name" in record for record in dataset):
        raise UserError(
            f"{results_file} holds panoptic segmentations, but dataset {dataset_name!r} has none "
            "to compare with. Name its panoptic dataset, or give coco_instances_results.json."
        )
    metadata = MetadataCatalog.get(dataset_name)
    directory = Path(results_file).parent / "panoptic"
    mistakes = []
    if all("annotations" in record for record in dataset):
        mistakes = [
            _count_mistakes(record, of_image[record["image_id"]], metadata, score_threshold)
            for record in dataset
        ]
    chosen: Sequence[int] = range(len(dataset))
    if order != "first" and mistakes:
        kinds = KINDS if order == "worst" else (order,)
        chosen = sorted(chosen, key=lambda i: -sum(mistakes[i][kind] for kind in kinds))
    pictures = []
    for record in [dataset[i] for i in chosen[:num_images]]:
        found = of_image[record["image_id"]]
        if is_panoptic:
            picture = draw_panoptic_result(record, found, directory, metadata)
        else:
            pixels = torch.as_tensor(read_image(record["file_name"], "RGB").copy()).permute(2, 0, 1)
            size = pixels.shape[1], pixels.shape[2]
            predictions = predicted_instances(found, size, metadata)
            truth = true_instances(record, size, draws_masks=has_masks)
            picture = draw_truth_and_predictions(
                pixels, "RGB", truth, predictions, metadata, score_threshold
            )
        pictures.append(picture)
    make_folder(Path(output).parent)
    with replacing(output) as partial:
        Image.fromarray(make_grid(pictures, columns)).save(partial)
    return {kind: sum(x[kind] for x in mistakes) for kind in KINDS} if mistakes else {}


def check_picture_format(output: str | Path) -> None:
    """Raise :class:`UserError` where a file's suffix names no format of pictures."""
    if Image.registered_extensions().get(Path(output).suffix.lower()) not in Image.SAVE:
        raise UserError(
            f"The suffix of {output} names no format of pictures. Call it grid.png, for example."
        )


def check_entries(entries: Any, results_file: str | Path, *, is_panoptic: bool) -> None:
    """Check what an evaluation has written.

    Args:
        entries: of ``coco_instances_results.json``, or the annotations of ``panoptic.json``.
        results_file: that they are from.
        is_panoptic: which of the two.

    Raises:
        UserError: they are no list, or one of them lacks keys, or numbers for its place and score.
    """
    if not isinstance(entries, list):
        raise UserError(f"{results_file} holds no list of results. Evaluate again (--eval-only).")
    keys = {"image_id", "file_name", "segments_info"}
    if not is_panoptic:
        keys = {"image_id", "category_id", "bbox", "score"}
    for number, entry in enumerate(entries):
        missing = keys - entry.keys() if isinstance(entry, dict) else keys
        if missing:
            raise UserError(
                f"Entry {number} of {results_file} lacks {', '.join(sorted(missing))}. Give the "
                "results of an evaluation (--eval-only)."
            )
        if not is_panoptic and not _has_numbers(entry):
            raise UserError(
                f"Entry {number} of {results_file} has bbox {entry['bbox']} and score "
                f"{entry['score']}, which must be four finite numbers and one. Give the results of "
                "an evaluation (--eval-only)."
            )


def _has_numbers(entry: dict[str, Any]) -> bool:
    try:
        left, top, width, height = entry["bbox"]
        return all(map(math.isfinite, (left, top, width, height, entry["score"])))
    except (TypeError, ValueError):
        return False


def _count_mistakes(
    record: dict[str, Any],
    detections: list[dict[str, Any]],
    metadata: Metadata,
    score_threshold: float,
) -> dict[str, int]:
    size = record["height"], record["width"]
    boxes = [{k: v for k, v in x.items() if k != "segmentation"} for x in detections]
    predictions = predicted_instances(boxes, size, metadata)
    truth = true_instances(record, size, draws_masks=False)
    return count_mistakes(truth, predictions[predictions.scores >= score_threshold])


def true_instances(
    record: dict[str, Any], size: tuple[int, int], *, draws_masks: bool
) -> Instances:
    """Return the objects of a dataset's record, of a panoptic one its things; crowds left out."""
    if "segments_info" in record:
        annotations = [
            x
            for x, segment in zip(
                panoptic_annotations(record, size, with_masks=draws_masks),
                (s for s in record["segments_info"] if not s.get("iscrowd", 0)),
                strict=True,
            )
            if segment["isthing"]
        ]
    else:
        annotations = [x for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
    with_masks = draws_masks and bool(annotations) and all("segmentation" in x for x in annotations)
    return annotations_to_instances(annotations, NoOpTransform(), size, with_masks)


def predicted_instances(
    detections: list[dict[str, Any]], size: tuple[int, int], metadata: Metadata
) -> Instances:
    """Return the detections of an image.

    Args:
        detections: of the image, as COCO's results list them.
        size: height and width in pixels.
        metadata: tells which class a category is.
    """
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id", {})
    ids = [x["category_id"] for x in detections]
    predictions = Instances(size)
    boxes = torch.tensor([x["bbox"] for x in detections], dtype=torch.float32).reshape(-1, 4)
    predictions.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    predictions.pred_classes = torch.tensor([contiguous.get(i, i) for i in ids], dtype=torch.int64)
    predictions.scores = torch.tensor([x["score"] for x in detections])
    if detections and all("segmentation" in x for x in detections):
        masks = mask_util.decode([x["segmentation"] for x in detections])
        predictions.pred_masks = torch.from_numpy(masks.transpose(2, 0, 1).astype(bool))
    return predictions


def _segmentation(png: str | Path, segments: list[dict[str, Any]]) -> PanopticSeg:
    return torch.from_numpy(read_segment_ids(str(png))), segments


def draw_panoptic_result(
    record: dict[str, Any], found: list[dict[str, Any]], directory: Path, metadata: Metadata
) -> np.ndarray:
    """Draw the true panoptic segmentation of an image (left) beside the predicted one (right).

    Args:
        record: of the dataset.
        found: the image's annotation in ``panoptic.json``, or nothing.
        directory: holds the PNGs of ``panoptic.json``.
        metadata: of the dataset.
    """
    pixels = torch.as_tensor(read_image(record["file_name"], "RGB").copy()).permute(2, 0, 1)
    truth = _segmentation(record["pan_seg_file_name"], record["segments_info"])
    size = pixels.shape[1], pixels.shape[2]
    prediction = _predicted_segmentation(found, size, directory, metadata)
    return draw_panoptic(pixels, "RGB", truth, prediction, metadata)


def _predicted_segmentation(
    found: list[dict[str, Any]], size: tuple[int, int], directory: Path, metadata: Metadata
) -> PanopticSeg:
    if not found:
        return torch.zeros(size, dtype=torch.int32), []
    things = metadata.thing_dataset_id_to_contiguous_id
    classes = {**things, **metadata.stuff_dataset_id_to_contiguous_id}
    segments = [
        {
            "id": x["id"],
            "category_id": classes[x["category_id"]],
            "isthing": x["category_id"] in things,
        }
        for x in found[0]["segments_info"]
    ]
    return _segmentation(directory / found[0]["file_name"], segments)


def make_grid(pictures: list[np.ndarray], columns: int, gap: int = 16) -> np.ndarray:
    """Put pictures (H, W, 3) of any sizes side by side on white."""
    height = max(x.shape[0] for x in pictures) + gap
    width = max(x.shape[1] for x in pictures) + gap
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * height + gap, columns * width + gap, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * height + gap, (i % columns) * width + gap
        grid[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return grid
