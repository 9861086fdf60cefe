"""An image, and where a model looked in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from torch import Tensor, nn

from d2detr.visualization.attention_weights import Attention, attention


@dataclass(frozen=True)
class Explanation:
    """An image, and where a model looked in it.

    Attributes:
        rgb: (H, W, 3) uint8, as the model takes it.
        attention: what it did.
        class_names: of its classes.
        score_threshold: of the detections to show.
    """

    rgb: np.ndarray
    attention: Attention
    class_names: Sequence[str]
    score_threshold: float

    @property
    def queries(self) -> list[int]:
        """Queries that found something, the best first."""
        return self.attention.detections(self.score_threshold)

    def label(self, query: int) -> str:
        """Class and score of what a query found."""
        score = self.attention.scores[-1, query]
        return f"{self.class_names[self.attention.classes[-1, query]]} {score:.0%}"

    @property
    def nothing_found(self) -> str:
        """The sentence to show where no query found anything."""
        return f"No query finds an object with a score of at least {self.score_threshold:g}."


def explain(
    model: nn.Module,
    image: Tensor,
    image_format: str,
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.5,
) -> Explanation:
    """Run a model on an image, and keep all that pictures of its attention need.

    Args:
        model: see :func:`attention`, which also tells what is raised.
        image: see :func:`attention`.
        image_format: order of its channels, "RGB" or "BGR".
        class_names: of the model's classes; those without one are numbered.
        score_threshold: of the detections to show.
    """
    found = attention(model, image)
    names = list(class_names or ())
    names += map(str, range(len(names), found.num_classes))
    rgb = convert_image_to_rgb(image.permute(1, 2, 0).cpu(), image_format).astype(np.uint8)
    return Explanation(rgb, found, names, score_threshold)
