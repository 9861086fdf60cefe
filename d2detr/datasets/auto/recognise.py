"""Telling what kind of dataset a folder holds, by what is in its files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from d2detr.datasets.auto.coco_json import find_coco
from d2detr.datasets.auto.tree import Source, Tree
from d2detr.datasets.auto.voc import find_voc
from d2detr.datasets.auto.yolo import find_yolo, has_labels_without_yaml
from d2detr.datasets.places import require_existing
from d2detr.errors import UserError

_LOOKED_FOR = (
    "COCO JSON (a .json file with the lists 'images', 'annotations' and 'categories'), "
    "Pascal VOC (.xml files whose root is <annotation>), "
    "YOLO (a .yaml file with 'names' and 'train' or 'val', and .txt label files)"
)


def recognise(path: str) -> list[Source]:
    """Find the one dataset in a folder.

    Args:
        path: a folder, or a COCO JSON file or data.yaml in one.

    Returns:
        One source for each split.

    Raises:
        UserError: the path does not exist, or holds no dataset that is known, or several.
    """
    existing = require_existing(path, "Dataset")
    tree = Tree(existing if existing.is_dir() else existing.parent)
    sources = [*find_coco(tree), *find_voc(tree), *find_yolo(tree)]
    if existing.is_file():
        sources = [x for x in sources if Path(x.origin) == existing.absolute()]
        if len(sources) == 1:  # a file that was named is the whole dataset
            only = sources[0]
            return [Source(only.format, None, only.origin, only.inputs, only.read)]
    if not sources:
        raise UserError(_nothing_found(existing, tree))
    counts = Counter(source.split for source in sources)
    formats = {source.format for source in sources}
    if len(formats) > 1 or max(counts.values()) > 1:
        listed = ", ".join(sorted({f"{x.format} {x.origin}" for x in sources}))
        raise UserError(
            f"{path} holds more than one dataset: {listed}. Give the path of the one that you "
            "mean; it may be that of a COCO JSON file or a data.yaml."
        )
    return sources


def _nothing_found(path: Path, tree: Tree) -> str:
    found = Counter({suffix or "(none)": len(files) for suffix, files in tree.by_suffix.items()})
    listed = ", ".join(f"{count} {suffix}" for suffix, count in found.most_common(5) if count)
    hint = ""
    if has_labels_without_yaml(tree):
        hint = (
            " It has YOLO labels; add a data.yaml that names the classes, such as 'names: [cat, "
            "dog]', 'train: images/train' and 'val: images/val'."
        )
    return (
        f"{path} holds no dataset that is recognised. Looked for: {_LOOKED_FOR}. It holds "
        f"{listed or 'no file'}.{hint}"
    )
