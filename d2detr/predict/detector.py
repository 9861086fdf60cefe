"""What detects objects in images, in whatever form they come."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from detectron2.data import Metadata
from PIL import Image

ImageLike = str | os.PathLike | Image.Image | np.ndarray


class Detector(ABC):
    """Takes an image or a list of them, and works off a batch at a time.

    Attributes:
        categories: dicts with "id" and "name" of the model's classes, and "isthing" of a panoptic
            model's; None if they are not known.
        metadata: ``thing_classes`` and ``stuff_classes``, both of them all classes, and their
            colours if the dataset has them, for Detectron2's Visualizer.
        batch_size: the most images that are read together.
    """

    categories: list[dict[str, Any]] | None
    metadata: Metadata
    batch_size = 1

    @overload
    def __call__(self, images: ImageLike) -> dict[str, Any]: ...

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[dict[str, Any]]: ...

    def __call__(
        self, images: ImageLike | Sequence[ImageLike]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Detect objects.

        Args:
            images: a path, a PIL image or an array (H, W, 3) of uint8 in RGB; or a list of these,
                of which ``batch_size`` at a time are read, and those of one size are passed through
                the model together.

        Returns:
            For each image ``{"instances": Instances}`` on the CPU, with ``pred_boxes`` (XYXY, in
            pixels of the image), ``scores``, ``pred_classes`` and, of a model with masks,
            ``pred_masks``; the best first. ``supervision.Detections.from_detectron2`` takes it. A
            panoptic model adds ``panoptic_seg`` in Detectron2's format. A list for a list.

        Raises:
            UserError: an image cannot be read.
        """
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray)):
            return self._detect([images])[0]
        starts = range(0, len(images), self.batch_size)
        batches = (images[start : start + self.batch_size] for start in starts)
        return [output for batch in batches for output in self._detect(batch)]

    @abstractmethod
    def _detect(self, images: Sequence[ImageLike]) -> list[dict[str, Any]]:
        """Detect objects in a batch."""
