"""The confusion matrix of every evaluation, beside the curves of a training."""

from __future__ import annotations

from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm


class ConfusionPicture(HookBase):
    """Draws which class is taken for which, in any trainer of Detectron2.

    The picture goes to the EventStorage, from which TensorBoard's writer takes it. The hook belongs
    behind the one that evaluates and before the one that writes.

    Args:
        period: iterations between evaluations; the last iteration is followed by one, too.
        output_dir: whose ``inference`` folder gets the evaluation's results.
        dataset_name: that is evaluated.
    """

    def __init__(self, period: int, output_dir: str, dataset_name: str):
        self._period = period
        self._results = Path(output_dir, "inference", "coco_instances_results.json")
        self._dataset_name = dataset_name

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._draw()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._draw()

    def _draw(self) -> None:
        from d2detr.report.confusion import draw_confusion  # Matplotlib takes long to import

        if not comm.is_main_process():
            return
        picture = draw_confusion(self._results, self._dataset_name)
        if picture is not None:
            name = f"{self._dataset_name}: confusion of classes"
            self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
