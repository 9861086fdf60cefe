"""Pictures of a training, beside its curves."""

from __future__ import annotations

from typing import Any

from detectron2.engine import HookBase

from d2detr.modeling import DETR


class PredictionPictures(HookBase):
    """Draws the truth of a training image beside what the model finds in it.

    The pictures go to the EventStorage, from which TensorBoard's writer takes them. It works in
    any trainer of Detectron2.

    Args:
        model: the model that is trained, not its distributed wrapper.
        period: iterations from picture to picture.
        image_format: order of the images' channels, "RGB" or "BGR".
        dataset_name: whose metadata names the classes; None numbers them.
    """

    def __init__(
        self, model: DETR, period: int, *, image_format: str = "RGB", dataset_name: str | None
    ):
        self._model = model
        self._period = period
        self._image_format = image_format
        self._dataset_name = dataset_name
        self._record: dict[str, Any] | None = None

    def before_train(self) -> None:
        self._handle = self._model.register_forward_pre_hook(self._remember)

    def after_train(self) -> None:
        self._handle.remove()

    def after_step(self) -> None:
        if self.trainer.iter % self._period == 0 and self._record is not None:
            self._draw(self._record)

    def _remember(self, model: DETR, arguments: tuple[list[dict[str, Any]]]) -> None:
        if model.training:
            self._record = arguments[0][0]

    def _draw(self, record: dict[str, Any]) -> None:
        from d2detr.visualization.training_pictures import put_pictures  # matplotlib is slow

        self._model.eval()
        result = self._model([{"image": record["image"]}])[0]
        self._model.train()
        truth = record["instances"]
        is_panoptic = "panoptic_seg" in result
        put_pictures(
            self.trainer.storage,
            record,
            result,
            image_format=self._image_format,
            dataset_name=self._dataset_name,
            true_panoptic=self._model.segmenter.to_panoptic(truth) if is_panoptic else None,
        )
