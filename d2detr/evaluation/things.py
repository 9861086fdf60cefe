from typing import Any

from detectron2.utils import comm

from d2detr.evaluation.coco import FastCOCOEvaluator


class ThingsEvaluator(FastCOCOEvaluator):
    """Box and mask AP of the things of a panoptic dataset.

    Its metadata names stuff too, which the instance annotations do not have and COCOEvaluator
    cannot cope with. Only images that were predicted count, since there may be panoptic annotations
    of fewer images.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        num_things = len(self._metadata.thing_dataset_id_to_contiguous_id)
        things = [x["instances"][x["instances"].pred_classes < num_things] for x in outputs]
        super().process(inputs, [{"instances": x} for x in things])

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """Evaluate; see the base class."""
        if img_ids is None:
            predicted = comm.gather([x["image_id"] for x in self._predictions])
            img_ids = sorted({image_id for part in predicted for image_id in part})
        return super().evaluate(img_ids)

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        num_things = len(self._metadata.thing_dataset_id_to_contiguous_id)
        return super()._derive_coco_results(coco_eval, iou_type, class_names[:num_things])
