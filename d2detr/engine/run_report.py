"""The report at the end of a training or an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2detr.errors import UserError

logger = logging.getLogger(__name__)


class ReportWriter(HookBase):
    """Writes ``report.html`` at the end of a training, in any trainer of Detectron2.

    It belongs last, behind what evaluates and what writes metrics.

    Args:
        output_dir: of the run.
        dataset_names: what it evaluates, in this order; "config.yaml" of the run says it if there
            are none.
    """

    def __init__(self, output_dir: str, dataset_names: Sequence[str] = ()):
        self._output_dir = output_dir
        self._dataset_names = dataset_names

    def after_train(self) -> None:
        report_run(self._output_dir, self._dataset_names)


def report_run(output_dir: str, dataset_names: Sequence[str] = ()) -> None:
    """Write ``report.html`` of a run, in the main process, or log why that is not possible.

    A run is worth more than its report, so whatever fails does not end it.
    """
    if not comm.is_main_process():
        return
    try:
        from d2detr.report import write_report  # Matplotlib takes long to import

        # Of several datasets, the detections of the last one are kept.
        dataset_name = dataset_names[-1] if dataset_names else None
        path = write_report([output_dir], dataset_name=dataset_name)
        logger.info(f"What there is to see of the run: {path}")
    except UserError as error:
        logger.warning(f"No report: {error}")
    except Exception:
        logger.exception("No report, because of a fault in writing it; the run itself is whole.")
