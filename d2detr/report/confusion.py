"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, pairwise_iou

from d2detr.datasets.catalog import load_dataset
from d2detr.report.detections import SCORE_THRESHOLD, ImageResult, compare
from d2detr.report.run_folder import read_annotations

MOST_CLASSES = 40  # that are shown
MOST_NUMBERS = 12  # classes whose cells have room for numbers
_FOUND_IOU = 0.5
_DPI = 100


def confusion_matrix(images: Sequence[ImageResult], num_classes: int) -> np.ndarray:
    """Count which class is taken for which, among detections that count.

    A detection takes the free object with the highest IoU, at least 0.5, whatever its class.

    Returns:
        (K + 1, K + 1) true and predicted classes; the last row is "background", the last column
        "missed".
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        shown = image.predictions[image.predictions.scores >= SCORE_THRESHOLD]
        shown = shown[shown.scores.argsort(descending=True, stable=True)]
        ious = pairwise_iou(shown.pred_boxes, Boxes(image.truth.gt_boxes.tensor.float())).numpy()
        labels = image.truth.gt_classes.tolist()
        free = np.ones(len(labels), dtype=bool)
        for predicted, row in zip(shown.pred_classes.tolist(), ious, strict=True):
            best = int((row * free).argmax()) if labels else -1
            is_found = best >= 0 and free[best] and row[best] >= _FOUND_IOU
            matrix[labels[best] if is_found else -1, predicted] += 1
            if is_found:
                free[best] = False
        np.add.at(matrix[:, -1], np.array(labels, dtype=int)[free], 1)
    return matrix


def most_confused(matrix: np.ndarray, class_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Add up, of many classes, those that are least often confused.

    Args:
        matrix: of :func:`confusion_matrix`.
        class_names: K names.

    Returns:
        The matrix and its names, of ``MOST_CLASSES`` and "(other classes)" at most.
    """
    if len(class_names) <= MOST_CLASSES:
        return matrix, list(class_names)
    wrong = matrix - np.diag(np.diag(matrix))
    errors = (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
    shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    group = np.full(len(matrix), len(shown))
    group[shown], group[-1] = np.arange(len(shown)), len(shown) + 1
    small = np.zeros((len(shown) + 2,) * 2, dtype=np.int64)
    np.add.at(small, (group[:, None], group[None]), matrix)
    return small, [*(class_names[label] for label in shown), "(other classes)"]


def draw_confusion(results_file: str | Path, dataset_name: str) -> np.ndarray | None:
    """Draw the confusion matrix of an evaluation.

    Args:
        results_file: COCO's results.
        dataset_name: a dataset whose classes have names.

    Returns:
        (H, W, 3) uint8 RGB picture; None if there are no results or no names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    detections, metadata = read_annotations(Path(results_file)), MetadataCatalog.get(dataset_name)
    records, class_names = load_dataset(dataset_name), metadata.get("thing_classes")
    if detections is None or class_names is None:
        return None
    images = compare(records, detections, metadata)
    matrix, names = most_confused(confusion_matrix(images, len(class_names)), class_names)
    side = 2 + 0.3 * len(names)
    figure = Figure((side, side), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    axes.imshow(
        matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), "Blues", vmin=0, vmax=1.7
    )
    places = range(len(matrix))
    axes.set(xlabel="predicted", ylabel="truth", xticks=places, yticks=places)
    axes.set_xticklabels([*names, "(missed)"], rotation=90)
    axes.set_yticklabels([*names, "(background)"])
    if len(names) <= MOST_NUMBERS:
        for row, column in np.ndindex(matrix.shape):
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
