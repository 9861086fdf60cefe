"""Finding YOLO annotations: one text file for each image, and a file that names the classes."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from d2detr.datasets.auto.faults import Faults
from d2detr.datasets.auto.tree import IMAGE_SUFFIXES, SPLITS, Source, Tree, split_of_parts
from d2detr.datasets.auto.yolo_labels import find_label_file, label_file_of, looks_like_labels, read
from d2detr.datasets.text_files import read_text
from d2detr.errors import UserError

logger = logging.getLogger(__name__)

FORMAT = "YOLO"
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# One class a line, in the order of their ids: of labelImg and Label Studio, Darknet, and Roboflow.
_CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels")


def find_yolo(tree: Tree) -> list[Source]:
    """Find every data.yaml, which is any YAML file with class names and the place of a split.

    Where there is none, find images with labels below a list of classes.

    Raises:
        UserError: a data.yaml cannot be read, or names places without images.
    """
    files = tree.with_suffix(".yaml", ".yml")
    described = [source for path in files for source in yolo_sources(path, tree)]
    return described or _listed_sources(tree)


def yolo_sources(path: str, tree: Tree) -> list[Source]:
    """Describe the splits that a YAML file names; none if it is of another kind.

    Raises:
        UserError: see :func:`find_yolo`.
    """
    description = _load(path)
    if description is None:
        return []
    class_names = _class_names(path, description["names"])
    skips_unlabelled = str(description.get("skip_if_label_file_missing")).lower() in ("true", "1")
    sources, faults = [], Faults()
    for split in SPLITS:
        images = _images_of_split(path, description, split, tree, faults)
        if images:
            sources.append(_source(split, path, class_names, images, skips_unlabelled))
    faults.reject(path)
    return sources


def suggest_description(tree: Tree) -> str:
    """Return the data.yaml to write where labels lack one, as a sentence; "" if there are none."""
    by_split = _labelled_images(tree)
    if not by_split:
        return ""
    images = [image for images in by_split.values() for image in images]
    ids = looks_like_labels(label_file_of(image) for image in images)
    if ids is None:
        return ""
    folders: dict[str, set[str]] = defaultdict(set)
    for split, images in by_split.items():
        folders[split or "train"] |= {
            os.path.relpath(os.path.dirname(x), tree.root) for x in images
        }
    places = "".join(f"\n{split}: [{', '.join(sorted(x))}]" for split, x in folders.items())
    names = "".join(f"\n  {class_id}: NAME" for class_id in sorted(ids))
    return (
        f" It has YOLO labels, but nothing names their classes. Write {tree.root}/data.yaml with "
        f"these lines, a name in place of each NAME:{places}\nnames:{names}"
    )


def _source(
    split: str | None,
    origin: str,
    class_names: dict[int, str],
    images: list[str],
    skips_unlabelled: bool = False,
) -> Source:
    labels = {image: find_label_file(image) for image in images}
    inputs = [origin, *images, *filter(None, labels.values())]
    return Source(
        FORMAT, split, origin, inputs, partial(read, origin, class_names, labels, skips_unlabelled)
    )


def _load(path: str) -> dict[str, Any] | None:
    """Return the content of a file that describes a dataset, or None for any other.

    Every scalar is text, as it was written: classes may be called "no" or "1.0".

    Raises:
        UserError: it has the words of a description, but cannot be parsed.
    """
    keys = {key for keys in _KEYS.values() for key in keys}
    words = set(re.findall(rb"(\w+)['\"]?\s*:", _bytes_of(path).replace(b"\0", b"")))
    if b"names" not in words or not words & {key.encode() for key in keys}:
        return None
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path} is not valid YAML{where}: {problem}.") from None
    if isinstance(content, dict) and "names" in content and any(map(content.get, keys)):
        return content
    return None


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # such as a link that leads nowhere
        return b""


def _class_names(path: str, names: Any) -> dict[int, str]:
    """Return the name of each class id that label files may have."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: 'names' is {names!r}; it must list the classes.")
    class_names: dict[int, str] = {}
    for key, name in names.items():
        if not re.fullmatch(r"\d+", str(key)) or int(key) in class_names:
            raise UserError(
                f"{path}: 'names' has the key {key!r}; keys must be the class ids of the label "
                "files, each of them once."
            )
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: the name of class {key} in 'names' is {name!r}.")
        class_names[int(key)] = name
    return class_names


def _images_of_split(
    path: str, description: dict[str, Any], split: str, tree: Tree, faults: Faults
) -> list[str]:
    """Return the images of a split: below a folder, in several ones, or listed in a text file."""
    key = next((key for key in _KEYS[split] if description.get(key)), None)
    places = description[key] if key else []
    base = str(description.get("path") or "")
    images: list[str] = []
    lacking: dict[str, Path | None] = {}
    for place in [places] if isinstance(places, str) else map(str, places):
        resolved = _resolve(path, base, place, tree)
        found = [] if resolved is None else _images_at(resolved, tree)
        images.extend(found)
        if not found:
            lacking[place] = resolved
    if lacking and not images and _was_not_exported(split, lacking, tree):
        logger.warning(
            f"{path}: there is no image where it says that those for {split} are, which is "
            f"{', '.join(lacking)}. It is read as if it did not say so."
        )
        return []
    for place in lacking:
        faults.add("places with no image (correct them or remove their lines)", f"{key}: {place}")
    return sorted(set(images))


def _was_not_exported(split: str, lacking: dict[str, Path | None], tree: Tree) -> bool:
    """Whether a data.yaml, like many of Roboflow's, names a split that was never there.

    A list of images or an empty folder tells of images that were there, and a folder that is
    called like the split tells that they are elsewhere.
    """
    if split == "test":  # nothing depends on it
        return True
    places_exist = any(lacking.values()) or any(Path(place).suffix for place in lacking)
    has_images = any(tree.split_of(folder) == split for folder in tree.image_folders)
    return split == "val" and not places_exist and not has_images


def _images_at(place: Path, tree: Tree) -> list[str]:
    if place.is_dir():
        inside = str(place) + os.sep
        known = tree if inside.startswith(tree.root + os.sep) else Tree(place)
        return [image for image in known.images if image.startswith(inside)]
    lines = [line.strip() for line in read_text(str(place)).splitlines()]
    return [
        str(_resolve(str(place), "", line, tree) or place.parent / line)
        for line in lines
        if Path(line).suffix.lower() in IMAGE_SUFFIXES
    ]


def _resolve(described_in: str, base: str, place: str, tree: Tree) -> Path | None:
    """Return where a place of a data.yaml is.

    Roboflow writes "../train/images" for the folder "train/images" beside the file, and other
    people's absolute paths arrive with a dataset: the ends of a path are tried beside the file, as
    far as they tell the same split. What lies in ``tree`` is preferred.
    """
    home = Path(described_in).parent
    parts = [part for part in Path(place).parts if part not in ("..", ".", os.sep)]
    tried = [home / base / place, home / place]
    ends = [parts[start:] for start in range(len(parts))]
    split = split_of_parts(parts)
    tried += [home.joinpath(*end) for end in ends if split_of_parts(end) == split]
    existing = [Path(os.path.normpath(x)) for x in tried if x.exists()]
    inside = [x for x in existing if x.is_relative_to(tree.root)]
    return next(iter(inside + existing), None)


def _labelled_images(tree: Tree) -> dict[str | None, list[str]]:
    """Return the images of each split in folders where at least one has a label file."""
    texts = set(tree.with_suffix(".txt"))
    folders = {os.path.dirname(image) for image in tree.images if label_file_of(image) in texts}
    by_split: dict[str | None, dict[str, str]] = defaultdict(dict)
    for image in tree.images:
        folder = os.path.dirname(image)
        if folder in folders:  # an image without labels shows no object
            by_split[tree.split_of(folder)].setdefault(os.path.realpath(image), image)
    return {split: sorted(images.values()) for split, images in by_split.items()}


def _listed_sources(tree: Tree) -> list[Source]:
    """Describe images with labels, where the classes are listed in a file of lines."""
    by_name = [x for files in tree.by_suffix.values() for x in files]
    lists = sorted(path for path in by_name if os.path.basename(path) in _CLASS_LISTS)
    by_split = _labelled_images(tree) if lists else {}
    if not by_split:
        return []
    contents = {path: [x.strip() for x in read_text(path).splitlines()] for path in lists}
    for path, lines in contents.items():
        while lines and not lines[-1]:
            lines.pop()
        if lines != contents[lists[0]]:
            raise UserError(
                f"{path} and {lists[0]} list other classes. All splits must have the same."
            )
    class_names = _class_names(lists[0], contents[lists[0]])
    return [_source(split, lists[0], class_names, images) for split, images in by_split.items()]
