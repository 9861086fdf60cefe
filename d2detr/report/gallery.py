"""Sample images of an evaluation, small, with the boxes that the page draws over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes
from PIL import Image

from d2detr.report.detections import ImageResult
from d2detr.visualization.mistakes import KINDS

WORST_OF_KIND = 3
_MOST_IMAGES = 60
_LONGEST_SIDE = 480  # pixels
_LOWEST_SCORE = 0.05


@dataclass
class Gallery:
    """Pictures for the page.

    Attributes:
        pictures: of images in ascending order of AP; what each holds is in the page's script.
        worst: for each kind of mistake the places in ``pictures`` of the images with most of it.
        unreadable: image files that cannot be read.
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    worst: dict[str, list[int]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def build_gallery(images: Sequence[ImageResult], num_bytes: int) -> Gallery:
    """Choose images, those with most mistakes of each kind and others of every AP, and shrink them.

    Args:
        images: of the whole dataset.
        num_bytes: what the pictures may take in the page.
    """
    order = sorted(range(len(images)), key=lambda index: images[index].ap)
    mistakes = [image.mistakes for image in images]
    worst = {kind: _with_most(mistakes, kind) for kind in KINDS}
    gallery = Gallery()
    drawn: dict[int, dict[str, Any]] = {}
    for index in dict.fromkeys(_in_order_of_need(worst, order)):
        if len(drawn) == _MOST_IMAGES:
            break
        try:
            drawn[index] = _picture(images[index], mistakes[index])
        except (OSError, ValueError):
            gallery.unreadable.append(images[index].record["file_name"])
            continue
        num_bytes -= len(drawn[index]["source"])
        if num_bytes < 0:
            del drawn[index]
            break
    shown = [index for index in order if index in drawn]
    gallery.pictures = [drawn[index] for index in shown]
    gallery.worst = {
        kind: [shown.index(index) for index in chosen if index in drawn]
        for kind, chosen in worst.items()
    }
    return gallery


def _with_most(mistakes: Sequence[dict[str, int]], kind: str) -> list[int]:
    having = [index for index, counts in enumerate(mistakes) if counts[kind]]
    return sorted(having, key=lambda index: -mistakes[index][kind])[:WORST_OF_KIND]


def _in_order_of_need(worst: dict[str, list[int]], order: list[int]) -> Iterator[int]:
    for chosen in worst.values():
        yield from chosen
    # First few and far between, then ever more of them.
    for count in (5, 10, 20, _MOST_IMAGES):
        for place in np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int):
            yield order[place]


def _picture(image: ImageResult, mistakes: dict[str, int]) -> dict[str, Any]:
    picture = Image.fromarray(read_image(image.record["file_name"], "RGB"))
    width, height = image.record["width"], image.record["height"]
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return {
        "source": to_data_url(picture),
        "width": width,
        "height": height,
        "name": Path(image.record["file_name"]).name,
        "ap": round(100 * image.ap, 1),
        "mistakes": mistakes,
        "truth": _truth(image),
        "detections": _detections(image),
    }


def _truth(image: ImageResult) -> list[dict[str, Any]]:
    missed = set(image.judgement.missed(image.counted))
    boxes, labels = _corners(image.truth.gt_boxes), image.truth.gt_classes.tolist()
    return [
        {"box": box, "label": label, "kind": "missed" if index in missed else "truth"}
        for index, (box, label) in enumerate(zip(boxes, labels, strict=True))
    ]


def _detections(image: ImageResult) -> list[dict[str, Any]]:
    predictions = image.predictions
    rows = zip(
        _corners(predictions.pred_boxes),
        predictions.pred_classes.tolist(),
        predictions.scores.tolist(),
        image.judgement.kinds,
        strict=True,
    )
    return [
        {"box": box, "label": label, "score": round(score, 3), "kind": kind}
        for box, label, score, kind in rows
        if score >= _LOWEST_SCORE
    ]


def _corners(boxes: Boxes) -> list[list[float]]:
    corners: list[list[float]] = boxes.tensor.double().round(decimals=1).tolist()
    return corners


def to_data_url(picture: Image.Image) -> str:
    """Return a picture as a JPEG within a URL."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
