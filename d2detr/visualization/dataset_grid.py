"""Pictures of a dataset: what its annotations say, or what the mapper makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image

from d2detr.data.dataset_mapper import DetrDatasetMapper, build_dataset_mapper
from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError
from d2detr.files import make_folder, replacing
from d2detr.visualization.drawing import draw_instances
from d2detr.visualization.results import check_picture_format, make_grid


def draw_data(
    dataset_name: str,
    output: str | Path,
    *,
    cfg: CfgNode | None = None,
    num_images: int = 12,
    columns: int = 4,
    seed: int = 0,
) -> None:
    """Draw images of a dataset with their boxes, masks and classes, as a grid.

    Args:
        dataset_name: a registered dataset, or ``auto:PATH:SPLIT``.
        output: the picture to write; its suffix decides the format.
        cfg: draw what its training mapper yields; None draws the annotations as they are.
        num_images: images in the grid, drawn at random.
        columns: images side by side.
        seed: decides which images, and how the mapper augments them.

    Raises:
        UserError: the dataset or an image cannot be read, or the suffix names no format.
    """
    check_picture_format(output)
    records = load_dataset(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    image_format = "RGB"
    mapper: Callable[[dict[str, Any]], dict[str, Any]] = _annotation_mapper(records)
    if cfg is not None:
        mapper, image_format = build_dataset_mapper(cfg, is_train=True), cfg.INPUT.FORMAT
    state = np.random.get_state()
    np.random.seed(seed)  # the augmentation draws from this state
    chosen = sorted(np.random.permutation(len(records))[:num_images].tolist())
    data = [mapper(records[index]) for index in chosen]
    np.random.set_state(state)
    pictures = [_draw(item, image_format, metadata) for item in data]
    make_folder(Path(output).parent)
    with replacing(output) as partial:
        Image.fromarray(make_grid(pictures, columns)).save(partial)


def _annotation_mapper(records: list[dict[str, Any]]) -> DetrDatasetMapper:
    annotations = [x for record in records for x in record.get("annotations", ())]
    has_segments = any("segments_info" in record for record in records)
    if not (has_segments or any("annotations" in record for record in records)):
        raise UserError("The dataset has no annotations of boxes to draw.")
    has_masks = has_segments or all(
        "segmentation" in x for x in annotations if not x.get("iscrowd", 0)
    )
    return DetrDatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=has_masks
    )


def _draw(item: dict[str, Any], image_format: str, metadata: Metadata) -> np.ndarray:
    array = item["image"].permute(1, 2, 0).numpy()
    rgb = convert_image_to_rgb(array, image_format).astype(np.uint8)
    return draw_instances(rgb, item["instances"], metadata)
