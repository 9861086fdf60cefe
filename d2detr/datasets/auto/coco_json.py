"""Finding and reading COCO instance annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from d2detr.datasets.auto.tree import Source, Tree
from d2detr.datasets.coco_faults import SECTIONS, find_section_fault, find_structure_fault
from d2detr.datasets.text_files import read_json
from d2detr.errors import UserError

FORMAT = "COCO JSON"
# How many of its images decide in which folder those of a file are.
_SAMPLE = 20
# How much of a file that cannot be parsed tells what it was to be.
_HEAD_BYTES = 1 << 16


class Verdict(NamedTuple):
    """What a JSON file is.

    Attributes:
        kind: "instances"; "keypoints", which are instances too; "broken", instances that cannot be
            used; "unparsable"; "other", a kind of annotations or results without instances; or
            "unknown".
        problem: why it holds no instances, in a sentence that names the file.
    """

    kind: str
    problem: str = ""


def judge(path: str) -> Verdict:
    """Read a JSON file and say what it is."""
    try:
        content = read_json(path)
    except OSError as error:
        return Verdict("unparsable", f"{path} cannot be read: {error.strerror}.")
    except UserError as error:
        return Verdict("broken" if _begins_like_coco(path) else "unparsable", str(error))
    kind, problem = _judge_content(content)
    return Verdict(kind, f"{path}: {problem}." if problem else "")


def find_coco(tree: Tree, verdicts: Mapping[str, Verdict]) -> list[Source]:
    """Find the files with instance annotations, one for each split.

    Captions, panoptic annotations and detection results are passed over, keypoints too where the
    same split has plain instances.

    Args:
        tree: the files.
        verdicts: on each JSON file among them.

    Raises:
        UserError: files with instances are truncated or lack a list; names all of them.
    """
    broken = [verdict.problem for verdict in verdicts.values() if verdict.kind == "broken"]
    if broken:
        raise UserError(" ".join(broken))
    sources: dict[str, list[Source]] = {"instances": [], "keypoints": []}
    for path, verdict in verdicts.items():
        if verdict.kind in sources:
            sources[verdict.kind].append(coco_source(path, tree.split_of(path), tree))
    plain = {source.split for source in sources["instances"]}
    others = [source for source in sources["keypoints"] if source.split not in plain]
    return sources["instances"] + others


def coco_source(path: str, split: str | None, tree: Tree) -> Source:
    """Describe a file with instance annotations, whose images are in ``tree``."""
    return Source(FORMAT, split, path, [path, *tree.image_folders], partial(_read, path, tree))


def _begins_like_coco(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES).replace(b"\0", b"")  # of which UTF-16 has many
    return any(f'"{section}"'.encode() in head for section in SECTIONS)


def _judge_content(content: Any) -> tuple[str, str]:
    """Return the kind of a file, and what is wrong with it in words that follow its name."""
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, dict) and {"image_id", "score"} <= first.keys():
            return "other", "it holds the results of a detector, not annotations"
    fault = find_section_fault(content)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        return "unknown", fault or ""
    entries = [entry for entry in annotations if isinstance(entry, dict)]
    has_objects = any("bbox" in entry or "category_id" in entry for entry in entries)
    if entries and not has_objects:
        return "other", "its annotations are not of single objects with boxes"
    if fault:
        return "broken" if has_objects else "unknown", fault
    if entries and not any("bbox" in entry for entry in entries):
        return "broken", "none of its annotations has a 'bbox'"
    return "keypoints" if "keypoints" in (entries or [{}])[0] else "instances", ""


def _read(path: str, tree: Tree) -> dict[str, Any]:
    content = read_json(path)
    fault = find_structure_fault(content)
    if fault:
        raise UserError(f"{path}: {fault}.")
    content = {section: content[section] for section in SECTIONS}
    content["categories"] = _without_supercategory(content)
    folder = _find_image_folder(path, [x["file_name"] for x in content["images"]], tree)
    if not all(isinstance(image["id"], int) for image in content["images"]):
        _number_images(content)  # because the evaluation takes numbers only
    for image in content["images"]:
        image["file_name"] = os.path.join(folder, image["file_name"])
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        box = annotation["bbox"]
        if "area" not in annotation and _is_box(box):
            annotation["area"] = box[2] * box[3]
    return content


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(x, Real) for x in box)


def _without_supercategory(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Drop the unused category 0 that Roboflow adds, the supercategory of all the others."""
    first, *others = content["categories"]
    used = any(x["category_id"] == first["id"] for x in content["annotations"])
    is_parent = all(x.get("supercategory") == first["name"] for x in others)
    if others and not used and first["id"] == 0 and is_parent:
        return others
    return content["categories"]


def _number_images(content: dict[str, Any]) -> None:
    numbers: dict[Any, int] = {}
    for image in content["images"]:
        image["id"] = numbers.setdefault(image["id"], len(numbers) + 1)
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        # Of no image: as a text it cannot become the number of one.
        annotation["image_id"] = numbers.get(image_id, str(image_id))


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
