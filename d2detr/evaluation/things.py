from typing import Any

import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils import comm

from d2detr.evaluation.coco_evaluation import FastCOCOEvaluator


class ThingsEvaluator(FastCOCOEvaluator):
    """Box and mask AP of the things of a panoptic dataset.

    Its metadata names stuff too, which the instance annotations do not have and COCOEvaluator
    cannot cope with: things are numbered anew. Only images that were predicted count, since there
    may be panoptic annotations of fewer images.
    """

    _metadata: Metadata

    def __init__(self, dataset_name: str, output_dir: str):
        super().__init__(dataset_name, output_dir=output_dir)
        metadata = self._metadata.as_dict()
        ids, names = metadata["thing_dataset_id_to_contiguous_id"], metadata["thing_classes"]
        self._numbers = {label: number for number, label in enumerate(sorted(ids.values()))}
        metadata["thing_classes"] = [names[label] for label in self._numbers]
        metadata["thing_dataset_id_to_contiguous_id"] = {
            category_id: self._numbers[label] for category_id, label in ids.items()
        }
        self._metadata = Metadata(**metadata)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        super().process(inputs, [{"instances": self._things(x["instances"])} for x in outputs])

    def _things(self, instances: Instances) -> Instances:
        labels = instances.pred_classes.tolist()
        numbers = torch.tensor([self._numbers.get(x, -1) for x in labels], dtype=torch.int64)
        things = instances[numbers >= 0]
        things.pred_classes = numbers[numbers >= 0]
        return things

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any] | None:
        """Evaluate; see the base class."""
        if img_ids is None:
            predicted = comm.gather([x["image_id"] for x in self._predictions])
            img_ids = sorted({image_id for part in predicted for image_id in part})
        return super().evaluate(img_ids)
