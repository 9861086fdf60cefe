"""From a dataset dict of Detectron2 to the model's input: read, augment, make tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from fvcore.transforms.transform import Transform
from PIL import Image

from d2detr.data.augmentation import build_augmentation
from d2detr.datasets.panoptic import Segment, panoptic_annotations
from d2detr.errors import UserError


class DetrDatasetMapper:
    """Map a dataset dict to what the model takes, with the original DETR's augmentation.

    Images of a panoptic dataset ("pan_seg_file_name", "segments_info") are mapped like others,
    with one object per segment of things and stuff.

    Crowd regions are left out and boxes are clipped to the image; objects whose box has no area
    left (after a crop, for example) are removed. Boxes stay those of the annotations: a crop cuts
    them, but does not tighten them around what is left of the mask.

    Augmentation draws from NumPy's global random state, which the training loader seeds for every
    image.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: list[T.Augmentation | Transform],
        image_format: str,
        use_instance_mask: bool = False,
    ):
        """Configure the mapper.

        Args:
            is_train: whether to return the annotations. For a loss on validation images, use True
                with the augmentations of inference.
            augmentations: applied in this order.
            image_format: "RGB", "BGR" or another format of ``detection_utils.read_image``.
            use_instance_mask: whether to return masks. Without them none is decoded.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info(f"Augmentations in {mode}: {augmentations}")

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and transform one image with its annotations.

        Args:
            dataset_dict: one image in Detectron2's dataset format; it is not modified.

        Returns:
            The same dict without "annotations" and with:

            * "image": uint8 tensor (C, H, W), augmented.
            * "height", "width": the size of the image file, in pixels.
            * "instances" (in training): Instances of size (H, W) with ``gt_boxes`` (XYXY, in
              pixels of "image"), ``gt_classes`` and, with masks, ``gt_masks`` (BitMasks).

        Raises:
            UserError: the image cannot be read or has another size than its annotation says.
        """
        # A deep copy would copy every polygon only to throw it away.
        output = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = _read_image(output, self.image_format)
        image_size = image.shape[:2]

        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        output["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))

        if self.is_train:
            if "segments_info" in dataset_dict:
                annotations = panoptic_annotations(dataset_dict, image_size, self.use_instance_mask)
            else:
                annotations = [
                    annotation
                    for annotation in dataset_dict.get("annotations", ())
                    if annotation.get("iscrowd", 0) == 0
                ]
            output["instances"] = annotations_to_instances(
                annotations, transforms, image.shape[:2], self.use_instance_mask
            )
        else:
            output.pop("sem_seg_file_name", None)
        return output


def annotations_to_instances(
    annotations: list[dict[str, Any]],
    transforms: Transform,
    image_size: tuple[int, int],
    with_masks: bool,
) -> Instances:
    """Transform the annotations of one image and collect them.

    Detectron2's own functions are not used because they truncate integer boxes when resizing, need
    shapely to crop polygons, and yield no ``gt_masks`` for an image without objects.

    Args:
        annotations: N annotations in Detectron2's dataset format; they are not modified.
        transforms: what happened to the image.
        image_size: (height, width) of the transformed image, in pixels.
        with_masks: whether to make masks from "segmentation".

    Returns:
        Instances with at most N objects: ``gt_boxes`` (XYXY, in pixels), ``gt_classes`` and, with
        masks, ``gt_masks`` (BitMasks). Objects without any box area in the image are left out.
    """
    height, width = image_size
    boxes = transforms.apply_box(xyxy_boxes(annotations)).reshape(-1, 4).astype(np.float32)
    boxes = boxes.clip(0, (width, height, width, height))
    # By box alone, as the original does: training with masks must see the same objects.
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    annotations = [annotations[index] for index in kept]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[kept]))
    instances.gt_classes = torch.tensor(
        [int(annotation["category_id"]) for annotation in annotations], dtype=torch.int64
    )
    if with_masks:
        # NumPy, because torch fills large tensors with threads, which workers compete for.
        masks = np.zeros((len(annotations), *image_size), dtype=bool)
        _draw_masks(masks, [annotation["segmentation"] for annotation in annotations], transforms)
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances


def xyxy_boxes(annotations: list[dict[str, Any]]) -> np.ndarray:
    """Collect the boxes of annotations.

    Args:
        annotations: N annotations in Detectron2's dataset format, with any "bbox_mode".

    Returns:
        XYXY boxes (N, 4) in pixels, in float64: transforms compute in the type that they get.
    """
    boxes = np.zeros((len(annotations), 4))
    modes = np.array([int(annotation["bbox_mode"]) for annotation in annotations])
    for mode in np.unique(modes):
        rows = np.flatnonzero(modes == mode)
        given = np.array([annotations[row]["bbox"] for row in rows], dtype=np.float64)
        boxes[rows] = BoxMode.convert(given, BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def _read_image(dataset_dict: dict[str, Any], image_format: str) -> np.ndarray:
    """Read (H, W, C) and complete "height" and "width", which must fit the file."""
    file_name = dataset_dict["file_name"]
    try:
        image = utils.read_image(file_name, format=image_format)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"Image {file_name} cannot be read: {error}") from error
    try:
        utils.check_image_size(dataset_dict, image)
    except utils.SizeMismatchError as error:
        raise UserError(
            f"Image {file_name} is {image.shape[1]} x {image.shape[0]} pixels (its EXIF "
            f"orientation applied), but its annotation says {dataset_dict['width']} x "
            f"{dataset_dict['height']}. Correct the width and height of the annotation file."
        ) from error
    return image


def _draw_masks(
    masks: np.ndarray,
    segmentations: list[list | dict | np.ndarray | Segment],
    transforms: Transform,
) -> None:
    """Fill empty masks (N, H, W) from polygons, RLE, bitmaps or segments of the input."""
    segment_maps: dict[int, np.ndarray] = {}  # transformed, once for all segments of an image
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if isinstance(segmentation, list):
            _draw_polygons(mask, segmentation, transforms)
        elif isinstance(segmentation, Segment):
            key = id(segmentation.labels)
            if key not in segment_maps:
                segment_maps[key] = transforms.apply_segmentation(segmentation.labels)
            np.equal(segment_maps[key], segmentation.number, out=mask)
        else:
            if isinstance(segmentation, dict):
                if isinstance(segmentation["counts"], list):
                    segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
                segmentation = mask_util.decode(segmentation)
            mask[:] = transforms.apply_segmentation(np.asarray(segmentation, dtype=np.uint8))


def _draw_polygons(mask: np.ndarray, polygons: list, transforms: Transform) -> None:
    # Points may fall outside: rasterising cuts them off, so that a crop needs no clipping.
    polygons = [
        transforms.apply_coords(np.array(polygon, dtype=np.float64).reshape(-1, 2)).reshape(-1)
        for polygon in polygons
    ]
    if polygons:  # which frPyObjects needs
        rle = mask_util.merge(mask_util.frPyObjects(polygons, *mask.shape))
        x, y, width, height = mask_util.toBbox(rle).astype(int)
        box = slice(y, y + height), slice(x, x + width)
        mask[box] = mask_util.decode(rle)[box]  # the rest is empty, and transposing it takes long


MAPPERS = {"detr": DetrDatasetMapper, "default": DatasetMapper}


def build_dataset_mapper(
    cfg: CfgNode, is_train: bool, *, is_augmented: bool | None = None
) -> Callable[[dict], dict]:
    """Build the mapper named by ``INPUT.DATASET_MAPPER_NAME``.

    Args:
        cfg: a config with DETR's keys.
        is_train: whether the mapper gives the annotations that training needs.
        is_augmented: whether images are augmented as in training; None decides it by ``is_train``.

    Returns:
        A callable from a dataset dict to the model's input.

    Raises:
        UserError: the name is unknown.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPERS:
        raise UserError(
            f"INPUT.DATASET_MAPPER_NAME is {name!r}; it must be one of {sorted(MAPPERS)}."
        )
    if is_augmented is None or is_augmented == is_train:
        return MAPPERS[name](cfg, is_train)
    other = MAPPERS[name].from_config(cfg, is_augmented)
    return MAPPERS[name](cfg, is_train, augmentations=other["augmentations"])
