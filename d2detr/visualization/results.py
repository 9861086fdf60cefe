import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from d2detr.data.loading import load_dataset
from d2detr.errors import UserError
from d2detr.visualization.drawing import draw_truth_and_predictions
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
        results_file: ``coco_instances_results.json`` of COCOEvaluator.
        output: the picture to write; its suffix decides the format.
        num_images: pictures in the grid.
        columns: pictures side by side.
        score_threshold: detections below it are not drawn, and do not count as mistakes.
        order: "first" draws the first images of the dataset, "worst" those with the most mistakes,
            and one of :data:`d2detr.visualization.mistakes.KINDS` those with most of that kind.

    Returns:
        The mistakes in the whole dataset by kind.

    Raises:
        UserError: there is no such results file, or the order is unknown.
    """
    if order not in ORDERS:
        raise UserError(f"Order {order!r} is unknown; choose from {', '.join(ORDERS)}.")
    if not Path(results_file).is_file():
        raise UserError(
            f"Results file {results_file} does not exist. Evaluate first (--eval-only)."
        )
    detections = defaultdict(list)
    for detection in json.loads(Path(results_file).read_text()):
        detections[detection["image_id"]].append(detection)
    dataset = load_dataset(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    mistakes = []
    for record in dataset:
        size = record["height"], record["width"]
        predictions = _predictions(detections[record["image_id"]], size, metadata)
        confident = predictions[predictions.scores >= score_threshold]
        mistakes.append(count_mistakes(_truth(record, size), confident))
    chosen = range(len(dataset))
    if order != "first":
        kinds = KINDS if order == "worst" else (order,)
        chosen = sorted(chosen, key=lambda i: -sum(mistakes[i][kind] for kind in kinds))
    pictures = []
    for record in [dataset[i] for i in chosen[:num_images]]:
        image = read_image(record["file_name"], "RGB")
        size = image.shape[:2]
        pictures.append(
            draw_truth_and_predictions(
                torch.as_tensor(image.copy()).permute(2, 0, 1),
                "RGB",
                _truth(record, size),
                _predictions(detections[record["image_id"]], size, metadata),
                metadata,
                score_threshold,
            )
        )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_grid(pictures, columns)).save(output)
    return {kind: sum(x[kind] for x in mistakes) for kind in KINDS}


def _truth(record: dict[str, Any], size: tuple[int, int]) -> Instances:
    annotations = [x for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
    truth = Instances(size)
    truth.gt_boxes = Boxes(
        [BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    )
    truth.gt_classes = torch.tensor([x["category_id"] for x in annotations], dtype=torch.int64)
    return truth


def _predictions(
    detections: list[dict[str, Any]], size: tuple[int, int], metadata: Metadata
) -> Instances:
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id", {})
    ids = [x["category_id"] for x in detections]
    predictions = Instances(size)
    predictions.pred_boxes = Boxes(
        [BoxMode.convert(x["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for x in detections]
    )
    predictions.pred_classes = torch.tensor([contiguous.get(i, i) for i in ids], dtype=torch.int64)
    predictions.scores = torch.tensor([x["score"] for x in detections])
    return predictions


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
