import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

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
        truth: ``gt_boxes`` and ``gt_classes``.
        predictions: ``pred_boxes``, ``pred_classes`` and ``scores``, in pixels of ``image``.
        metadata: whose ``thing_classes`` name the classes; without it they are numbered.
        score_threshold: predictions below it are not drawn.

    Returns:
        (H', W', 3) uint8 RGB picture; small images are enlarged.
    """
    rgb = convert_image_to_rgb(image.permute(1, 2, 0).cpu(), image_format).astype(np.uint8)
    shown = predictions[predictions.scores >= score_threshold].to("cpu")
    names = metadata.get("thing_classes") if metadata is not None else None
    left = _draw_boxes(rgb, truth.gt_boxes.tensor.cpu(), truth.gt_classes, None, names)
    right = _draw_boxes(rgb, shown.pred_boxes.tensor, shown.pred_classes, shown.scores, names)
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate((left, gap, right), axis=1)


def _draw_boxes(
    rgb: np.ndarray,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor | None,
    names: list[str] | None,
) -> np.ndarray:
    labels = [names[i] if names else str(i) for i in classes.tolist()]
    if scores is not None:
        labels = [f"{x} {s:.0%}" for x, s in zip(labels, scores.tolist(), strict=True)]
    colors = colormap(rgb=True, maximum=1)
    scale = max(1.0, _MIN_SHORT_SIDE / min(rgb.shape[:2]))
    visualizer = Visualizer(rgb, scale=scale)
    visualizer.overlay_instances(
        boxes=boxes,
        labels=labels,
        assigned_colors=[colors[i % len(colors)] for i in classes.tolist()],
    )
    return visualizer.get_output().get_image()
