"""Finding and reading COCO instance annotations."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from d2detr.datasets.auto.tree import Source, Tree
from d2detr.datasets.coco_faults import find_structure_fault
from d2detr.errors import UserError

FORMAT = "COCO JSON"
_SECTIONS = ("images", "annotations", "categories")
# How many of its images decide in which folder those of a file are.
_SAMPLE = 20


def find_coco(tree: Tree) -> list[Source]:
    """Find the files with instance annotations, one for each split.

    Captions, panoptic annotations and detection results are passed over, keypoints too where the
    same split has plain instances.

    Raises:
        UserError: a JSON file cannot be parsed, so that nobody knows what it was to be.
    """
    sources, with_keypoints = [], []
    for path in tree.with_suffix(".json"):
        content = _load(path)
        if _has_instances(content):
            read = partial(_read, path, tree)
            inputs = [path, *tree.image_folders]
            source = Source(FORMAT, tree.split_of(path), path, inputs, read)
            keypoints = any("keypoints" in x for x in content["annotations"][:1])
            (with_keypoints if keypoints else sources).append(source)
    plain = {source.split for source in sources}
    return sources + [source for source in with_keypoints if source.split not in plain]


def _load(path: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON, or truncated: {error}.") from None


def _has_instances(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    if not all(isinstance(content.get(section), list) for section in _SECTIONS):
        return False
    annotations = content["annotations"]
    return not annotations or any("bbox" in x for x in annotations if isinstance(x, dict))


def _read(path: str, tree: Tree) -> dict[str, Any]:
    content = _load(path)
    fault = find_structure_fault(content)
    if fault:
        raise UserError(f"{path}: {fault}.")
    content = {section: content[section] for section in _SECTIONS}
    content["categories"] = _without_supercategory(content)
    folder = _find_image_folder(path, [x["file_name"] for x in content["images"]], tree)
    if not all(isinstance(image["id"], int) for image in content["images"]):
        _number_images(content)  # because the evaluation takes numbers only
    for image in content["images"]:
        image["file_name"] = os.path.join(folder, image["file_name"])
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        box = annotation["bbox"]
        if "area" not in annotation and isinstance(box, list) and len(box) == 4:
            annotation["area"] = box[2] * box[3]
    return content


def _without_supercategory(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Drop the unused category 0 that Roboflow adds, the supercategory of all the others."""
    first, *others = content["categories"]
    used = any(x["category_id"] == first["id"] for x in content["annotations"])
    parents = {x.get("supercategory") for x in others}
    if others and not used and first["id"] == 0 and parents == {first["name"]}:
        return others
    return content["categories"]


def _number_images(content: dict[str, Any]) -> None:
    numbers: dict[Any, int] = {}
    for image in content["images"]:
        image["id"] = numbers.setdefault(image["id"], len(numbers) + 1)
    for annotation in content["annotations"]:
        annotation["image_id"] = numbers.get(annotation["image_id"], annotation["image_id"])


def _find_image_folder(json_file: str, names: list[str], tree: Tree) -> str:
    """Return the folder to which the file names are relative: where most of them exist.

    Among equals it is one of the same split, then the one nearest to the file.
    """
    home = os.path.dirname(json_file)
    folders = {home, tree.root, *tree.image_folders}
    # File names may begin with folders of their own.
    folders |= {os.path.dirname(folder) for folder in tree.image_folders}
    # A file that was named itself lies beside the folders of images, as COCO's do.
    parent = Path(home).parent
    folders |= {str(x) for x in (*parent.glob("*"), *parent.glob("images/*")) if x.is_dir()}
    sample = names[:: max(1, len(names) // _SAMPLE)]
    split = tree.split_of(json_file)

    def preference(folder: str) -> tuple:
        found = sum(os.path.isfile(os.path.join(folder, name)) for name in sample)
        inside = os.path.commonpath((folder, tree.root)) == tree.root
        same_split = inside and split is not None and tree.split_of(folder) == split
        distance = os.path.relpath(folder, home).count(os.sep) + (folder != home)
        return -found, not same_split, distance, folder

    return min(folders, key=preference)
