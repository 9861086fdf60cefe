"""Measuring speed and memory, beside other implementations in the same run."""

from d2detr.benchmark.tasks import TASKS, format_report, run_benchmark
from d2detr.benchmark.workload import AMP, Workload

__all__ = ["AMP", "TASKS", "Workload", "format_report", "run_benchmark"]
