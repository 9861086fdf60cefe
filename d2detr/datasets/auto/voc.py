"""Finding and reading Pascal VOC annotations: one XML file for each image.

Detectron2's own loader knows one layout and one list of classes. supervision's decodes every
image, numbers the classes anew in each split and does not read ImageSets.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from d2detr.datasets.auto.tree import IMAGE_SUFFIXES, SPLITS, Source, Tree
from d2detr.errors import UserError

FORMAT = "Pascal VOC"
_BOX_KEYS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(tree: Tree) -> list[Source]:
    """Find the folders with VOC annotations and divide them as ``ImageSets/Main`` says.

    Without ImageSets the words of a folder's path tell its split.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in tree.with_suffix(".xml"):
        by_folder[os.path.dirname(path)].append(path)
    sources = []
    for folder, files in by_folder.items():
        if _is_annotation(files[0]):
            image_sets = Path(folder).parent / "ImageSets" / "Main"
            for split, chosen in _divide(files, image_sets, tree).items():
                read = partial(_read, folder, chosen, tree)
                inputs = [*chosen, *tree.image_folders]
                sources.append(Source(FORMAT, split, folder, inputs, read))
    return sources


def _is_annotation(path: str) -> bool:
    try:
        _, root = next(ElementTree.iterparse(path, events=("start",)))
    except (ElementTree.ParseError, StopIteration):
        return False
    return root.tag == "annotation"


def _divide(files: list[str], image_sets: Path, tree: Tree) -> dict[str | None, list[str]]:
    by_stem = {Path(path).stem: path for path in files}
    divided = {}
    for split in SPLITS:
        if (image_sets / f"{split}.txt").is_file():
            # A second column, which lists of single classes have, is not read.
            lines = (image_sets / f"{split}.txt").read_text().splitlines()
            stems = [line.split()[0] for line in lines if line.strip()]
            # The test lists of VOC name images whose annotations were never published.
            divided[split] = [by_stem[stem] for stem in stems if stem in by_stem]
    divided = {split: chosen for split, chosen in divided.items() if chosen}
    return divided or {tree.split_of(os.path.dirname(files[0])): files}


def _read(folder: str, files: list[str], tree: Tree) -> dict[str, Any]:
    parsed = [(path, _parse(path)) for path in files]
    names = {_text(item, "name", path) for path, root in parsed for item in root.findall("object")}
    category_ids = {name: index for index, name in enumerate(sorted(names), start=1)}
    image_files = _index_images(folder, tree)
    images, annotations = [], []
    for image_id, (path, root) in enumerate(parsed, start=1):
        images.append(
            {
                "id": image_id,
                "file_name": _image_file(path, root, image_files),
                "width": int(_number(root, "size/width", path)),
                "height": int(_number(root, "size/height", path)),
            }
        )
        for item in root.findall("object"):
            box = _box(item, path)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[_text(item, "name", path)],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for name, index in category_ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _parse(path: str) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML, or truncated: {error}.") from None


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
    """Return (x, y, width, height) from 1-based pixel indices, of which the last is included."""
    x0, y0, x1, y1 = (_number(item, f"bndbox/{key}", path) for key in _BOX_KEYS)
    return [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]


def _text(element: ElementTree.Element, key: str, path: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise UserError(f"{path}: a <{element.tag}> has no <{key}>.")
    return text


def _number(element: ElementTree.Element, key: str, path: str) -> float:
    text = _text(element, key, path)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}: <{key}> is {text!r}, which is not a number.") from None
