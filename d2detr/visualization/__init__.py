from d2detr.visualization.attention_weights import (
    Attention,
    Predictions,
    attention,
    layer_predictions,
)
from d2detr.visualization.curves import plot_runs
from d2detr.visualization.dataset_grid import draw_data
from d2detr.visualization.drawing import (
    draw_instances,
    draw_panoptic,
    draw_segments,
    draw_truth_and_predictions,
)
from d2detr.visualization.results import draw_results

__all__ = [
    "Attention",
    "Predictions",
    "attention",
    "draw_data",
    "draw_instances",
    "draw_panoptic",
    "draw_results",
    "draw_segments",
    "layer_predictions",
    "draw_truth_and_predictions",
    "plot_runs",
]
