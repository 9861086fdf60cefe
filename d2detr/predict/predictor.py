"""Detections for images in whatever form they come."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from d2detr.checkpoint import load_weights
from d2detr.checkpoint.releases import PREFIX
from d2detr.checkpoint.saving import BEST_MODEL, FINAL_MODEL, newest_checkpoint
from d2detr.config import check_device, check_score_threshold, load_config
from d2detr.data import build_augmentation
from d2detr.datasets.categories import (
    CATEGORIES_FILE,
    categories_of,
    dataset_num_classes,
    read_categories,
)
from d2detr.datasets.places import require_existing
from d2detr.errors import UserError
from d2detr.model_zoo import get_config, get_config_file, names
from d2detr.predict.detector import Detector, ImageLike


class Predictor(Detector):
    """Runs a trained model on images.

    Args:
        config: a config, a YAML file, the name of one of d2detr's own, the folder of a run, or
            ``detr://detr_r50`` and the like for a model that is released.
        weights: default: the best checkpoint of the run, or ``MODEL.WEIGHTS`` of the config.
        score_threshold: detections below it are left out, in [0, 1].
        device: default: that of the config, or the CPU where there is no GPU.
        opts: ``KEY VALUE`` overrides of the config.
        batch_size: the most images that are read and passed through the model together.

    Raises:
        UserError: the config or the weights cannot be used.
    """

    def __init__(
        self,
        config: CfgNode | str | os.PathLike,
        weights: str | None = None,
        *,
        score_threshold: float = 0.5,
        device: str | None = None,
        opts: Sequence[str] = (),
        batch_size: int = 8,
    ):
        check_score_threshold(score_threshold, "The score threshold")
        if batch_size < 1:
            raise UserError(f"The batch size is {batch_size}, but must be at least 1.")
        cfg, run = _load(config, list(opts))
        # Here already, so that no masks are computed to be thrown away.
        cfg.MODEL.DETR.TEST.SCORE_THRESHOLD = max(
            score_threshold, cfg.MODEL.DETR.TEST.SCORE_THRESHOLD
        )
        if weights is not None:
            cfg.MODEL.WEIGHTS = str(weights)
        elif run is not None:
            cfg.MODEL.WEIGHTS = str(checkpoint_of_run(run))
        if device is not None:
            check_device(device)
            cfg.MODEL.DEVICE = device
        self.categories = _find_categories(cfg, run, weights)
        if self.categories is not None and not cfg.MODEL.DETR.NUM_CLASSES:
            cfg.MODEL.DETR.NUM_CLASSES = len(self.categories)
        self.cfg = cfg
        self.model = _build_model(cfg, self.categories).eval()
        load_weights(self.model, cfg.MODEL.WEIGHTS, trusted=cfg.MODEL.WEIGHTS_TRUSTED)
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.metadata = metadata_of(self.categories, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        self._augmentations = T.AugmentationList(build_augmentation(cfg, is_train=False))

    def _detect(self, images: Sequence[ImageLike]) -> list[dict[str, Any]]:
        inputs = [self.prepare(read_rgb(image)) for image in images]
        outputs: list[dict[str, Any]] = [{} for _ in inputs]
        # Padding reaches the features near it: only images of one shape are passed together, so
        # that no detection depends on the rest of the batch.
        by_shape: dict[tuple, list[int]] = {}
        for index, item in enumerate(inputs):
            by_shape.setdefault(tuple(item["image"].shape), []).append(index)
        for group in by_shape.values():
            with torch.inference_mode():
                found = self.model([inputs[index] for index in group])
            for index, output in zip(group, found, strict=True):
                outputs[index] = {"instances": self._choose(output["instances"])}
                if "panoptic_seg" in output:
                    ids, segments = output["panoptic_seg"]
                    outputs[index]["panoptic_seg"] = ids.cpu(), segments
        return outputs

    def prepare(self, rgb: np.ndarray) -> dict[str, Any]:
        """Return the model's input for an image (H, W, 3) of uint8 in RGB."""
        height, width = rgb.shape[:2]
        aug_input = T.AugInput(rgb if self.cfg.INPUT.FORMAT == "RGB" else rgb[:, :, ::-1])
        self._augmentations(aug_input)
        tensor = torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def _choose(self, instances: Instances) -> Instances:
        instances = instances[instances.scores >= self.score_threshold].to("cpu")
        return instances[instances.scores.argsort(descending=True)]


def metadata_of(categories: list[dict[str, Any]] | None, datasets: Sequence[str]) -> Metadata:
    """Return the names of classes, and their colours if one of the datasets has the same classes.

    Args:
        categories: dicts with "name"; None leaves the metadata empty.
        datasets: names of some that may be registered.
    """
    metadata = Metadata()
    if categories is None:
        return metadata
    names = [category["name"] for category in categories]
    metadata.set(thing_classes=names, stuff_classes=names)
    for dataset in map(MetadataCatalog.get, datasets):
        if dataset.get("thing_classes") == names and dataset.get("thing_colors"):
            colors = dataset.thing_colors
            metadata.set(thing_colors=colors, stuff_colors=dataset.get("stuff_colors", colors))
            break
    return metadata


def read_rgb(image: ImageLike) -> np.ndarray:
    """Return an image as an array (H, W, 3) of uint8 in RGB, its EXIF rotation applied.

    Raises:
        UserError: it cannot be read, or is an array of another kind.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"An image must be an array (height, width, 3) of uint8 in RGB, not "
                f"{image.shape} of {image.dtype}."
            )
        return image
    if isinstance(image, Image.Image):
        return detection_utils.convert_PIL_to_numpy(
            detection_utils._apply_exif_orientation(image), "RGB"
        )
    try:
        return detection_utils.read_image(os.fspath(image), "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Image {image} cannot be read: {reason}") from error


def checkpoint_of_run(folder: str | os.PathLike) -> Path:
    """Return the best checkpoint in the folder of a run, or else the last that can be read.

    Raises:
        UserError: there is none.
    """
    folder = Path(folder)
    for name in (BEST_MODEL, f"{FINAL_MODEL}.pth"):
        if (folder / name).is_file():
            return folder / name
    newest = newest_checkpoint(folder)
    if newest is None:
        raise UserError(f"{folder} holds a config.yaml, but no checkpoint.")
    return newest


def _load(config: CfgNode | str | os.PathLike, opts: list[str]) -> tuple[CfgNode, Path | None]:
    """Return a config that may be changed, and the folder of its run if it has one."""
    if isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        cfg.merge_from_list(opts)
        return cfg, None
    if str(config).startswith(PREFIX):
        name = str(config).removeprefix(PREFIX)
        return _load(get_config(name, trained=True), opts)
    if str(config).removesuffix(".yaml") in names() and not Path(config).exists():
        return load_config(get_config_file(str(config)), opts), None
    path = require_existing(config, "Config or run folder")
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not the folder of a run: it has no config.yaml.")
        return load_config(str(path / "config.yaml"), opts), path
    return load_config(str(path), opts), None


def _build_model(cfg: CfgNode, categories: list[dict[str, Any]] | None) -> nn.Module:
    """Build a model; which classes are things need not be known from its dataset."""
    detr = cfg.MODEL.DETR
    if (
        not detr.TEST.PANOPTIC_ON
        or categories is None
        or len(categories) != detr.NUM_CLASSES
        or not all("isthing" in category for category in categories)
    ):
        return build_model(cfg)
    cfg = cfg.clone()
    cfg.MODEL.DETR.TEST.PANOPTIC_ON = False  # which would ask the dataset
    model = build_model(cfg)
    things = {index for index, category in enumerate(categories) if category["isthing"]}
    model.segmenter = dataclasses.replace(model.segmenter, thing_classes=things)
    return model


def _find_categories(
    cfg: CfgNode, run: Path | None, weights: str | None
) -> list[dict[str, Any]] | None:
    """Return the classes that a run wrote down, or those of the config's dataset if it is there."""
    beside = run or (Path(weights).parent if weights else None)
    if beside is not None and (beside / CATEGORIES_FILE).is_file():
        return read_categories(beside / CATEGORIES_FILE)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if MetadataCatalog.get(name).get("thing_classes") is not None:
            return categories_of(name)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not cfg.MODEL.DETR.NUM_CLASSES and names:
        dataset_num_classes(names[0])
        return categories_of(names[0])
    return None
