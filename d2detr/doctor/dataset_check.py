"""The report on a dataset, asked for by path or name."""

from __future__ import annotations

import os
from dataclasses import replace

from detectron2.data import DatasetCatalog, MetadataCatalog

from d2detr.datasets.auto import PREFIX, register_auto_dataset
from d2detr.doctor.dataset_content import read_split
from d2detr.doctor.dataset_report import Report
from d2detr.doctor.examination import examine


def check_dataset(
    target: str,
    decode: bool = False,
    num_queries: int = 100,
    *,
    val: str | None = None,
    trains_masks: bool = False,
) -> Report:
    """Look for every fault that is known.

    Args:
        target: a folder, COCO JSON file or data.yaml; the name of a registered dataset; or
            ``auto:PATH:SPLIT``.
        decode: decode every image, instead of some of a large dataset.
        num_queries: how many objects the model can find in an image.
        val: the same for validation, if it is another dataset.
        trains_masks: whether a mask model is to be trained.

    Raises:
        UserError: there is no such dataset, or it cannot be read at all.
    """
    names = _datasets(target, val)
    splits = {}
    for split, name in names.items():
        role = "val" if split == val else split if split in ("val", "test") else "train"
        splits[split] = read_split(name, role)
    report = examine(
        splits,
        num_queries=num_queries,
        images="all" if decode else "sample",
        masks="train" if trains_masks else "look",
    )
    metadata = [MetadataCatalog.get(name) for name in names.values()]
    paths = [place for x in (target, val) if x for place in _places(x)]
    files = [x.json_file for x in metadata if x.get("json_file")]
    return replace(report, division=metadata[0].get("division"), inputs=(*paths, *files))


def _datasets(target: str, val: str | None) -> dict[str, str]:
    """Return the registered name of each split."""
    if not _is_name(target):
        names = register_auto_dataset(target, val)
        return {split: names[split] for split in ("train", "val", "test") if split in names}
    return {name: name for name in (target, val) if name}


def _is_name(target: str) -> bool:
    """Whether this is the name of a dataset, or was meant to be one, and no path."""
    is_registered = target.startswith(PREFIX) or target in DatasetCatalog
    return is_registered or (os.sep not in target and not os.path.exists(target))


def _places(target: str) -> list[str]:
    """Return the files and folders that a target names."""
    path = target.removeprefix(PREFIX)
    if target.startswith(PREFIX):
        path = path.rpartition(":")[0]
    whole = os.path.expanduser(path)
    parts = [whole] if os.path.exists(whole) else map(os.path.expanduser, path.split("+", 1))
    return [part for part in parts if os.path.exists(part)]
