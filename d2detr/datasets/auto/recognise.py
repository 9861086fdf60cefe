"""Telling what kind of dataset a folder holds, by what is in its files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from d2detr.datasets.auto.coco_json import Verdict, coco_source, find_coco
from d2detr.datasets.auto.tree import Source, Tree
from d2detr.datasets.auto.verdicts import judge_files
from d2detr.datasets.auto.voc import find_voc, unreadable_xml
from d2detr.datasets.auto.yolo import find_yolo, suggest_description, yolo_sources
from d2detr.datasets.places import require_existing
from d2detr.errors import UserError

_LOOKED_FOR = (
    "COCO JSON (a .json file with the lists 'images', 'annotations' and 'categories'), "
    "Pascal VOC (.xml files whose root is <annotation>), "
    "YOLO (.txt label files, and a .yaml file with 'names' and 'train' or 'val', or a classes.txt)"
)

logger = logging.getLogger(__name__)


def recognise(path: str) -> list[Source]:
    """Find the one dataset in a folder.

    Args:
        path: a folder, or a COCO JSON file or data.yaml in one.

    Returns:
        One source for each split.

    Raises:
        UserError: the path does not exist, or holds no dataset that is known, or several, or
            files of a split that cannot be used.
    """
    existing = require_existing(path, "Dataset").absolute()
    if existing.is_file():
        return _recognise_file(str(existing))
    tree = Tree(existing)
    verdicts = judge_files(tree.root, tree.with_suffix(".json"))
    found = [*find_coco(tree, verdicts), *find_voc(tree), *find_yolo(tree)]
    if not found:
        raise UserError(_nothing_found(path, tree, verdicts))
    # Links may lead to the same dataset several times.
    unlike: dict[tuple, Source] = {}
    for source in found:
        place = (source.format, source.split, os.path.realpath(source.origin))
        unlike.setdefault(place, source)
    sources = list(unlike.values())
    _check_passed_over(path, tree, verdicts, {source.split for source in sources})
    counts = Counter(source.split for source in sources)
    formats = {source.format for source in sources}
    if len(formats) > 1 or max(counts.values()) > 1:
        listed = "; ".join(f"{x.format} {x.origin} ({x.split or 'no split'})" for x in sources)
        raise UserError(
            f"{path} holds more than one dataset: {listed}. Give the path of the one that you "
            "mean; it may be that of a COCO JSON file or a data.yaml."
        )
    return sources


def _recognise_file(path: str) -> list[Source]:
    """Find the dataset that a file stands for, whatever lies beside it."""
    tree = Tree(os.path.dirname(path))
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        verdict = judge_files(path, [path])[path]
        if verdict.kind not in ("instances", "keypoints"):
            raise UserError(verdict.problem)
        return [coco_source(path, None, tree)]
    sources = yolo_sources(path, tree) if suffix in (".yaml", ".yml") else []
    if not sources:
        raise UserError(
            f"{path} is neither a COCO JSON file nor a data.yaml with 'names' and 'train' or "
            "'val'. Datasets of other kinds are given by their folder."
        )
    return sources


def _check_passed_over(
    path: str, tree: Tree, verdicts: Mapping[str, Verdict], splits: set[str | None]
) -> None:
    """Refuse a dataset without the training or validation images that another file may hold.

    Without them, those of another split would be divided.
    """
    unknown = {x: y.problem for x, y in verdicts.items() if y.kind == "unknown"}
    unparsable = {x: y.problem for x, y in verdicts.items() if y.kind == "unparsable"}
    unparsable |= unreadable_xml(tree)
    passed_over = unparsable | unknown
    lacking = {"train", "val"} - splits
    claims = [problem for file, problem in passed_over.items() if tree.split_of(file) in lacking]
    if claims:
        more = f" ({len(claims)} files are like this.)" if len(claims) > 1 else ""
        raise UserError(
            f"By its name a file in {path} belongs to a split that nothing else there has, but it "
            f"cannot be used: {claims[0]}{more} Mend it or move it elsewhere, or give the path of "
            "the file that you mean."
        )
    if unparsable:
        logger.warning(
            f"{len(unparsable)} JSON or XML files were passed over as no part of the dataset, "
            f"because they cannot be read. The first: {next(iter(unparsable.values()))}"
        )


def _nothing_found(path: str, tree: Tree, verdicts: Mapping[str, Verdict]) -> str:
    found = Counter({suffix or "(none)": len(files) for suffix, files in tree.by_suffix.items()})
    listed = ", ".join(f"{count} {suffix}" for suffix, count in found.most_common(5) if count)
    problems = [verdict.problem for verdict in verdicts.values()]
    refused = f" Of its JSON files {problems[0]}" if problems else ""
    return (
        f"{path} holds no dataset that is recognised. Looked for: {_LOOKED_FOR}. It holds "
        f"{listed or 'no file'}.{refused}{suggest_description(tree)}"
    )
