"""Finding and reading Pascal VOC annotations: one XML file for each image.

Detectron2's own loader knows one layout and one list of classes. supervision's decodes every
image, numbers the classes anew in each split and does not read ImageSets.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from d2detr.datasets.auto.faults import Faults
from d2detr.datasets.auto.tree import IMAGE_SUFFIXES, SPLITS, Source, Tree
from d2detr.datasets.text_files import read_text
from d2detr.errors import UserError

FORMAT = "Pascal VOC"
# ElementTree raises the others for encodings that it does not know.
_XML_ERRORS = (ElementTree.ParseError, LookupError, ValueError)
_BOX_KEYS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(tree: Tree) -> list[Source]:
    """Find the folders with VOC annotations and divide them as ``ImageSets/Main`` says.

    Without ImageSets the words of a folder's path tell its split.
    """
    sources = []
    for folder, files in _by_folder(tree).items():
        if _holds_annotations(files):
            image_sets = Path(folder).parent / "ImageSets" / "Main"
            for split, chosen in _divide(files, image_sets, tree).items():
                read = partial(_read, folder, chosen, tree)
                inputs = [*chosen, *tree.image_folders]
                sources.append(Source(FORMAT, split, folder, inputs, read))
    return sources


def unreadable_xml(tree: Tree) -> dict[str, str]:
    """Return the first XML file of each folder that has no other than damaged ones, and why."""
    unreadable = {}
    for files in _by_folder(tree).values():
        if not any(map(_root_tag, files)):
            unreadable[files[0]] = f"{files[0]} is not valid XML, or truncated."
    return unreadable


def _by_folder(tree: Tree) -> dict[str, list[str]]:
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in tree.with_suffix(".xml"):
        by_folder[os.path.dirname(path)].append(path)
    return by_folder


def _holds_annotations(files: list[str]) -> bool:
    """Whether one of the files is an annotation; damaged ones are refused when they are read."""
    return any(_root_tag(path) == "annotation" for path in files)


def _root_tag(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            _, root = next(ElementTree.iterparse(file, events=("start",)))
    except (OSError, StopIteration, *_XML_ERRORS):
        return None
    return root.tag


def _divide(files: list[str], image_sets: Path, tree: Tree) -> dict[str | None, list[str]]:
    by_stem = {Path(path).stem: path for path in files}
    divided: dict[str | None, list[str]] = {}
    for split in SPLITS:
        if (image_sets / f"{split}.txt").is_file():
            # A second column, which lists of single classes have, is not read.
            lines = read_text(str(image_sets / f"{split}.txt")).splitlines()
            names = [line.split()[0] for line in lines if line.strip()]
            found = [by_stem.get(name) or by_stem.get(Path(name).stem) for name in names]
            divided[split] = list(filter(None, found))
            # The test lists of VOC name images whose annotations were never published.
            if split != "test" and None in found:
                raise UserError(
                    f"{image_sets / split}.txt names {found.count(None)} of its {len(found)} "
                    f"images, such as {names[found.index(None)]}, that have no .xml file in "
                    f"{os.path.dirname(files[0])}. Add the files, or remove the lines."
                )
    divided = {split: chosen for split, chosen in divided.items() if chosen}
    return divided or {tree.split_of(os.path.dirname(files[0])): files}


def _read(folder: str, files: list[str], tree: Tree) -> dict[str, Any]:
    image_files = _index_images(folder, tree)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    faults = Faults()
    for image_id, path in enumerate(files, start=1):
        try:
            root = _parse(path)
            size = {key: int(_number(root, f"size/{key}", path)) for key in ("width", "height")}
            objects = [
                (_text(item, "name", path), _box(item, path)) for item in root.findall("object")
            ]
        except UserError as error:
            faults.add("annotation files that cannot be used", str(error))
            continue
        file_name = _image_file(path, root, image_files)
        images.append({"id": image_id, "file_name": file_name, **size})
        for name, (x, y, width, height) in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": name,
                    "bbox": [x, y, width, height],
                    "area": max(width, 0) * max(height, 0),
                    "iscrowd": 0,
                }
            )
    faults.reject(folder)
    names = sorted({annotation["category_id"] for annotation in annotations})
    category_ids = {name: index for index, name in enumerate(names, start=1)}
    for annotation in annotations:
        annotation["category_id"] = category_ids[annotation["category_id"]]
    categories = [{"id": index, "name": name} for name, index in category_ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _parse(path: str) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except _XML_ERRORS as error:
        raise UserError(f"{path} is not valid XML, or truncated: {error}") from None
    if root.tag != "annotation":
        raise UserError(f"{path} holds <{root.tag}> where the others hold <annotation>")
    return root


def _index_images(folder: str, tree: Tree) -> dict[str, str]:
    """Return the images by stem, those of JPEGImages, images/ and the folder itself."""
    parent = os.path.dirname(folder)
    homes = {folder, *(os.path.join(parent, name) for name in ("JPEGImages", "images", "Images"))}
    # "train/annotations" beside "train/images", and "annotations/train" beside "images/train".
    split, grandparent = os.path.basename(folder), os.path.dirname(parent)
    homes |= {os.path.join(grandparent, name, split) for name in ("JPEGImages", "images")}
    found = {Path(x).stem: x for x in tree.images if os.path.dirname(x) in homes}
    return found or {Path(x).stem: x for x in tree.images}


def _image_file(path: str, root: ElementTree.Element, image_files: dict[str, str]) -> str:
    """Return the image beside an annotation; where there is none, the place it should be at."""
    # Tools that rename files leave the old name in the XML: the annotation's own stem counts first.
    named = Path(root.findtext("filename") or "")
    for stem in (Path(path).stem, named.stem):
        if stem in image_files:
            return image_files[stem]
    suffix = named.suffix if named.suffix.lower() in IMAGE_SUFFIXES else ".jpg"
    home = os.path.dirname(next(iter(image_files.values()), path))
    return os.path.join(home, Path(path).stem + suffix)


def _box(item: ElementTree.Element, path: str) -> list[float]:
    """Return (x, y, width, height) from 1-based pixel indices, of which the last is included.

    A side from an index to the same one is 0 long: it marks a point, not an object of one pixel.
    """
    x0, y0, x1, y1 = (_number(item, f"bndbox/{key}", path) for key in _BOX_KEYS)
    width, height = (last - first + (last > first) for first, last in ((x0, x1), (y0, y1)))
    return [x0 - 1, y0 - 1, width, height]


def _text(element: ElementTree.Element, key: str, path: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise UserError(f"{path}: a <{element.tag}> has no <{key}>")
    return text


def _number(element: ElementTree.Element, key: str, path: str) -> float:
    text = _text(element, key, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}: <{key}> is {text!r}, which is not a number")
    return number
