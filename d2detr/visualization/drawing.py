from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

PanopticSeg = tuple[torch.Tensor, list[dict[str, Any]]]

_MIN_SHORT_SIDE = 256  # labels are unreadable on smaller pictures
_GAP = 8


def draw_truth_and_predictions(
    image: torch.Tensor,
    image_format: str,
    truth: Instances,
    predictions: Instances,
    metadata: Metadata | None = None,
    score_threshold: float = 0.5,
) -> np.ndarray:
    """Draw the ground truth (left) beside the predictions (right) of an image.

    Args:
        image: (C, H, W) in [0, 255].
        image_format: order of its channels, "RGB" or "BGR".
        truth: ``gt_boxes``, ``gt_classes`` and, to draw them, ``gt_masks``.
        predictions: ``pred_boxes``, ``pred_classes``, ``scores`` and, to draw them,
            ``pred_masks``, in pixels of ``image``.
        metadata: whose ``thing_classes`` name the classes; without it they are numbered.
        score_threshold: predictions below it are not drawn.

    Returns:
        (H', W', 3) uint8 RGB picture; small images are enlarged.
    """
    rgb = _to_rgb(image, image_format)
    truth = truth.to("cpu")
    shown = predictions[predictions.scores >= score_threshold].to("cpu")
    names = metadata.get("thing_classes") if metadata is not None else None
    true_masks = truth.gt_masks if truth.has("gt_masks") else None
    masks = shown.pred_masks.numpy() if shown.has("pred_masks") else None
    left = _draw(rgb, truth.gt_boxes.tensor, true_masks, truth.gt_classes, None, names)
    right = _draw(rgb, shown.pred_boxes.tensor, masks, shown.pred_classes, shown.scores, names)
    return _side_by_side(left, right)


def draw_panoptic(
    image: torch.Tensor,
    image_format: str,
    truth: PanopticSeg,
    prediction: PanopticSeg,
    metadata: Metadata,
) -> np.ndarray:
    """Draw the true panoptic segmentation (left) beside the predicted one (right).

    Args:
        image: (C, H, W) in [0, 255].
        image_format: order of its channels, "RGB" or "BGR".
        truth: ids (H, W) and segments of Detectron2's ``panoptic_seg``.
        prediction: the same.
        metadata: ``thing_classes`` and ``stuff_classes`` name the classes.

    Returns:
        (H', W', 3) uint8 RGB picture; small images are enlarged.
    """
    rgb = _to_rgb(image, image_format)
    pictures = []
    for ids, segments in (truth, prediction):
        visualizer = Visualizer(rgb, metadata, scale=_scale(rgb))
        # A copy, because the visualizer changes the segments.
        segments = [dict(segment) for segment in segments]
        drawn = visualizer.draw_panoptic_seg(ids.cpu(), segments, alpha=0.5)
        pictures.append(drawn.get_image())
    return _side_by_side(*pictures)


def _draw(
    rgb: np.ndarray,
    boxes: torch.Tensor,
    masks: np.ndarray | BitMasks | PolygonMasks | None,
    classes: torch.Tensor,
    scores: torch.Tensor | None,
    names: list[str] | None,
) -> np.ndarray:
    labels = [names[i] if names else str(i) for i in classes.tolist()]
    if scores is not None:
        labels = [f"{x} {s:.0%}" for x, s in zip(labels, scores.tolist(), strict=True)]
    colors = colormap(rgb=True, maximum=1)
    visualizer = Visualizer(rgb, scale=_scale(rgb))
    visualizer.overlay_instances(
        boxes=boxes,
        masks=masks,
        labels=labels,
        assigned_colors=[colors[i % len(colors)] for i in classes.tolist()],
    )
    return visualizer.get_output().get_image()


def _to_rgb(image: torch.Tensor, image_format: str) -> np.ndarray:
    return convert_image_to_rgb(image.permute(1, 2, 0).cpu(), image_format).astype(np.uint8)


def _scale(rgb: np.ndarray) -> float:
    return max(1.0, _MIN_SHORT_SIDE / min(rgb.shape[:2]))


def _side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate((left, gap, right), axis=1)
