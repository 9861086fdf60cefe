"""Keeping the best model of a training beside the last one."""

from __future__ import annotations

import json
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from torch import nn

BEST_MODEL = "model_best.pth"


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, made safe for resuming.

    Detectron2's marks the best checkpoint as the last one, so that a resumed run would fall back
    to it; and it forgets what the best was.

    Args:
        eval_period: iterations between evaluations.
        model: what to save.
        output_dir: gets ``model_best.pth`` and ``best.json``.
        metric: as logged, such as "bbox/AP"; the highest is the best.
    """

    def __init__(self, eval_period: int, model: nn.Module, output_dir: str, metric: str):
        super().__init__(eval_period, _UnmarkedCheckpointer(model, output_dir), metric)
        self._record = Path(output_dir) / "best.json"

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self._record.is_file():
            record = json.loads(self._record.read_text())
            self.best_metric, self.best_iter = record["metric"], record["iteration"]

    def _update_best(self, val: float, iteration: int) -> bool:
        updated = super()._update_best(val, iteration)
        if updated:
            record = {"name": self._val_metric, "metric": val, "iteration": iteration}
            self._record.write_text(json.dumps(record))
        return updated


class _UnmarkedCheckpointer(DetectionCheckpointer):
    """A checkpointer whose files are not the ones to resume from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass
