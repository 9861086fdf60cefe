"""Pictures of a dataset: what its annotations say, or what the mapper makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from d2detr.data.build import build_dataset_mapper
from d2detr.data.dataset_mapper import DetrDatasetMapper
from d2detr.data.loading import load_dataset
from d2detr.errors import UserError
from d2detr.visualization.results import make_grid

_MIN_SHORT_SIDE = 256  # labels are unreadable on smaller pictures


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
        UserError: the dataset or an image cannot be read.
    """
    records = load_dataset(dataset_name)
    names = MetadataCatalog.get(dataset_name).get("thing_classes")
    mapper, image_format = _annotation_mapper(records), "RGB"
    if cfg is not None:
        mapper, image_format = build_dataset_mapper(cfg, is_train=True), cfg.INPUT.FORMAT
    state = np.random.get_state()
    np.random.seed(seed)  # the augmentation draws from this state
    chosen = sorted(np.random.permutation(len(records))[:num_images].tolist())
    data = [mapper(records[index]) for index in chosen]
    np.random.set_state(state)
    pictures = [_draw(item, image_format, names) for item in data]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_grid(pictures, columns)).save(output)


def _annotation_mapper(records: list[dict[str, Any]]) -> DetrDatasetMapper:
    annotations = [x for record in records for x in record.get("annotations", ())]
    if not any("annotations" in record for record in records):
        raise UserError("The dataset has no annotations of boxes to draw.")
    has_masks = all("segmentation" in x for x in annotations if not x.get("iscrowd", 0))
    return DetrDatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=has_masks
    )


def _draw(item: dict[str, Any], image_format: str, names: list[str] | None) -> np.ndarray:
    array = item["image"].permute(1, 2, 0).numpy()
    rgb = convert_image_to_rgb(array, image_format).astype(np.uint8)
    instances: Instances = item["instances"]
    labels = instances.gt_classes.tolist()
    colors = colormap(rgb=True, maximum=1)
    visualizer = Visualizer(rgb, scale=max(1.0, _MIN_SHORT_SIDE / min(rgb.shape[:2])))
    visualizer.overlay_instances(
        boxes=Boxes(instances.gt_boxes.tensor.to(torch.float32)),
        masks=_masks(instances),
        labels=[names[label] if names else str(label) for label in labels],
        assigned_colors=[colors[label % len(colors)] for label in labels],
    )
    return visualizer.get_output().get_image()


def _masks(instances: Instances) -> np.ndarray | None:
    if not instances.has("gt_masks"):
        return None
    masks = instances.gt_masks
    return masks.tensor.numpy() if isinstance(masks, BitMasks) else masks
