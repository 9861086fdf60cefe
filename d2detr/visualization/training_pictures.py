from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage

from d2detr.visualization.drawing import (
    PanopticSeg,
    draw_panoptic,
    draw_truth_and_predictions,
)


def put_pictures(
    storage: EventStorage,
    x: dict[str, Any],
    result: dict[str, Any],
    *,
    image_format: str,
    dataset_name: str | None,
    true_panoptic: PanopticSeg | None,
) -> None:
    """Draw the truth beside the predictions into the storage, from which TensorBoard reads.

    Args:
        storage: where the pictures go.
        x: a model input with ``image`` and ``instances``.
        result: the model's output for it, in pixels of ``image``.
        image_format: order of the image's channels, "RGB" or "BGR".
        dataset_name: whose metadata names the classes; None numbers them.
        true_panoptic: to be drawn beside ``panoptic_seg`` of the result; None draws instances only.
    """
    metadata = MetadataCatalog.get(dataset_name) if dataset_name else None
    picture = draw_truth_and_predictions(
        x["image"], image_format, x["instances"], result["instances"], metadata
    )
    storage.put_image("truth (left), predictions (right)", picture.transpose(2, 0, 1))
    if true_panoptic is not None and metadata is not None:
        prediction = result["panoptic_seg"]
        picture = draw_panoptic(x["image"], image_format, true_panoptic, prediction, metadata)
        storage.put_image("panoptic segmentation", picture.transpose(2, 0, 1))
