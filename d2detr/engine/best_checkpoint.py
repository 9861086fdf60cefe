"""Keeping the best model of a training beside the last one."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm
from torch import nn

from d2detr.checkpoint.saving import RunCheckpointer, is_whole
from d2detr.files import write_json

BEST_MODEL = "model_best.pth"

logger = logging.getLogger(__name__)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, made safe for resuming.

    Detectron2's marks the best checkpoint as the last one, so that a resumed run would fall back
    to it; it forgets what the best was; and what was killed while it was evaluated is never
    evaluated again. Every process has this hook.

    Args:
        evaluation: the hook before this one, which evaluates.
        eval_period: iterations between evaluations.
        model: what to save.
        output_dir: gets ``model_best.pth`` and ``best.json``.
        metric: as logged, such as "bbox/AP"; the highest is the best.
    """

    def __init__(
        self,
        evaluation: hooks.EvalHook,
        eval_period: int,
        model: nn.Module,
        output_dir: str,
        metric: str,
    ):
        super().__init__(eval_period, _UnmarkedCheckpointer(model, output_dir), metric)
        self._evaluation = evaluation
        self._record = Path(output_dir, "best.json")
        self._model = Path(output_dir, BEST_MODEL)
        self._evaluated: int | None = None

    def before_train(self) -> None:
        start, period = self.trainer.start_iter, self._period
        if start == 0:
            return
        self._read_record()
        due = period > 0 and start % period == 0 and start < self.trainer.max_iter
        if comm.all_gather(due and self._evaluated != start - 1)[0]:
            self.trainer.storage.iter = start - 1
            self._evaluation._do_eval()
            self._best_checking()

    def _read_record(self) -> None:
        try:
            record = json.loads(self._record.read_text())
            metric, iteration = float(record["metric"]), int(record["iteration"])
        except (OSError, ValueError, KeyError, TypeError):
            if self._record.is_file():
                logger.warning(f"{self._record} cannot be read: which model is best starts anew.")
            return
        if is_whole(self._model):
            self.best_metric, self.best_iter = metric, iteration
            self._evaluated = record.get("evaluated")
        else:
            logger.warning(f"{self._model} cannot be read: which model is best starts anew.")

    def _best_checking(self) -> None:
        if not comm.is_main_process():  # which alone has the metrics
            return
        super()._best_checking()
        if self.best_metric is not None:
            record: dict[str, Any] = {
                "name": self._val_metric,
                "metric": self.best_metric,
                "iteration": self.best_iter,
                "evaluated": self.trainer.storage.iter,
            }
            write_json(self._record, record)


class _UnmarkedCheckpointer(RunCheckpointer):
    """A checkpointer whose files are not the ones to resume from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass
