"""Reading the label files of YOLO.

supervision's loader keeps boxes in float32 and turns polygons into bitmaps of the whole image, all
in memory at once; here polygons stay polygons.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from d2detr.datasets.auto.faults import Faults
from d2detr.datasets.image_files import NUM_THREADS, displayed_size
from d2detr.datasets.text_files import read_text
from d2detr.errors import UserError

# Coordinates are shares of the image. Boxes reach out of it by rounding and by mistakes, but never
# by its whole length.
MAX_SHARE = 2.0

logger = logging.getLogger(__name__)


def label_file_of(image_file: str) -> str:
    """Return where the labels of an image are expected: in "labels" instead of "images"."""
    stem, parts = os.path.splitext(image_file)[0], Path(image_file).parts
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            labels = os.path.join(*parts[:index], "labels", *parts[index + 1 : -1])
            return os.path.join(labels, os.path.basename(stem) + ".txt")
    return stem + ".txt"


def find_label_file(image_file: str) -> str | None:
    """Return the labels of an image if they exist, those beside a link before those it leads to."""
    label_file = label_file_of(image_file)
    if not os.path.isfile(label_file):
        label_file = label_file_of(os.path.realpath(image_file))
    return label_file if os.path.isfile(label_file) else None


def looks_like_labels(label_files: Iterable[str]) -> set[int] | None:
    """Return the class ids in label files, or None if one of them holds something else."""
    ids = set()
    for label_file in label_files:
        if os.path.isfile(label_file):
            try:
                ids |= {_parse(line)[0] for line in _lines(label_file).values()}
            except UserError:
                return None
    return ids


def read(
    origin: str,
    class_names: dict[int, str],
    label_files: dict[str, str | None],
    skips_unlabelled: bool = False,
) -> dict[str, Any]:
    """Read the labels of images.

    Args:
        origin: the file that names the classes, for the messages.
        class_names: the name of each class id.
        label_files: for each image file its label file, None if it has none.
        skips_unlabelled: leave out images without a label file, which otherwise show no object.

    Returns:
        The content of a COCO file, whose category ids are class ids plus 1.

    Raises:
        UserError: lines or images cannot be used; counts them and names the first of each kind.
    """
    if skips_unlabelled:
        skipped = [image for image, file in label_files.items() if file is None]
        logger.info(f"{origin}: {len(skipped)} images without a label file are left out.")
        label_files = {image: file for image, file in label_files.items() if file}
    faults = Faults()
    with ThreadPoolExecutor(NUM_THREADS) as executor:
        sizes = list(executor.map(_size, label_files))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, ((image_file, label_file), size) in enumerate(
        zip(label_files.items(), sizes, strict=True), start=1
    ):
        if isinstance(size, str):
            faults.add("images whose size cannot be read", f"{image_file} ({size})")
            size = (1, 1)
        images.append(
            {"id": image_id, "file_name": image_file, "width": size[0], "height": size[1]}
        )
        for annotation in _read_file(label_file, size, class_names, faults) if label_file else ():
            annotation.update(id=len(annotations) + 1, image_id=image_id, iscrowd=0)
            annotations.append(annotation)
    faults.reject(origin)
    if not annotations:
        raise UserError(f"{origin}: {_nothing_labelled(label_files)}")
    categories = [{"id": label + 1, "name": name} for label, name in class_names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _nothing_labelled(label_files: dict[str, str | None]) -> str:
    if not label_files:
        return "no image has a label file, and 'skip_if_label_file_missing' leaves those out."
    image = next(iter(label_files))
    return (
        f"none of its {len(label_files)} images has a label file with an object; that of {image} "
        f"is expected at {label_file_of(image)}."
    )


def _size(image_file: str) -> tuple[int, int] | str:
    """Return width and height, or what is wrong with the file."""
    try:
        with Image.open(image_file) as image:
            # The labels refer to the image as it is displayed, like those of the tools that write
            # them.
            return displayed_size(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error).replace(f" {image_file!r}", "")


def _read_file(
    label_file: str, size: tuple[int, int], class_names: dict[int, str], faults: Faults
) -> Iterable[dict[str, Any]]:
    try:
        lines = _lines(label_file)
    except UserError as error:
        faults.add("label files that are no text", str(error))
        return
    ids = sorted(class_names)
    named = ", ".join(map(str, ids)) if len(ids) <= 10 else f"{len(ids)} from {ids[0]} to {ids[-1]}"
    for number, line in lines.items():
        where = f"{label_file}:{number} {line!r}"
        try:
            label, values = _parse(line)
        except UserError as error:
            faults.add(str(error), where)
            continue
        if label not in class_names:
            faults.add(f"lines with a class id that has no name ({named} have)", where)
        elif max(map(abs, values)) > MAX_SHARE:
            faults.add(
                "lines with coordinates that are pixels, where YOLO has shares of the image's "
                "width and height, from 0 to 1",
                where,
            )
        else:
            yield _annotation(label, values, size)


def _lines(label_file: str) -> dict[int, str]:
    """Return the lines that are not empty, by their number."""
    lines = enumerate(read_text(label_file).splitlines(), start=1)
    return {number: line for number, line in lines if line.strip()}


def _parse(line: str) -> tuple[int, list[float]]:
    """Return class id and coordinates of "class cx cy w h" or "class x y x y x y ..."."""
    try:
        label, *values = (float(word) for word in line.split())
    except ValueError:
        raise UserError("lines that hold something else than numbers") from None
    if not all(map(math.isfinite, (label, *values))):
        raise UserError("lines with numbers that are not finite")
    if label != int(label) or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
        raise UserError("lines that are neither 'class x y width height' nor a class and a polygon")
    return int(label), values


def _annotation(label: int, values: list[float], size: tuple[int, int]) -> dict[str, Any]:
    """Return category, box and polygon in pixels."""
    scaled = [value * size[index % 2] for index, value in enumerate(values)]
    annotation: dict[str, Any] = {"category_id": label + 1}
    if len(values) == 4:
        cx, cy, width, height = scaled
        x, y = cx - width / 2, cy - height / 2
    else:
        x, y = min(scaled[::2]), min(scaled[1::2])
        width, height = max(scaled[::2]) - x, max(scaled[1::2]) - y
        annotation["segmentation"] = [scaled]
    return annotation | {"bbox": [x, y, width, height], "area": max(width, 0) * max(height, 0)}
