from d2detr.analysis.counting import count_multiply_adds, count_parameters
from d2detr.analysis.memory import bytes_kept_for_backward, inference_peak_bytes
from d2detr.analysis.report import TASKS, Analysis, analyze, parse_size, synthetic_inputs

__all__ = [
    "TASKS",
    "Analysis",
    "analyze",
    "bytes_kept_for_backward",
    "count_multiply_adds",
    "count_parameters",
    "inference_peak_bytes",
    "parse_size",
    "synthetic_inputs",
]
