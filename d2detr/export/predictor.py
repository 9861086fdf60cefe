"""An exported model in the place of a Predictor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from d2detr.errors import UserError
from d2detr.export.runner import ExportedModel
from d2detr.predict.detector import Detector, ImageLike
from d2detr.predict.predictor import metadata_of, read_rgb


class ExportedPredictor(Detector):
    """Runs an exported model on images, with the interface and the results of a Predictor.

    Args:
        path: of the model.
        score_threshold: detections below it are left out; default: that of the export.

    Raises:
        UserError: the file is no exported model.
    """

    def __init__(self, path: str | os.PathLike, score_threshold: float | None = None):
        try:
            self.model = ExportedModel(os.fspath(path))
        except ValueError as error:
            raise UserError(str(error)) from error
        except ImportError as error:
            raise UserError(
                f"{path} needs {error.name}, which is not installed: pip install 'd2detr[export]'."
            ) from error
        self.score_threshold = score_threshold
        self.categories = self.model.facts["categories"]
        datasets = CfgNode.load_cfg(self.model.facts["config"]).DATASETS
        self.metadata = metadata_of(self.categories, (*datasets.TRAIN, *datasets.TEST))

    def _detect(self, images: Sequence[ImageLike]) -> list[dict[str, Any]]:
        return [self._run(read_rgb(image)) for image in images]

    def _run(self, rgb: np.ndarray) -> dict[str, Any]:
        try:
            (found,) = self.model([rgb], self.score_threshold)
        except ValueError as error:
            raise UserError(str(error)) from error
        instances = Instances(rgb.shape[:2])
        instances.pred_boxes = Boxes(torch.from_numpy(found["boxes"]))
        instances.scores = torch.from_numpy(found["scores"])
        instances.pred_classes = torch.from_numpy(found["classes"])
        if "masks" in found:
            instances.pred_masks = torch.from_numpy(found["masks"])
        result: dict[str, Any] = {"instances": instances}
        if "panoptic_seg" in found:
            ids, segments = found["panoptic_seg"]
            result["panoptic_seg"] = torch.from_numpy(ids), segments
        return result
