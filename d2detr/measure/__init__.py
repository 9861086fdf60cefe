"""What a model costs: counted, and measured beside other implementations in the same run."""

from d2detr.measure.cost_report import COST_TASKS, Analysis, analyze, parse_size, synthetic_inputs
from d2detr.measure.flops import count_multiply_adds, count_parameters
from d2detr.measure.memory import bytes_kept_for_backward, inference_peak_bytes
from d2detr.measure.tasks import TASKS, format_report, run_benchmark
from d2detr.measure.workload import AMP, Workload

__all__ = [
    "AMP",
    "COST_TASKS",
    "TASKS",
    "Analysis",
    "Workload",
    "analyze",
    "bytes_kept_for_backward",
    "count_multiply_adds",
    "count_parameters",
    "format_report",
    "inference_peak_bytes",
    "parse_size",
    "run_benchmark",
    "synthetic_inputs",
]
