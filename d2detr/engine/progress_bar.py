"""A training's bar."""

from __future__ import annotations

from contextlib import ExitStack

from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from d2detr.progress import progress

_PERIOD = 20  # iterations between what trainers log


class ProgressBar(HookBase):
    """Shows iteration, time left, total loss and the last AP on a terminal, in any trainer.

    Elsewhere it shows nothing: what Detectron2 logs are lines already.
    """

    def __init__(self):
        self._open = ExitStack()

    def before_train(self) -> None:
        total, start = self.trainer.max_iter, self.trainer.start_iter
        bar = progress(total, "Training", "iterations", done=start, logs=False)
        self._bar = self._open.enter_context(bar)

    def after_step(self) -> None:
        if not self._bar.disable and (self.trainer.iter + 1) % _PERIOD == 0:
            self._bar.set_postfix(_newest(self.trainer.storage), refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._open.close()


def _newest(storage: EventStorage) -> dict[str, float]:
    latest = {name: value for name, (value, _) in storage.latest().items()}
    shown = {"loss": "total_loss", "AP": "bbox/AP", "mask AP": "segm/AP", "PQ": "panoptic_seg/PQ"}
    return {label: latest[name] for label, name in shown.items() if name in latest}
