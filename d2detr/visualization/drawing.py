from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from d2detr.visualization.labels import place_labels

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
        metadata: see :func:`draw_instances`.
        score_threshold: predictions below it are not drawn.

    Returns:
        (H', W', 3) uint8 RGB picture; small images are enlarged.
    """
    rgb = _to_rgb(image, image_format)
    truth = truth.to("cpu")
    shown = predictions[predictions.scores >= score_threshold].to("cpu")
    return _side_by_side(draw_instances(rgb, truth, metadata), draw_instances(rgb, shown, metadata))


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
    return _side_by_side(*(draw_segments(rgb, x, metadata) for x in (truth, prediction)))


def draw_segments(rgb: np.ndarray, panoptic_seg: PanopticSeg, metadata: Metadata) -> np.ndarray:
    """Draw a panoptic segmentation, all segments of a class in the same colour.

    Args:
        rgb: (H, W, 3) uint8.
        panoptic_seg: ids (H, W) and segments of Detectron2's ``panoptic_seg``.
        metadata: ``thing_classes`` and ``stuff_classes`` name the classes; their ``thing_colors``
            and ``stuff_colors`` otherwise follow from the numbers.

    Returns:
        (H', W', 3) uint8 RGB picture; small images are enlarged.
    """
    palette = colormap(rgb=True)
    described = Metadata()
    for kind in ("thing", "stuff"):
        names = metadata.get(f"{kind}_classes")
        colors = metadata.get(f"{kind}_colors") or [
            palette[i % len(palette)] for i in range(len(names))
        ]
        described.set(**{f"{kind}_classes": names, f"{kind}_colors": colors})
    ids, segments = panoptic_seg
    visualizer = _SteadyVisualizer(rgb, described, scale=_scale(rgb))
    # A copy, because the visualizer changes the segments.
    segments = [dict(segment) for segment in segments]
    return visualizer.draw_panoptic_seg(ids.cpu(), segments, alpha=0.5).get_image()


class _SteadyVisualizer(Visualizer):
    """Detectron2's, which otherwise changes the colour of every object at random."""

    def _jitter(self, color: list[float]) -> tuple[float, ...]:
        return tuple(color)


def draw_instances(
    rgb: np.ndarray, instances: Instances, metadata: Metadata | None = None
) -> np.ndarray:
    """Draw objects with their classes and scores, all of a class in the same colour.

    Detectron2's own way of drawing predictions takes a random colour for each of them.

    Args:
        rgb: (H, W, 3) uint8.
        instances: on the CPU, in pixels of ``rgb``: predictions (``pred_boxes``, ``pred_classes``,
            ``scores`` and, to draw them, ``pred_masks``) or the ground truth (``gt_boxes``,
            ``gt_classes`` and, to draw them, ``gt_masks``).
        metadata: its ``thing_classes`` name the classes, which are numbered without them, and its
            ``thing_colors`` are theirs, which otherwise follow from the numbers.

    Returns:
        (H', W', 3) uint8 RGB picture; small images are enlarged.
    """
    metadata = metadata or Metadata()
    fields = instances.get_fields()
    kind = "pred" if "pred_boxes" in fields else "gt"
    classes = fields[f"{kind}_classes"].tolist()
    names = metadata.get("thing_classes")
    labels = [names[i] if names else str(i) for i in classes]
    if "scores" in fields:
        scores = fields["scores"].tolist()
        labels = [f"{x} {score:.0%}" for x, score in zip(labels, scores, strict=True)]
    colors = np.asarray(metadata.get("thing_colors", colormap(rgb=True))) / 255
    visualizer = Visualizer(rgb, scale=_scale(rgb))
    object_colors = [colors[i % len(colors)] for i in classes]
    boxes = fields[f"{kind}_boxes"]
    visualizer.overlay_instances(
        boxes=boxes, masks=fields.get(f"{kind}_masks"), assigned_colors=object_colors
    )
    _write_labels(visualizer, boxes.tensor.numpy(), labels, object_colors)
    return visualizer.get_output().get_image()


def _write_labels(
    visualizer: Visualizer, boxes: np.ndarray, labels: list[str], colors: list[np.ndarray]
) -> None:
    """Write labels at their boxes. Detectron2 writes them wherever another object may be."""
    picture = visualizer.output
    renderer = picture.canvas.get_renderer()
    size = picture.width, picture.height
    heights = (boxes[:, 3] - boxes[:, 1]) / np.sqrt(size[0] * size[1])
    sizes = []
    for label, height, color in zip(labels, heights, colors, strict=True):
        share = np.clip((height - 0.02) / 0.08 + 1, 1.2, 2) * 0.5  # Detectron2's
        visualizer.draw_text(
            label,
            (0, 0),
            font_size=share * visualizer._default_font_size,
            color=visualizer._change_color_brightness(color, brightness_factor=0.7),
            horizontal_alignment="left",
        )
        text = picture.ax.texts[-1]
        text.update_bbox_position_size(renderer)
        extent = text.get_bbox_patch().get_window_extent(renderer)
        sizes.append((extent.width / picture.scale, extent.height / picture.scale))
    corners = place_labels(boxes, np.reshape(sizes, (-1, 2)), size)
    for text, corner in zip(picture.ax.texts, corners, strict=True):
        text.set_position(corner)


def _to_rgb(image: torch.Tensor, image_format: str) -> np.ndarray:
    return convert_image_to_rgb(image.permute(1, 2, 0).cpu(), image_format).astype(np.uint8)


def _scale(rgb: np.ndarray) -> float:
    return max(1.0, _MIN_SHORT_SIDE / min(rgb.shape[:2]))


def _side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate((left, gap, right), axis=1)
