"""The embedded dataset on disk: ordinary COCO files, written when they are first asked for."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from iopath.common.file_io import file_lock
from PIL import Image

from d2detr.datasets.shapes import (
    EASY,
    HARD,
    STUFF_CLASSES,
    THING_CLASSES,
    Difficulty,
    ShapesImage,
    draw_shapes_image,
)
from d2detr.errors import UserError

# To be raised with every change of what is drawn or written: existing files are then replaced.
VERSION = 1
# Category ids in the files: 1 to 5 for the shapes, then the backgrounds.
CATEGORY_NAMES = [*THING_CLASSES, *STUFF_CLASSES]
CATEGORY_COLORS = [
    [220, 60, 60],
    [60, 90, 220],
    [240, 160, 40],
    [240, 230, 60],
    [160, 60, 200],
    [150, 200, 240],
    [90, 160, 80],
]
DESCRIPTION_FILE = "description.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShapesSplit:
    """What a directory of shapes holds; equal splits have equal files.

    Attributes:
        num_images: number of images.
        size: side of the images, in pixels.
        seed: images of splits with different seeds differ. Image i does not depend on num_images.
        version: VERSION of the program that wrote the files.
        difficulty: number and sizes of the shapes.
    """

    num_images: int
    size: int = 128
    seed: int = 0
    version: int = VERSION
    difficulty: Difficulty = EASY


def register_shapes(root: str | os.PathLike | None = None) -> None:
    """Register ``shapes_train`` (2000 images), ``shapes_val`` (200) and their panoptic variants.

    ``shapes_hard_train`` and ``shapes_hard_val`` hold as many images of up to 8 shapes, some of 8
    pixels.

    Nothing is written before a dataset is loaded for the first time. Names that are registered
    already are left alone.

    Args:
        root: the directory in which ``shapes/`` is made; None for the one of Detectron2's
            datasets, which is the environment variable DETECTRON2_DATASETS or "datasets".
    """
    parent = root if root else os.getenv("DETECTRON2_DATASETS", "datasets")
    for prefix, folder, difficulty in (("shapes", "", EASY), ("shapes_hard", "hard_", HARD)):
        for split, num_images, seed in (("train", 2000, 0), ("val", 200, 1)):
            register_shapes_split(
                f"{prefix}_{split}",
                Path(parent, "shapes", f"{folder}{split}"),
                ShapesSplit(num_images, seed=seed, difficulty=difficulty),
            )


def register_shapes_split(name: str, directory: str | os.PathLike, split: ShapesSplit) -> None:
    """Register ``name`` for instances and ``name + "_panoptic"``, as Detectron2 registers COCO.

    Args:
        name: the name for DatasetCatalog and MetadataCatalog.
        directory: where the files are or will be.
        split: which images.
    """
    directory = Path(directory)
    image_root, instances_json = str(directory / "images"), str(directory / "instances.json")
    panoptic_root, panoptic_json = str(directory / "panoptic"), str(directory / "panoptic.json")
    num_things = len(THING_CLASSES)
    contiguous_ids = {index + 1: index for index in range(len(CATEGORY_NAMES))}
    thing_ids = {key: index for key, index in contiguous_ids.items() if index < num_things}
    stuff_ids = {key: index for key, index in contiguous_ids.items() if index >= num_things}

    def load_instances() -> list[dict[str, Any]]:
        ensure_shapes_files(directory, split)
        return load_coco_json(instances_json, image_root, name)

    def load_panoptic() -> list[dict[str, Any]]:
        ensure_shapes_files(directory, split)
        metadata = MetadataCatalog.get(f"{name}_panoptic").as_dict()
        return load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata)

    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load_instances)
        MetadataCatalog.get(name).set(
            json_file=instances_json,
            image_root=image_root,
            evaluator_type="coco",
            thing_classes=list(THING_CLASSES),
            thing_colors=CATEGORY_COLORS[:num_things],
            thing_dataset_id_to_contiguous_id=thing_ids,
        )
    if f"{name}_panoptic" not in DatasetCatalog:
        DatasetCatalog.register(f"{name}_panoptic", load_panoptic)
        # As for COCO, things and stuff share one range of classes and so have the same names.
        MetadataCatalog.get(f"{name}_panoptic").set(
            json_file=instances_json,
            panoptic_json=panoptic_json,
            image_root=image_root,
            panoptic_root=panoptic_root,
            evaluator_type="coco_panoptic_seg",
            thing_classes=CATEGORY_NAMES,
            stuff_classes=CATEGORY_NAMES,
            thing_colors=CATEGORY_COLORS,
            stuff_colors=CATEGORY_COLORS,
            thing_dataset_id_to_contiguous_id=thing_ids,
            stuff_dataset_id_to_contiguous_id=stuff_ids,
            ignore_label=255,
            label_divisor=1000,
        )


def ensure_shapes_files(directory: str | os.PathLike, split: ShapesSplit) -> None:
    """Write the files of a split unless they are there, complete and of this version.

    The directory appears at once when everything is written. Processes that start together wait
    for the first one.

    Args:
        directory: holds ``images/``, ``instances.json``, ``panoptic/`` and ``panoptic.json``.
        split: which images.

    Raises:
        UserError: the directory cannot be written, or holds files of somebody else.
    """
    directory = Path(directory)
    if _is_complete(directory, split):
        return
    try:
        with file_lock(str(directory)):
            if not _is_complete(directory, split):
                _replace_directory(directory, split)
    except OSError as error:
        raise UserError(
            f"The shapes dataset cannot be written to {directory}: {error}. Set the environment "
            "variable DETECTRON2_DATASETS to a directory that you can write to."
        ) from error


def _is_complete(directory: Path, split: ShapesSplit) -> bool:
    try:
        description = json.loads((directory / DESCRIPTION_FILE).read_text())
        counts = [len(os.listdir(directory / folder)) for folder in ("images", "panoptic")]
    except (OSError, ValueError):
        return False
    files = [directory / "instances.json", directory / "panoptic.json"]
    return (
        description == _describe(split)
        and counts == [split.num_images] * 2
        and all(file.is_file() for file in files)
    )


def _describe(split: ShapesSplit) -> dict[str, Any]:
    # Files of easy shapes were described before there were others, and are not drawn again.
    description = asdict(split)
    if split.difficulty == EASY:
        del description["difficulty"]
    return json.loads(json.dumps(description))


def _replace_directory(directory: Path, split: ShapesSplit) -> None:
    if directory.exists() and not (directory / DESCRIPTION_FILE).exists():
        raise UserError(
            f"{directory} is needed for the shapes dataset, but holds something else. Move it "
            "away, or set the environment variable DETECTRON2_DATASETS to another directory."
        )
    logger.info(f"Drawing {split.num_images} images into {directory} ...")
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".shapes-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        _write_split(new, split)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)


def _write_split(directory: Path, split: ShapesSplit) -> None:
    for folder in ("images", "panoptic"):
        (directory / folder).mkdir(parents=True)
    images, panoptic = [], []
    instances: list[dict[str, Any]] = []
    for index in range(split.num_images):
        shapes = draw_shapes_image([split.version, split.seed, index], split.size, split.difficulty)
        image_id, stem = index + 1, f"{index + 1:06d}"
        # Without chroma subsampling, which would blur the edges between colours.
        Image.fromarray(shapes.image).save(
            directory / "images" / f"{stem}.jpg", quality=95, subsampling=0
        )
        images.append(
            {
                "id": image_id,
                "file_name": f"{stem}.jpg",
                "width": split.size,
                "height": split.size,
            }
        )
        first_id = len(instances) + 1
        instances.extend(
            {"id": first_id + number, "image_id": image_id, **annotation}
            for number, annotation in enumerate(_instance_annotations(shapes))
        )
        segment_ids, segments_info = _panoptic_segments(shapes)
        Image.fromarray(segment_ids).save(directory / "panoptic" / f"{stem}.png")
        panoptic.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments_info}
        )
    _write_json(directory / "instances.json", images, instances, _categories(THING_CLASSES))
    _write_json(directory / "panoptic.json", images, panoptic, _categories(CATEGORY_NAMES))
    (directory / DESCRIPTION_FILE).write_text(json.dumps(_describe(split)))


def _instance_annotations(shapes: ShapesImage) -> list[dict[str, Any]]:
    rles = mask_util.encode(np.asfortranarray(shapes.masks.transpose(1, 2, 0), dtype=np.uint8))
    return [
        {
            "category_id": label + 1,
            "iscrowd": 0,
            "area": int(mask_util.area(rle)),
            "bbox": mask_util.toBbox(rle).tolist(),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
        for label, rle in zip(shapes.classes, rles, strict=True)
    ]


def _panoptic_segments(shapes: ShapesImage) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the colours (H, W, 3) that stand for segment ids, and the segments' descriptions."""
    seen = ~shapes.masks.any(axis=0)
    things = list(zip(shapes.classes, shapes.masks, strict=True))
    stuff = [(len(THING_CLASSES) + k, seen & (shapes.stuff == k)) for k in range(2)]
    colors = np.zeros((*shapes.stuff.shape, 3), dtype=np.uint8)
    segments_info = []
    for number, (label, mask) in enumerate(things + stuff):
        if not mask.any():
            continue
        # The number tells objects of one category apart.
        red, green, blue = np.add(CATEGORY_COLORS[label], (number, 0, 0)).tolist()
        colors[mask] = red, green, blue
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        segments_info.append(
            {
                "id": red + 256 * green + 256**2 * blue,
                "category_id": label + 1,
                "iscrowd": 0,
                "area": int(mask_util.area(rle)),
                "bbox": mask_util.toBbox(rle).astype(int).tolist(),
            }
        )
    return colors, segments_info


def _categories(names: list[str] | tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "id": index + 1,
            "name": name,
            "supercategory": "shape" if name in THING_CLASSES else "background",
            "isthing": int(name in THING_CLASSES),
            "color": CATEGORY_COLORS[index],
        }
        for index, name in enumerate(names)
    ]


def _write_json(file: Path, images: list, annotations: list, categories: list) -> None:
    content = {
        "info": {"description": "Shapes drawn by d2detr", "version": str(VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    file.write_text(json.dumps(content))
