"""Keeping the best model of a training beside the last one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm
from torch import nn

from d2detr.checkpoint.saving import BEST_MODEL, RunCheckpointer, is_whole
from d2detr.files import read_json, write_json

logger = logging.getLogger(__name__)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, made safe for resuming.

    Detectron2's marks the best checkpoint as the last one, so that a resumed run would fall back
    to it; it forgets what the best was; and what was killed while it was evaluated is never
    evaluated again. Every process has this hook, which works in any trainer of Detectron2.

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
        self.metric = metric
        self._evaluation = evaluation
        self._record = Path(output_dir, "best.json")
        self._model = Path(output_dir, BEST_MODEL)
        self._evaluated: int | None = None

    def is_due(self, iterations: int) -> bool:
        """Whether there is an evaluation after so many iterations, and not only at the end."""
        is_last = iterations >= self.trainer.max_iter
        return self._period > 0 and iterations % self._period == 0 and not is_last

    def evaluations_without_gain(self) -> int:
        """How many evaluations there have been since the best one; the same in all processes."""
        evaluated, best = comm.all_gather((self._evaluated, self.best_iter))[0]
        return (
            (evaluated - best) // self._period if evaluated is not None and best is not None else 0
        )

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if start == 0:
            return
        self._read_record()
        if comm.all_gather(self.is_due(start) and self._evaluated != start - 1)[0]:
            self.trainer.storage.iter = start - 1
            self._evaluation._do_eval()
            self._best_checking()

    def _read_record(self) -> None:
        try:
            record = read_json(self._record)
            metric, iteration = float(record["metric"]), int(record["iteration"])
        except (ValueError, KeyError, TypeError):
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
        self._evaluated = self.trainer.storage.iter
        if self.best_metric is not None:
            record: dict[str, Any] = {
                "name": self._val_metric,
                "metric": self.best_metric,
                "iteration": self.best_iter,
                "evaluated": self._evaluated,
            }
            write_json(self._record, record)


class _UnmarkedCheckpointer(RunCheckpointer):
    """A checkpointer whose files are not the ones to resume from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass
