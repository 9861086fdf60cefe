from d2detr.visualization.attention_page import write_attention_page
from d2detr.visualization.attention_pictures import (
    draw_decoder_attention,
    draw_encoder_attention,
)
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
from d2detr.visualization.explanation import Explanation, explain
from d2detr.visualization.query_pictures import QueryTally, draw_queries, tally_queries
from d2detr.visualization.results import draw_results

__all__ = [
    "Attention",
    "Explanation",
    "Predictions",
    "QueryTally",
    "attention",
    "draw_data",
    "draw_decoder_attention",
    "draw_encoder_attention",
    "draw_instances",
    "draw_panoptic",
    "draw_queries",
    "draw_results",
    "draw_segments",
    "draw_truth_and_predictions",
    "explain",
    "layer_predictions",
    "plot_runs",
    "tally_queries",
    "write_attention_page",
]
