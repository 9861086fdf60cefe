"""Finding and reading YOLO annotations: a data.yaml, and one text file for each image.

supervision's loader keeps boxes in float32 and turns polygons into bitmaps of the whole image, all
in memory at once; here polygons stay polygons.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from d2detr.datasets.auto.tree import IMAGE_SUFFIXES, SPLITS, Source, Tree
from d2detr.datasets.image_files import NUM_THREADS, displayed_size
from d2detr.errors import UserError

FORMAT = "YOLO"
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def find_yolo(tree: Tree) -> list[Source]:
    """Find every data.yaml, which is any YAML file with class names and the place of a split.

    Raises:
        UserError: there are label files, but no file that names the classes.
    """
    sources = []
    for path in tree.with_suffix(".yaml", ".yml"):
        description = _load(path)
        if description is None:
            continue
        found = False
        for split in SPLITS:
            images = _images_of_split(path, description, split, tree)
            if images:
                found = True
                inputs = [path, *images, *filter(os.path.isfile, map(_label_file, images))]
                read = partial(_read, path, _class_names(path, description), images)
                sources.append(Source(FORMAT, split, path, inputs, read))
        if not found:
            raise UserError(
                f"{path} describes a YOLO dataset, but there is no image where it says that "
                f"they are ({', '.join(str(description[k]) for k in _present(description))})."
            )
    return sources


def has_labels_without_yaml(tree: Tree) -> bool:
    """Whether text files in folders called "labels" look like those of YOLO."""
    labels = [x for x in tree.with_suffix(".txt") if "labels" in Path(x).parts]
    return bool(labels) and not tree.with_suffix(".yaml", ".yml")


def _load(path: str) -> dict[str, Any] | None:
    """Return the content of a file that describes a dataset, or None for any other."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    if isinstance(content, dict) and "names" in content and _present(content):
        return content
    return None


def _present(description: dict[str, Any]) -> list[str]:
    return [key for keys in _KEYS.values() for key in keys if description.get(key)]


def _class_names(path: str, description: dict[str, Any]) -> list[str]:
    names = description["names"]
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: 'names' is {names!r}; it must list the classes.")
    return [str(name) for name in names]


def _images_of_split(path: str, description: dict[str, Any], split: str, tree: Tree) -> list[str]:
    """Return the images of a split: below a folder, in several ones, or listed in a text file."""
    key = next((key for key in _KEYS[split] if description.get(key)), None)
    places = description[key] if key else []
    images: list[str] = []
    for place in [places] if isinstance(places, str) else places:
        resolved = _resolve(path, str(description.get("path") or ""), place)
        if resolved is not None and resolved.is_dir():
            inside = str(resolved) + os.sep
            images.extend(x for x in tree.images if x.startswith(inside))
        elif resolved is not None:
            lines = resolved.read_text().split("\n")
            images.extend(
                str(_resolve(path, str(resolved.parent), line.strip()) or resolved.parent / line)
                for line in lines
                if Path(line.strip()).suffix.lower() in IMAGE_SUFFIXES
            )
    return sorted(set(images))


def _resolve(yaml_file: str, base: str, place: str) -> Path | None:
    """Return where a place of a data.yaml is.

    Roboflow writes "../train/images" for the folder "train/images" beside the file, and other
    people's absolute paths arrive with a dataset: the ends of a path are tried beside the file.
    """
    home = Path(yaml_file).parent
    parts = [part for part in Path(place).parts if part not in ("..", ".", os.sep)]
    tried = [home / base / place, home / place]
    tried += [home.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((Path(os.path.normpath(x)) for x in tried if x.exists()), None)


def _label_file(image_file: str) -> str:
    stem, parts = os.path.splitext(image_file)[0], Path(image_file).parts
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            labels = os.path.join(*parts[:index], "labels", *parts[index + 1 : -1])
            return os.path.join(labels, os.path.basename(stem) + ".txt")
    return stem + ".txt"


def _read(yaml_file: str, class_names: list[str], image_files: list[str]) -> dict[str, Any]:
    with ThreadPoolExecutor(NUM_THREADS) as executor:
        sizes = list(executor.map(_size, image_files))
    images, annotations = [], []
    for image_id, (image_file, (width, height)) in enumerate(
        zip(image_files, sizes, strict=True), start=1
    ):
        image = {"id": image_id, "file_name": image_file, "width": width, "height": height}
        images.append(image)
        label_file = _label_file(image_file)
        if os.path.isfile(label_file):
            for number, line in enumerate(Path(label_file).read_text().splitlines(), start=1):
                if line.strip():
                    annotation = _annotation(line, (width, height), f"{label_file}:{number}")
                    annotation.update(id=len(annotations) + 1, image_id=image_id, iscrowd=0)
                    annotations.append(annotation)
    if not annotations:
        raise UserError(
            f"{yaml_file}: none of its {len(image_files)} images has a label file with an object; "
            f"that of {image_files[0]} is expected at {_label_file(image_files[0])}."
        )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _size(image_file: str) -> tuple[int, int]:
    try:
        with Image.open(image_file) as image:
            # The labels refer to the image as it is displayed, like those of the tools that write
            # them.
            return displayed_size(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"Image {image_file} cannot be read, so that nobody knows the size to which its YOLO "
            f"labels refer: {error}. Replace or remove it."
        ) from None


def _annotation(line: str, size: tuple[int, int], where: str) -> dict[str, Any]:
    """Return category, box and polygon, in pixels, of "class cx cy w h" or "class x y x y ..."."""
    try:
        label, *values = (float(word) for word in line.split())
    except ValueError:
        raise UserError(f"{where}: {line!r} holds something else than numbers.") from None
    if label != int(label) or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
        raise UserError(
            f"{where}: {line!r} is neither 'class x y width height' nor a class and a polygon."
        )
    scaled = [value * size[index % 2] for index, value in enumerate(values)]
    annotation: dict[str, Any] = {"category_id": int(label) + 1}
    if len(values) == 4:
        cx, cy, width, height = scaled
        x, y = cx - width / 2, cy - height / 2
    else:
        x, y = min(scaled[::2]), min(scaled[1::2])
        width, height = max(scaled[::2]) - x, max(scaled[1::2]) - y
        annotation["segmentation"] = [scaled]
    return annotation | {"bbox": [x, y, width, height], "area": width * height}
