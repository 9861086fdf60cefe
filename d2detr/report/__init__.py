"""What there is to see of a run, as one page."""

from d2detr.report.report import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "write_report"]
