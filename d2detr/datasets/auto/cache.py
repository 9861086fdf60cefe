"""Converted datasets on disk: one COCO file for each split, made again when the files change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock

from d2detr.datasets.auto.faults import run_all
from d2detr.datasets.auto.recognise import recognise
from d2detr.datasets.auto.splits import divide
from d2detr.datasets.auto.tree import Source
from d2detr.datasets.auto.verdicts import cache_folder, file_state
from d2detr.errors import UserError

# To be raised with every change of what is written.
VERSION = 2
_DESCRIPTION = "description.json"

logger = logging.getLogger(__name__)


def convert(path: str, val_path: str | None = None) -> dict[str, Any]:
    """Convert a dataset to COCO files, unless that has been done.

    The files are in the cache of iopath, which the environment variable FVCORE_CACHE moves.

    Args:
        path: see :func:`d2detr.datasets.auto.recognise.recognise`.
        val_path: where the images for validation are; None for the same dataset.

    Returns:
        "format" and "said", which describe the dataset in words, "categories" as in COCO files,
        and for each split "files", its COCO file, and "origins", what that was made from.

    Raises:
        UserError: see ``recognise`` and :func:`d2detr.datasets.auto.splits.divide`.
    """
    sources = recognise(path)
    val_sources = recognise(val_path) if val_path else []
    folder = cache_folder() / _fingerprint(sources, val_sources)
    description = folder / _DESCRIPTION
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(folder)):
            if not description.is_file():
                _write(folder, path, sources, val_path, val_sources)
    except OSError as error:
        raise UserError(
            f"The converted dataset cannot be written to {folder}: {error}. Set the environment "
            "variable FVCORE_CACHE to a folder that you can write to."
        ) from error
    return json.loads(description.read_text())


def _fingerprint(sources: list[Source], val_sources: list[Source]) -> str:
    digest = hashlib.sha256(str(VERSION).encode())
    for role, group in (("train", sources), ("val", val_sources)):
        for source in group:
            digest.update(repr((role, source)).encode())
            for file in source.inputs:
                digest.update(repr(file_state(file)).encode())
    return digest.hexdigest()[:24]


def _write(
    folder: Path,
    path: str,
    sources: list[Source],
    val_path: str | None,
    val_sources: list[Source],
) -> None:
    logger.info(f"Reading the {sources[0].format} dataset {path} ...")
    by_split = {source.split: source for source in sources}
    if val_path:
        train = by_split.get("train", sources[0])
        by_split = {"train": train, "val": _whole_or_val(val_sources)}
    contents = run_all(source.read for source in by_split.values())
    found = dict(zip(by_split, contents, strict=True))
    splits, said = divide(found)
    scratch = tempfile.mkdtemp(dir=folder.parent, prefix=".new-")
    try:
        files = {}
        for split, content in splits.items():
            Path(scratch, f"{split}.json").write_text(json.dumps(content))
            files[split] = str(folder / f"{split}.json")
        description = {
            "format": sources[0].format,
            "said": f"{val_path} is used for validation" if val_path else said,
            "categories": splits["train"]["categories"],
            "files": files,
            "origins": {split: by_split.get(split, sources[0]).origin for split in files},
        }
        Path(scratch, _DESCRIPTION).write_text(json.dumps(description))
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _whole_or_val(sources: list[Source]) -> Source:
    preferred = ("val", "test", None, "train")
    return min(sources, key=lambda source: preferred.index(source.split))
