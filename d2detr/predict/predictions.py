"""Prediction for many images: batches, pictures, one file of results, and no stop at bad files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from d2detr.errors import UserError
from d2detr.files import make_folder
from d2detr.predict.inputs import Video, VideoWriter
from d2detr.predict.predictor import Predictor, read_rgb
from d2detr.visualization.drawing import draw_instances, draw_segments

RESULTS_FILE = "coco_instances_results.json"

logger = logging.getLogger(__name__)


def predict_images(
    predictor: Predictor, files: list[str], output: str | Path, batch_size: int = 1
) -> list[str]:
    """Write pictures of what is found and ``coco_instances_results.json``.

    Of a panoptic model the pictures show the segmentation, otherwise the detections.

    Image ids are the positions in ``images.json``, which is written too and has the form of the
    "images" and "categories" of a COCO file.

    Args:
        predictor: the model.
        files: image files.
        output: the folder to write to.
        batch_size: images at a time.

    Returns:
        The files that cannot be read, which are left out, each with the reason.
    """
    output = make_folder(output)
    images, results, unreadable = [], [], []
    names = _picture_names(files)
    progress = tqdm(total=len(files), desc="Predicting", unit="image")
    for batch in _batches(files, batch_size):
        pixels = {}
        for file in batch:
            try:
                pixels[file] = read_rgb(file)
            except UserError as error:
                unreadable.append(str(error))
        outputs = predictor(list(pixels.values()))
        for (file, rgb), found in zip(pixels.items(), outputs, strict=True):
            instances = found["instances"]
            height, width = rgb.shape[:2]
            image_id = len(images) + 1
            images.append({"id": image_id, "file_name": file, "width": width, "height": height})
            results.extend(_coco_results(instances, image_id, predictor))
            picture = _draw(rgb, found, predictor)
            Image.fromarray(picture).save(output / names[file])
        progress.update(len(batch))
    progress.close()
    description = {"images": images, "categories": predictor.categories or []}
    (output / "images.json").write_text(json.dumps(description))
    (output / RESULTS_FILE).write_text(json.dumps(results))
    return unreadable


def predict_video(
    predictor: Predictor, video: Video, output: str | Path, batch_size: int = 1
) -> None:
    """Write a video of the detections, and ``coco_instances_results.json`` with frames as ids.

    A webcam is read until Ctrl-C, after which everything is written as usual.
    """
    output = make_folder(output)
    writer = VideoWriter(output / "predictions.mp4", video.frames_per_second)
    results: list[dict[str, Any]] = []
    progress = tqdm(total=video.num_frames, desc="Predicting", unit="frame")
    frame = 0
    try:
        for batch in _batches(video, batch_size):
            for rgb, found in zip(batch, predictor(batch), strict=True):
                frame += 1
                instances = found["instances"]
                results.extend(_coco_results(instances, frame, predictor))
                writer.write(_draw(rgb, found, predictor))
                progress.update()
    except KeyboardInterrupt:
        logger.info("Stopped.")
    finally:
        progress.close()
        writer.close()
        (output / RESULTS_FILE).write_text(json.dumps(results))


def _draw(rgb: np.ndarray, found: dict[str, Any], predictor: Predictor) -> np.ndarray:
    if "panoptic_seg" in found and predictor.categories is not None:
        return draw_segments(rgb, found["panoptic_seg"], predictor.metadata)
    return draw_instances(rgb, found["instances"], predictor.metadata)


def _coco_results(
    instances: Instances, image_id: int, predictor: Predictor
) -> list[dict[str, Any]]:
    results = instances_to_coco_json(instances, image_id)
    for result in results:
        if predictor.categories is not None:
            result["category_id"] = predictor.categories[result["category_id"]]["id"]
    return results


def _picture_names(files: list[str]) -> dict[str, str]:
    """Name the pictures like the files; those of equal names get the names of their folders."""
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(Path(file).stem, []).append(file)
    names = {}
    for stem, same in by_name.items():
        for file in same:
            parts = Path(os.path.abspath(file)).with_suffix("").parts[1:]
            names[file] = (stem if len(same) == 1 else "_".join(parts)) + ".jpg"
    return names


def _batches(items: Any, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
