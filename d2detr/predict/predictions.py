"""Prediction for many images: batches, pictures, one file of results, and no stop at bad files."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from d2detr.errors import UserError
from d2detr.files import make_folder, replacing, write_json
from d2detr.predict.detector import Detector
from d2detr.predict.inputs import Video, VideoWriter
from d2detr.predict.predictor import read_rgb
from d2detr.progress import progress
from d2detr.visualization.drawing import draw_instances, draw_segments

RESULTS_FILE = "coco_instances_results.json"
UNFINISHED_RESULTS_FILE = "coco_instances_results.jsonl"
VIDEO_FILE = "predictions.mp4"

logger = logging.getLogger(__name__)


def predict_images(
    predictor: Detector, files: list[str], output: str | Path, batch_size: int = 1
) -> list[str]:
    """Write pictures of what is found and ``coco_instances_results.json``.

    Of a panoptic model the pictures show the segmentation, otherwise the detections.

    Image ids are the positions in ``images.json``, which is written too and has the form of the
    "images" and "categories" of a COCO file. What is found before an interruption is in both files,
    too; a process that is killed leaves it in ``coco_instances_results.jsonl``, a line with "image"
    and "annotations" for each image. No picture is written over one of ``files``.

    Args:
        predictor: the model.
        files: image files.
        output: the folder to write to.
        batch_size: images at a time.

    Returns:
        The files that cannot be read, which are left out, each with the reason.
    """
    output = make_folder(output)
    unreadable = []
    pictures = _picture_paths(files, output)
    with (
        _writing_results(output, predictor, writes_images=True) as results,
        progress(len(files), "Predicting", "images") as bar,
    ):
        for batch in _batches(files, batch_size):
            pixels = {}
            for file in batch:
                try:
                    pixels[file] = read_rgb(file)
                except UserError as error:
                    unreadable.append(str(error))
            outputs = predictor(list(pixels.values()))
            for (file, rgb), found in zip(pixels.items(), outputs, strict=True):
                results.add(found["instances"], rgb, file)
                with replacing(pictures[file], durable=False) as partial:
                    Image.fromarray(_draw(rgb, found, predictor)).save(partial)
            bar.update(len(batch))
    return unreadable


def predict_video(
    predictor: Detector, video: Video, output: str | Path, batch_size: int = 1
) -> None:
    """Write a video of the detections, and ``coco_instances_results.json`` with frames as ids.

    A webcam is read until Ctrl-C, after which everything is written as usual.

    Raises:
        UserError: the video to write is the one that is read.
    """
    output = make_folder(output)
    if os.path.realpath(output / VIDEO_FILE) == os.path.realpath(str(video.source)):
        raise UserError(f"{video.source} would be overwritten. Choose another --output.")
    with (
        replacing(output / VIDEO_FILE) as partial,
        _writing_results(output, predictor) as results,
        progress(video.num_frames, "Predicting", "frames") as bar,
    ):
        writer = VideoWriter(partial, video.frames_per_second)
        try:
            for batch in _batches(video, batch_size):
                for rgb, found in zip(batch, predictor(batch), strict=True):
                    results.add(found["instances"], rgb)
                    writer.write(_draw(rgb, found, predictor))
                    bar.update()
        except KeyboardInterrupt:
            logger.info("Stopped.")
        finally:
            writer.close()


class _Results:
    """What is found, in COCO's format, written line by line as it comes.

    Args:
        lines: where each image's line is written.
        categories: dicts with "id" of the model's classes; None numbers them.
    """

    def __init__(self, lines: IO[str], categories: list[dict[str, Any]] | None):
        self._lines = lines
        self._categories = categories
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, instances: Instances, rgb: np.ndarray, file: str | None = None) -> None:
        """Add the detections of an image, or of the next frame where there is no ``file``."""
        height, width = rgb.shape[:2]
        image = {"id": len(self.images) + 1, "width": width, "height": height}
        if file is not None:
            image["file_name"] = file
        annotations = instances_to_coco_json(instances, image["id"])
        for annotation in annotations:
            if self._categories is not None:
                annotation["category_id"] = self._categories[annotation["category_id"]]["id"]
        self.images.append(image)
        self.annotations.extend(annotations)
        self._lines.write(json.dumps({"image": image, "annotations": annotations}) + "\n")
        self._lines.flush()


@contextmanager
def _writing_results(
    output: Path, predictor: Detector, writes_images: bool = False
) -> Iterator[_Results]:
    unfinished = output / UNFINISHED_RESULTS_FILE
    with open(unfinished, "w") as lines:
        results = _Results(lines, predictor.categories)
        try:
            yield results
        finally:
            if writes_images:
                description = {"images": results.images, "categories": predictor.categories or []}
                write_json(output / "images.json", description)
            write_json(output / RESULTS_FILE, results.annotations)
            unfinished.unlink()


def _draw(rgb: np.ndarray, found: dict[str, Any], predictor: Detector) -> np.ndarray:
    if "panoptic_seg" in found and predictor.categories is not None:
        return draw_segments(rgb, found["panoptic_seg"], predictor.metadata)
    return draw_instances(rgb, found["instances"], predictor.metadata)


def _picture_paths(files: list[str], output: Path) -> dict[str, Path]:
    """Name the pictures like the files, or like their whole paths where that is not enough."""
    taken = {os.path.realpath(file) for file in files}
    images_of_stem = Counter(Path(file).stem for file in files)
    paths: dict[str, Path] = {}
    for file in files:
        path = Path(os.path.abspath(file))
        whole = "_".join(path.parts[1:])
        names = [f"{path.stem}.jpg"] if images_of_stem[path.stem] == 1 else []
        numbered = (f"{whole}_{number}.jpg" for number in count(2))
        for name in chain(names, [f"{whole}.jpg"], numbered):
            place = os.path.realpath(output / name)
            if place not in taken:
                taken.add(place)
                paths[file] = output / name
                break
    return paths


def _batches(items: Any, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
